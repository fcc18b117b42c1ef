"""The inference worker: `python -m patchd.daemon.workers.inference --fd N`.

One process, one request at a time, in order. It keeps each base loaded once, and the patches used last. Each request
names its rung in full, so the worker may be ended and started again at any moment.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...models.bases import Base, load_base
from ...models.engine import Engine, TorchEngine
from ...models.openvino_engine import OpenVinoEngine
from ...models.patches.patch import Patch, load_patch
from ...models.preprocessing import decode_opened, needed_side, open_image, to_input
from ...policies.errors import BadInputError, PatchdError, PatchMismatchError, TooLargeError
from ...policies.task import Preprocessing
from .channel import Channel
from .lifetime import tie_to_parent
from .protocol import (
    CheckPatch,
    InferRequest,
    InferResult,
    Message,
    Note,
    PatchChecked,
    ProfileRequest,
    ProfileResult,
    Ready,
    RungCost,
    RungRef,
    Stop,
    Timing,
    WorkerError,
)

PATCHES_KEPT = 64  # a scale-and-bias patch of Lite0 is 0.3 MB, so this is some 20 MB
PROFILE_IMAGE = (256, 256)  # width, height in pixels; a photograph of usual data sets after decoding
PROFILE_WARM_UPS = 2  # torch picks its kernels during the first runs of a shape


class PatchCache:
    """The patches used last, checked against their base when they were loaded."""

    def __init__(self, capacity: int = PATCHES_KEPT) -> None:
        self._capacity = capacity
        self._patches: OrderedDict[tuple[str, str | None, str], Patch] = OrderedDict()

    def get(self, rung: RungRef, base: Base) -> Patch | None:
        """The rung's patch, None for a rung without one. Raises NotFoundError or PatchMismatchError."""
        if rung.patch_file is None:
            return None
        key = (rung.patch_file, rung.patch_id, rung.base)
        patch = self._patches.get(key)
        if patch is None:
            patch = self._patches[key] = self._load(rung, base)
            while len(self._patches) > self._capacity:
                self._patches.popitem(last=False)
        self._patches.move_to_end(key)
        return patch

    def __len__(self) -> int:
        return len(self._patches)

    @staticmethod
    def _load(rung: RungRef, base: Base) -> Patch:
        path = Path(str(rung.patch_file))
        patch = load_patch(path, base)
        if len(patch.metadata.labels) != rung.labels:
            raise PatchMismatchError(
                f"The patch {path.name} answers {len(patch.metadata.labels)} classes; "
                f"task '{rung.task}' has {rung.labels}."
            )
        return patch


