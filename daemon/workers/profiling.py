"""Timing a base's rungs step by step, so that requests can be answered between two steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image

from ...models.engine import Engine
from ...models.preprocessing import to_input
from ...policies.task import Preprocessing
from .protocol import RungCost

IMAGE = (256, 256)  # width, height in pixels; a photograph of usual data sets after decoding
WARM_UPS = 2  # torch picks its kernels during the first runs of a shape


@dataclass(frozen=True, slots=True)
class Taken:
    """What one run took, milliseconds: resize and normalise alone, and all of it."""

    prepare_ms: float
    in_all_ms: float


def timed(engine: Engine, threads: int, taken: Mapping[int, list[Taken]], repeats: int) -> Iterator[None]:
    """Time resize, normalise and network of one decoded image at each resolution, after warming up, step by step.

    The resolutions, the keys of `taken`, take turns, so that a burst of other work falls on all of them and not on one.
    The first run of a turn is not counted: it finds the caches full of another resolution's filters.
    """
    generator = np.random.default_rng(0)
    width, height = IMAGE
    image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")
    for resolution in taken:  # a graph is compared with the reference at its first run: now, not when a batch needs it
        engine.use_threads(threads)
        engine.predict(to_input(image, resolution, Preprocessing()).expand(2, -1, -1, -1))
        yield
    for turn in range(WARM_UPS + repeats):
        for resolution, runs in taken.items():
            engine.use_threads(threads)
            for counted in (False, True):
                start = time.perf_counter()
                inputs = to_input(image, resolution, Preprocessing()).unsqueeze(0)
                prepared = time.perf_counter()
                engine.predict(inputs)
                if counted and turn >= WARM_UPS:
                    runs.append(Taken((prepared - start) * 1e3, (time.perf_counter() - start) * 1e3))
            yield


def cost(resolution: int, runs: Sequence[Taken]) -> RungCost:
    """The medians and the 90th percentile of what was taken."""
    in_all = sorted(run.in_all_ms for run in runs)
    return RungCost(
        resolution=resolution,
        prepare_ms=median(run.prepare_ms for run in runs),
        median_ms=median(in_all),
        p90_ms=in_all[math.ceil(0.9 * len(in_all)) - 1],
        repeats=len(runs),
    )
