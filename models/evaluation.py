"""Top-1 accuracy with its interval, over tensors or over any list of image files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from ..policies.errors import BadInputError
from ..policies.task import Evaluation, Preprocessing
from .bases import Base
from .engine import Engine, TorchEngine
from .patches.patch import Patch
from .preprocessing import decode_image, needed_side, to_input

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


def wilson(correct: int, n: int) -> Evaluation:
    """`correct` out of `n` with the 95 % score interval (Wilson 1927), which stays inside [0, 1] at small n."""
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"need 0 <= correct <= n and n >= 1, got {correct} of {n}")
    return _interval(correct / n, n, n)


def wilson_weighted(correct: int, weights: Tensor) -> Evaluation:
    """As `wilson`, where image i counts as `weights[i]` images (int64 [N]) and `correct` sums those answered rightly.

    The interval is that of as many equal images as tell as much: (sum of weights)^2 / sum of squares (Kish 1965).
    """
    total = int(weights.sum())
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= n and n >= 1, got {correct} of {total}")
    return _interval(correct / total, total * total / int(weights.square().sum()), len(weights))


def _interval(share: float, n: float, samples: int) -> Evaluation:
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # At the ends the interval touches the share exactly; rounding must not put it beyond.
    return Evaluation(accuracy=share, samples=samples, low=min(share, max(0.0, centre - half)),
                      high=max(share, min(1.0, centre + half)))  # fmt: skip


def evaluate(
    forward: Callable[[Tensor], Tensor],
    images: Tensor | Iterable[Tensor],
    labels: Sequence[int] | Tensor,
    batch_size: int = 32,
) -> Evaluation:
    """Top-1 of `forward` (batch to logits or probabilities), run without gradients.

    `images` is one tensor [N, 3, R, R], cut into batches here, or an iterable of batches; `labels` has one class
    index an image, in the same order. Raises ValueError when the counts differ. Modes (train, eval) are the caller's.
    """
    wanted = torch.as_tensor(labels)
    batches: Iterable[Tensor] = torch.split(images, batch_size) if isinstance(images, Tensor) else images
    correct = done = 0
    with torch.inference_mode():
        for batch in batches:
            answer = forward(batch).argmax(1).cpu()
            part = wanted[done : done + len(answer)]
            if len(part) != len(answer):
                raise ValueError(f"more than {done} images but only {len(wanted)} labels")
            correct += int((answer == part).sum())
            done += len(answer)
    if done != len(wanted):
        raise ValueError(f"{done} images but {len(wanted)} labels")
    return wilson(correct, done)


def top1(
    base: Base,
    items: Iterable[tuple[Path | str, int]],
    resolution: int,
    patch: Patch | None = None,
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 16,
    threads: int | None = None,
    engine: Engine | None = None,
) -> Evaluation:
    """Top-1 of `base` with `patch` on image files, given as (path, class index).

    Preprocessing is the patch's, else the default, unless given. Raises BadInputError naming the file that is no image.
    """
    if preprocessing is None:
        preprocessing = Preprocessing() if patch is None else patch.metadata.preprocessing
    pairs = [(Path(path), label) for path, label in items]
    if not pairs:
        raise BadInputError("There are no images to evaluate on.")
    engine = engine or TorchEngine(base, threads or torch.get_num_threads())
    batches = _batches((path for path, _ in pairs), resolution, preprocessing, batch_size)
    return evaluate(lambda batch: engine.run(batch, patch).logits, batches, [label for _, label in pairs])


def _batches(paths: Iterable[Path], resolution: int, pre: Preprocessing, batch_size: int) -> Iterator[Tensor]:
    inputs = (_read(path, resolution, pre) for path in paths)
    while batch := list(islice(inputs, batch_size)):
        yield torch.stack(batch)


def _read(path: Path, resolution: int, pre: Preprocessing) -> Tensor:
    try:
        image = decode_image(path.read_bytes(), needed_side=needed_side(resolution, pre))
    except OSError as error:
        raise BadInputError(f"The image {path} cannot be read: {error.strerror}.") from error
    except BadInputError as error:
        raise BadInputError(f"{path}: {error.message}", hint=error.hint) from error
    return to_input(image, resolution, pre)
