"""From a request's payload to the network's input, and to the rung that it goes to."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...models.preprocessing import decode_opened, needed_side, open_image, to_input
from ...policies.domain import nearest_rung
from ...policies.errors import BadInputError, TooLargeError
from .protocol import InferRequest, RungRef


@dataclass(frozen=True, slots=True)
class Prepared:
    """A network input [3, R, R] for `rung`, the image's (width, height) as sent, and milliseconds.

    `image` is the decoded image where other rungs may need it: further stages of a cascade, or an audit.
    """

    rung: RungRef
    inputs: Tensor
    image_size: tuple[int, int] | None
    decode_ms: float
    preprocess_ms: float
    image: Image.Image | None = None
    in_cascade: bool = False
    made: Mapping[int, Tensor] = field(default_factory=dict)  # the inputs by resolution, for the stages that share one


def prepare(request: InferRequest, payload: bytes) -> Prepared:
    """Read, decode and resize what was sent. Raises BadInputError or TooLargeError."""
    start = time.perf_counter()
    if request.form == "input":
        tensor = _tensor(request.shape, payload, request.rung.resolution)
        return Prepared(request.rung, tensor, None, 0.0, (time.perf_counter() - start) * 1e3)
    if request.form == "pixels":
        image: Image.Image = _pixels(request.shape, payload, request.max_pixels)
        size = image.size
        rungs = _by_domain(request, size)
    else:
        opened = open_image(payload, request.max_pixels)
        size = opened.size
        rungs = _by_domain(request, size)
        audit = request.audit if _passes(request, rungs) else ()
        needed = max(needed_side(rung.resolution, rung.preprocessing) for rung in (*rungs, *audit))
        image = decode_opened(opened, needed_side=needed)
    decoded = time.perf_counter()
    tensor = to_input(image, rungs[0].resolution, rungs[0].preprocessing)
    in_cascade = bool(request.stages) and rungs[0] is request.stages[0].rung
    return Prepared(
        rung=rungs[0],
        inputs=tensor,
        image_size=size,
        decode_ms=(decoded - start) * 1e3,
        preprocess_ms=(time.perf_counter() - decoded) * 1e3,
        image=image if in_cascade or (request.audit and _passes(request, rungs)) else None,
        in_cascade=in_cascade,
        made={rungs[0].resolution: tensor},
    )


def prepare_further(before: Prepared, rung: RungRef) -> Prepared:
    """The same image for another rung of its task; the bases share what was resized for them."""
    assert before.image is not None
    start = time.perf_counter()
    tensor = before.made.get(rung.resolution)
    if tensor is None:
        tensor = to_input(before.image, rung.resolution, rung.preprocessing)
    return replace(
        before,
        rung=rung,
        inputs=tensor,
        decode_ms=0.0,
        preprocess_ms=(time.perf_counter() - start) * 1e3,
        made={**before.made, rung.resolution: tensor},
    )


def _by_domain(request: InferRequest, size: tuple[int, int]) -> tuple[RungRef, ...]:
    """The rung for an image of this size, before a pixel of it is decoded; with a cascade, those of all its stages."""
    rungs = {rung.resolution: rung for rung in (*request.smaller, request.rung)}
    chosen = rungs[nearest_rung(*size, tuple(rungs), request.rung.resolution)]
    if chosen is request.rung and request.stages:
        return tuple(stage.rung for stage in request.stages)
    return (chosen,)


def _passes(request: InferRequest, rungs: tuple[RungRef, ...]) -> bool:
    """Whether an image that goes to `rungs` passes a cascade, or would if there were one.

    What goes to a smaller rung tells nothing of a cascade and is not audited.
    """
    return len(rungs) > 1 or rungs[0] is request.rung or rungs == tuple(stage.rung for stage in request.stages)


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
