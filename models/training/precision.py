"""In which floats a rung's forward and backward passes run: bfloat16 where it is measured to be faster."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from ...policies.task import Precision

ROUNDS = 3  # timed steps in each precision, after one that is not
WORTH = 0.95  # bfloat16 is coarser: it is used if its step takes at most that share of the time in float32


def faster_precision(step: Callable[[Precision], object]) -> tuple[Precision, str]:
    """The precision in which `step`, a forward and backward pass, takes less processor time, and a sentence on it."""
    took: dict[Precision, list[float]] = {Precision.F32: [], Precision.BF16: []}
    for _ in range(1 + ROUNDS):
        for precision, times in took.items():  # in turns: a burst of other work falls on both
            began = time.process_time()
            step(precision)
            times.append(time.process_time() - began)
    full, half = (median(times[1:]) for times in took.values())
    chosen = Precision.BF16 if half <= WORTH * full else Precision.F32
    return chosen, f"In bf16 a step takes {half / max(full, 1e-9):.2f} times as long as in f32, so {chosen} is used."
