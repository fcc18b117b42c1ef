"""The inference worker: `python -m patchd.daemon.workers.inference --fd N`.

Some threads take requests off the socket, decode and resize; the main thread gathers what is ready into batches and
runs them. Each request names its rung in full, so the worker may be ended and started again at any moment.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from threading import Thread

import torch

from ...models.bases import Base
from ...models.engine import Engine, TorchEngine
from ...models.graph_cache import GraphCache
from ...models.openvino_engine import OpenVinoEngine, Precision
from ...models.patches.patch import load_patch
from ...models.preprocessing import decode_image
from ...policies.batching import Waiting, expired, next_batch
from ...policies.errors import BadInputError, DeadlineError, PatchdError, PatchMismatchError, StateError
from . import protocol
from .audits import Audits
from .channel import Channel
from .inputs import Prepared, prepare, prepare_further
from .intake import Intake
from .library import Library
from .lifetime import tie_to_parent
from .passing import Answered, Ready
from .profiling import Taken, cost, timed
from .protocol import (
    CheckImage,
    CheckPatch,
    ImageChecked,
    InferRequest,
    Message,
    Note,
    PatchChecked,
    ProfileRequest,
    ProfileResult,
    StageRef,
    WorkerError,
)

MOST_TOGETHER = 8  # images of a batch: more make the last one wait and win nothing on few processors
MOST_READERS = 4
AUDIT_IDLE_S = 0.1  # without anything to do before a rung is run for an audit


@dataclass(frozen=True, slots=True)
class _GoneOn:
    """A request that comes to its cascade's next stage; None where that failed, which has been answered."""

    ready: Ready | None