class InferenceWorker:
    """Answers requests on one channel until it is told to stop or the other end is gone."""

    def __init__(self, channel: Channel, make_engine: Callable[[Base], Engine], name: str, remark: str | None) -> None:
        """`make_engine` makes the engine called `name` for a base; `remark` is told once, about the choice."""
        self._channel = channel
        self._make_engine, self._engine_name, self._remark = make_engine, name, remark
        self._told: set[str] = set()
        self._bases: dict[str, tuple[Base, Engine]] = {}
        self._patches = PatchCache()

    def serve(self) -> None:
        """Send `Ready`, then answer requests in the order they come."""
        self._channel.send(Ready(engine=self._engine_name))
        if self._remark is not None:
            self._channel.send(Note(message=self._remark))
        while (frame := self._channel.receive()) is not None:
            message, payload = frame
            if isinstance(message, Stop):
                return
            self._channel.send(self._answer(message, payload))
            self._tell_refusals()

    def _answer(self, message: Message, payload: bytes) -> Message:
        identity = getattr(message, "id", 0)
        try:
            if isinstance(message, InferRequest):
                return self._infer(message, payload)
            if isinstance(message, ProfileRequest):
                return self._profile(message)
            if isinstance(message, CheckPatch):
                load_patch(Path(message.patch_file), self._base(message.base)[0])
                return PatchChecked(id=message.id)
            raise BadInputError(f"The inference worker does not know messages of type '{message.type}'.")
        except PatchdError as error:
            return WorkerError(id=identity, code=error.code, message=error.message, hint=error.hint)
        except Exception as error:  # one request's defect must not take the others down
            return WorkerError(id=identity, code="internal", message=f"{type(error).__name__}: {error}")

    def _tell_refusals(self) -> None:
        """Say once what the fast engine would not run, and why."""
        for _, engine in self._bases.values():
            for refusal in engine.refused.values():
                if refusal not in self._told:
                    self._told.add(refusal)
                    self._channel.send(Note(message=refusal))

    def _base(self, name: str) -> tuple[Base, Engine]:
        if name not in self._bases:
            base = load_base(name)
            self._bases[name] = base, self._make_engine(base)
        return self._bases[name]

    def _infer(self, request: InferRequest, payload: bytes) -> InferResult:
        rung = request.rung
        base, engine = self._base(rung.base)
        engine.use_threads(request.threads)
        loading = time.perf_counter()
        patch = self._patches.get(rung, base)
        loaded = time.perf_counter()
        inputs, size, decode_ms, preprocess_ms = _inputs(request, payload)
        run = engine.run(inputs.unsqueeze(0), patch)
        probabilities = run.logits[0].softmax(0)
        if len(probabilities) != rung.labels:
            raise PatchMismatchError(
                f"Base '{rung.base}' answers {len(probabilities)} classes without a patch; "
                f"task '{rung.task}' has {rung.labels}.",
                hint="Train a patch with a head for this task.",
            )
        best = probabilities.topk(max(1, min(request.top_k, rung.labels)))
        return InferResult(
            id=request.id,
            indices=tuple(best.indices.tolist()),
            probabilities=tuple(best.values.tolist()),
            timing=Timing(
                decode_ms=decode_ms,
                preprocess_ms=preprocess_ms,
                bind_ms=(loaded - loading) * 1e3 + run.bind_ms,
                network_ms=run.network_ms,
            ),
            engine=run.engine,
            image_size=size,
        )

    def _profile(self, request: ProfileRequest) -> ProfileResult:
        _, engine = self._base(request.base)
        engine.use_threads(request.threads)
        generator = np.random.default_rng(0)
        width, height = PROFILE_IMAGE
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")
        costs = _costs(engine, image, request.resolutions, max(1, request.repeats))
        return ProfileResult(id=request.id, base=request.base, engine=engine.name, threads=engine.threads, costs=costs)


def _costs(engine: Engine, image: Image.Image, resolutions: Sequence[int], repeats: int) -> tuple[RungCost, ...]:
    """Time resize, normalise and network of one decoded image at each resolution, after warming up.

    The resolutions take turns, so that a burst of other work falls on all of them and not on one. The first run of a
    turn is not counted: it finds the caches full of another resolution's filters.
    """
    times: dict[int, list[float]] = {resolution: [] for resolution in resolutions}
    for turn in range(PROFILE_WARM_UPS + repeats):
        for resolution, taken in times.items():
            for counted in (False, True):
                start = time.perf_counter()
                engine.predict(to_input(image, resolution, Preprocessing()).unsqueeze(0))
                if counted and turn >= PROFILE_WARM_UPS:
                    taken.append((time.perf_counter() - start) * 1e3)
    ninetieth = math.ceil(0.9 * repeats) - 1
    return tuple(
        RungCost(resolution=resolution, median_ms=median(taken), p90_ms=sorted(taken)[ninetieth], repeats=repeats)
        for resolution, taken in times.items()
    )


