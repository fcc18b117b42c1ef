"""Measuring in the training worker: what training a base costs, and which of its tensors matter to a job."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ...models.bases import Base
from ...models.training.profiling import Profiling
from ..training_records import MeasuredTraining, processor, torch_version
from .measure_messages import MeasureTraining, TrainingMeasured

REPORT_EVERY_S = 0.5


class Measuring:
    """Keeps the measurement in hand, so that one that had to yield need not load and choose anew."""

    def __init__(self) -> None:
        self._of: tuple[str, tuple[int, ...], int] | None = None
        self._profiling: Profiling | None = None

    def costs(
        self,
        message: MeasureTraining,
        base: Base,
        should_yield: Callable[[], bool],
        report: Callable[[float], None],
    ) -> TrainingMeasured | None:
        """Measure; None when told to yield before the end. `report` hears the share that is done."""
        began = time.monotonic()
        torch.set_num_threads(message.threads)
        of = (message.base, message.resolutions, message.threads)
        if self._profiling is None or self._of != of:
            self._profiling, self._of = Profiling(base, message.resolutions), of
        costs = self._profiling.run(message.seconds, should_yield, _now_and_then(report))
        if costs is None:
            return None
        self._profiling = self._of = None
        measured = MeasuredTraining(torch=torch_version(), processor=processor(), costs=costs)
        return TrainingMeasured(measured=measured, seconds=time.monotonic() - began)


def _now_and_then(report: Callable[[float], None]) -> Callable[[float], None]:
    last_s = 0.0

    def rarely(share: float) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= REPORT_EVERY_S:
            last_s = time.monotonic()
            report(share)

    return rarely
