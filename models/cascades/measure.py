"""Running every rung on every calibration image: each image is decoded once, as it is when predictions are served."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ...policies.cascade import RungId
from ...policies.errors import BadInputError, DataSetError
from ...policies.task import Preprocessing
from ..datasets import Sample
from ..engine import Engine
from ..patches.patch import Patch
from ..preprocessing import needed_side, to_input
from .features import FEATURES, read_logits
from .table import ScoreTable

BATCH = 8  # images that are decoded and run together
DISPATCH_REPEATS = 50


@dataclass(frozen=True, eq=False)
class Runnable:
    """A rung with what runs it."""

    rung: RungId
    engine: Engine
    patch: Patch | None
    preprocessing: Preprocessing

    @property
    def needed_side(self) -> int:
        """The short side, in pixels, that an image needs for it."""
        return needed_side(self.rung.resolution, self.preprocessing)


@dataclass(frozen=True, eq=False)
class Measured:
    """What the rungs said, and the milliseconds that every input pays whatever its stages are."""

    table: ScoreTable
    decode_ms: float | None  # median over the images, at the size that the largest rung needs; None without images


def measure(
    samples: Sequence[Sample],
    rungs: Sequence[Runnable],
    labelled: bool,
    report: Callable[[int], None],
    passes: Callable[[Image.Image], bool] = lambda _: True,
) -> Measured:
    """The table of all `rungs` on those of `samples` that pass the cascade; `report` hears how many are done.

    `passes` is given each image as decoded: never smaller than the largest rung needs unless it was sent smaller.
    Raises BadInputError where no sample is left, DataSetError naming an image that cannot be used.
    """
    if not samples:
        raise BadInputError("There are no images to calibrate on.")
    n, m = len(samples), len(rungs)
    answers, features = np.empty((n, m), np.int32), np.empty((n, m, len(FEATURES)), np.float32)
    side = max(each.needed_side for each in rungs)
    decode_ms: list[float] = []
    kept: list[int] = []  # indices of the samples that pass
    done = 0
    while batch := samples[done : done + BATCH]:
        images = []
        for sample in batch:
            start = time.perf_counter()
            images.append(_decoded(sample, side))
            decode_ms.append((time.perf_counter() - start) * 1e3)
        passing = [index for index, image in enumerate(images) if passes(image)]
        part = [done + index for index in passing]
        for column, each in enumerate(rungs if passing else ()):
            inputs = torch.stack([to_input(images[i], each.rung.resolution, each.preprocessing) for i in passing])
            answers[part, column], features[part, column] = read_logits(each.engine.run(inputs, each.patch).logits)
        kept += part
        done += len(batch)
        report(done)
    if not kept:
        raise BadInputError(
            f"Each of the {n} images has the form of a smaller rung, which answers such an image alone.",
            hint="Calibrate on images as large as those of the rung that the cascade is to stand in for.",
        )
    labels = np.array([samples[i].label for i in kept], np.int32) if labelled else None
    table = ScoreTable(tuple(each.rung for each in rungs), answers[kept], features[kept], labels)
    return Measured(table, statistics.median(decode_ms))


def _decoded(sample: Sample, side: int) -> Image.Image:
    try:
        return sample.load(side)
    except (BadInputError, OSError) as error:
        raise DataSetError(f"The image {sample.name} cannot be used: {error}", hint="Remove or replace it.") from error


def dispatch_ms(classes: int) -> float:
    """What a stage costs beside its network, median milliseconds: from logits to first answers and features."""
    logits = torch.randn(1, classes)
    taken = []
    for _ in range(DISPATCH_REPEATS):
        start = time.perf_counter()
        logits[0].softmax(0).topk(min(5, classes))
        read_logits(logits)
        taken.append((time.perf_counter() - start) * 1e3)
    return statistics.median(taken)