def _inputs(request: InferRequest, payload: bytes) -> tuple[Tensor, tuple[int, int] | None, float, float]:
    """The network's input [3, R, R], the image's (width, height) as sent, and decode and preprocess milliseconds."""
    resolution, pre = request.rung.resolution, request.rung.preprocessing
    start = time.perf_counter()
    if request.form == "input":
        tensor = _tensor(request.shape, payload, resolution)
        return tensor, None, 0.0, (time.perf_counter() - start) * 1e3
    if request.form == "pixels":
        image: Image.Image = _pixels(request.shape, payload, request.max_pixels)
        size = image.size
    else:
        opened = open_image(payload, request.max_pixels)
        size = opened.size
        image = decode_opened(opened, needed_side=needed_side(resolution, pre))
    decoded = time.perf_counter()
    tensor = to_input(image, resolution, pre)
    return tensor, size, (decoded - start) * 1e3, (time.perf_counter() - decoded) * 1e3


def _tensor(shape: tuple[int, ...], payload: bytes, resolution: int) -> Tensor:
    """An input that the caller has preprocessed: FP32 [3, R, R] or [1, 3, R, R]."""
    expected = (3, resolution, resolution)
    if shape not in (expected, (1, *expected)):
        raise BadInputError(
            f"The input tensor has shape {list(shape)}; this rung takes FP32 {list(expected)}.",
            hint="Send pixels or an encoded image to have it resized.",
        )
    _check_length(shape, payload, 4)
    array = np.frombuffer(payload, dtype="<f4").reshape(expected)
    if not bool(np.isfinite(array).all()):
        raise BadInputError("The input tensor holds values that are not finite.")
    return torch.from_numpy(array.astype(np.float32, copy=True))


def _pixels(shape: tuple[int, ...], payload: bytes, max_pixels: int) -> Image.Image:
    """Decoded RGB pixels: UINT8 [H, W, 3]."""
    if len(shape) != 3 or shape[2] != 3 or min(shape) < 1:
        raise BadInputError(f"The pixels have shape {list(shape)}; UINT8 [H, W, 3] is needed.")
    _check_length(shape, payload, 1)
    if shape[0] * shape[1] > max_pixels:
        raise TooLargeError(
            f"The pixels are {shape[0] * shape[1] / 1e6:.1f} megapixels; at most {max_pixels / 1e6:.1f} are accepted."
        )
    return Image.fromarray(np.frombuffer(payload, dtype=np.uint8).reshape(shape), "RGB")


def _check_length(shape: tuple[int, ...], payload: bytes, item: int) -> None:
    expected = math.prod(shape) * item
    if len(payload) != expected:
        raise BadInputError(f"Shape {list(shape)} needs {expected} bytes; {len(payload)} were sent.")


def choose_engine(asked: str) -> tuple[str, str | None]:
    """The engine to use, and what to say about it: for `auto` OpenVINO where it can be loaded, else the reference."""
    if asked != "auto" or find_spec("openvino") is None:
        return TorchEngine.name if asked == "auto" else asked, None
    try:
        import_module("openvino")
    except (ImportError, OSError) as error:
        return TorchEngine.name, f"OpenVINO is installed but cannot be loaded ({error}), so torch runs predictions."
    return OpenVinoEngine.name, None


def main(argv: Sequence[str] | None = None) -> int:
    """Serve on the inherited socket `--fd`. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="patchd-inference-worker", description="Runs predictions for patchd.")
    parser.add_argument("--fd", type=int, required=True, help="connected stream socket, inherited")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to die with")
    parser.add_argument("--engine", choices=("auto", "torch", "openvino"), default="auto", help="what runs networks")
    parser.add_argument("--threads", type=int, default=1, help="threads of an engine that keeps its own")
    options = parser.parse_args(argv)
    tie_to_parent(options.parent)
    name, remark = choose_engine(options.engine)
    most = max(1, options.threads)

    def make(base: Base) -> Engine:
        return TorchEngine(base) if name == TorchEngine.name else OpenVinoEngine(base, most)

    try:
        InferenceWorker(Channel.from_fd(options.fd), make, name, remark).serve()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the control plane is gone, and with it the reason to run
    return 0


if __name__ == "__main__":
    sys.exit(main())