class InferenceWorker:
    """Answers requests on one channel until it is told to stop or the other end is gone."""

    def __init__(
        self,
        channel: Channel,
        make_engine: Callable[[Base], Engine],
        name: str,
        remarks: Sequence[str] = (),
        readers: int = 1,
        versions: Path | None = None,
    ) -> None:
        """`make_engine` makes the engine called `name` for a base; `remarks` are told once, about the choice.

        `versions` is the folder of base versions.
        """
        self._channel, self._engine_name, self._remarks = channel, name, remarks
        self._library = Library(make_engine, versions)
        self._intake: Intake[Ready | ProfileRequest | _GoneOn] = Intake(channel, self._handle, readers)
        self._further = ThreadPoolExecutor(readers, "stages")  # prepares what goes on to a cascade's next stage
        self._going_on = 0
        self._audits = Audits(self._library, channel)
        self._ids = itertools.count()
        self._waiting: dict[int, tuple[Waiting, Ready]] = {}
        self._turns: Mapping[str, int] = {}
        self._told: set[str] = set()
        self._profiles: deque[tuple[ProfileRequest, Iterator[None]]] = deque()

    def serve(self) -> None:
        """Send `Ready`, then answer until told to stop, what is in hand included."""
        self._channel.send(protocol.Ready(engine=self._engine_name))
        for remark in self._remarks:
            self._channel.send(Note(message=remark))
        self._intake.start()
        timeout_s: float | None = None
        while not (self._intake.cut or (self._intake.closed and not self._in_hand)):
            idle = True
            for work in self._intake.take(timeout_s):
                idle = False
                self._accept(work)
            timeout_s = self._run_next()
            if self._profiles:
                self._profile_on()
                timeout_s = 0.0
            elif timeout_s is None and self._audits.due:  # nothing waits
                if idle:
                    self._audits.run_one()
                timeout_s = AUDIT_IDLE_S
            self._tell()
        self._further.shutdown(wait=False, cancel_futures=True)
        self._intake.check()

    @property
    def _in_hand(self) -> bool:
        """Whether there is anything yet to be answered."""
        return bool(self._waiting or self._going_on or self._profiles)

    # beside the networks, in the intake's threads

    def _handle(self, message: Message, payload: bytes) -> Ready | ProfileRequest | None:
        if isinstance(message, ProfileRequest):
            Thread(target=self._warm, args=(message,), name="warm").start()
            return None
        try:
            if isinstance(message, InferRequest):
                return self._made_ready(message, payload)
            if isinstance(message, CheckPatch):
                load_patch(Path(message.patch_file), self._library.base(message.base)[0])
                self._channel.send(PatchChecked(id=message.id))
                return None
            if isinstance(message, CheckImage):
                decode_image(payload, message.max_pixels, needed_side=1)
                self._channel.send(ImageChecked(id=message.id))
                return None
            raise BadInputError(f"The inference worker does not know messages of type '{message.type}'.")
        except Exception as error:
            self._fail(getattr(message, "id", 0), error)
            return None

    def _warm(self, request: ProfileRequest) -> None:
        """Have compiled in a thread of its own what the runs to be timed need: it takes as long as many requests."""
        try:
            _, engine = self._library.base(request.base)
            for resolution in request.resolutions:
                engine.warm(resolution)
        except Exception as error:
            self._fail(request.id, error)
            return
        self._intake.put(request)

    def _made_ready(self, request: InferRequest, payload: bytes) -> Ready:
        return self._with_patch(request, prepare(request, payload), time.monotonic(), ())

    def _with_patch(
        self, request: InferRequest, prepared: Prepared, arrived_s: float, earlier: tuple[Answered, ...]
    ) -> Ready:
        rung = prepared.rung
        base, engine = self._library.base(rung.base)
        loading = time.perf_counter()
        patch = self._library.patch(rung)
        if patch is None and base.classes != rung.labels:
            raise PatchMismatchError(
                f"Base '{rung.base}' answers {base.classes} classes without a patch; task '{rung.task}' has "
                f"{rung.labels}.",
                hint="Train a patch with a head for this task.",
            )
        bind_ms = (time.perf_counter() - loading) * 1e3
        return Ready(request, prepared, patch, engine, arrived_s, bind_ms, earlier)

    def _made_further(self, ready: Ready, said: Answered, stage: StageRef) -> None:
        """Prepare an image for its cascade's next stage."""
        try:
            prepared = prepare_further(ready.prepared, stage.rung)
            further = self._with_patch(ready.request, prepared, ready.arrived_s, (*ready.earlier, said))
            self._intake.put(_GoneOn(further))
        except Exception as error:
            self._fail(ready.request.id, error)
            self._intake.put(_GoneOn(None))

    def _fail(self, identity: int, error: Exception) -> None:
        """Answer one request with its error; one request's defect must not take the others down."""
        if isinstance(error, BrokenPipeError | ConnectionResetError):
            raise error
        if isinstance(error, PatchdError):
            answer = WorkerError(id=identity, code=error.code, message=error.message, hint=error.hint)
        else:
            answer = WorkerError(id=identity, code="internal", message=f"{type(error).__name__}: {error}")
        self._channel.send(answer)

    # the networks, in the main thread

    def _accept(self, work: Ready | ProfileRequest | _GoneOn) -> None:
        if isinstance(work, ProfileRequest):
            self._profiles.append((work, self._profile(work)))
            return
        if isinstance(work, _GoneOn):
            self._going_on -= 1
            if work.ready is None:
                return
            work = work.ready
        identity = next(self._ids)
        self._waiting[identity] = work.waiting(identity), work

    def _run_next(self) -> float | None:
        """Run the batch that is due, if any; the seconds until the next one may be, None without any waiting."""
        now = time.monotonic()
        waiting = [each for each, _ in self._waiting.values()]
        for identity in expired(waiting, now):
            _, late = self._waiting.pop(identity)
            if late.earlier:
                self._channel.send(late.in_hand())
            else:
                self._fail(late.request.id, DeadlineError("The deadline passed before the prediction's turn came."))
        if not self._waiting:
            return None
        rushed = math.inf if self._intake.closed else now  # nothing more will come that could be waited for
        batch = next_batch([each for each, _ in self._waiting.values()], self._turns, rushed, MOST_TOGETHER)
        self._turns = batch.turns
        if batch.members:
            self._run([self._waiting.pop(identity)[1] for identity in batch.members])
            return 0.0 if self._waiting else None
        return None if batch.wait_until_s is None else max(0.0, batch.wait_until_s - time.monotonic())

    def _run(self, batch: Sequence[Ready]) -> None:
        engine = batch[0].engine
        try:
            engine.use_threads(max(ready.request.threads for ready in batch))
            run = engine.run_mixed(
                torch.stack([ready.prepared.inputs for ready in batch]), [ready.patch for ready in batch]
            )
        except Exception as error:
            if len(batch) == 1:
                self._fail(batch[0].request.id, error)
                return
            for ready in batch:  # one of them is to blame: the others shall have their answers
                self._run([ready])
            return
        for ready, logits, name in zip(batch, run.logits, run.engines, strict=True):
            said = ready.answered(logits, name, len(batch), run.bind_ms, run.network_ms)
            stage = ready.next_stage
            if stage is not None and ready.goes_on(said):
                self._going_on += 1
                self._further.submit(self._made_further, ready, said, stage)
            else:
                self._channel.send(ready.result(said))
                self._audits.add(ready, said)

    def _tell(self) -> None:
        """Say once what the fast engine would not run, and why."""
        for engine in self._library.engines():
            for remark in engine.remarks:
                if remark not in self._told:
                    self._told.add(remark)
                    self._channel.send(Note(message=remark))

    def _profile_on(self) -> None:
        """One step of the oldest profile; batches come between the steps, so that no request waits long."""
        request, steps = self._profiles[0]
        try:
            next(steps)
        except StopIteration:
            self._profiles.popleft()
        except Exception as error:
            self._profiles.popleft()
            self._fail(request.id, error)

    def _profile(self, request: ProfileRequest) -> Iterator[None]:
        """Measure step by step, then send the result."""
        _, engine = self._library.base(request.base)
        taken: dict[int, list[Taken]] = {resolution: [] for resolution in request.resolutions}
        for _ in timed(engine, request.threads, taken, max(1, request.repeats)):
            yield
        costs = tuple(cost(resolution, runs) for resolution, runs in taken.items())
        self._channel.send(
            ProfileResult(id=request.id, base=request.base, engine=engine.name, threads=engine.threads, costs=costs)
        )


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
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="numbers that openvino computes in")
    parser.add_argument("--graphs", type=Path, help="folder that keeps compiled graphs")
    parser.add_argument("--versions", type=Path, help="folder of base versions")
    parser.add_argument("--threads", type=int, default=1, help="threads of an engine that keeps its own")
    options = parser.parse_args(argv)
    tie_to_parent(options.parent)
    name, remark = choose_engine(options.engine)
    remarks = [] if remark is None else [remark]
    most, precision = max(1, options.threads), options.precision
    cache = None if name == TorchEngine.name else _graph_cache(options.graphs, remarks)

    def make(base: Base) -> Engine:
        return TorchEngine(base) if name == TorchEngine.name else _openvino(base, most, precision, cache)

    try:
        channel = Channel.from_fd(options.fd)
        InferenceWorker(channel, make, name, remarks, min(MOST_READERS, most), options.versions).serve()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the control plane is gone, and with it the reason to run
    return 0


def _openvino(base: Base, threads: int, precision: Precision, cache: GraphCache | None) -> Engine:
    return OpenVinoEngine(base, threads, precision=precision, cache=cache)


def _graph_cache(folder: Path | None, remarks: list[str]) -> GraphCache | None:
    """The cache of compiled graphs; without one the engine compiles at each start, which is said."""
    try:
        return None if folder is None else GraphCache(folder)
    except StateError as error:
        remarks.append(f"Compiled graphs are not kept: {error.message}")
        return None


if __name__ == "__main__":
    sys.exit(main())
