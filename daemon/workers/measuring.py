"""Measuring in the training worker: what training a base costs, and which of its tensors matter to a job."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from ...models.bases import Base
from ...models.training.data import open_training_data
from ...models.training.fisher import MOST_IMAGES, importance
from ...models.training.inputs import Loading, permutation
from ...models.training.profiling import Profiling
from ..training_records import MeasuredTraining, processor, torch_version
from .measure_messages import MeasureImportance, MeasureTraining, TrainingMeasured
from .protocol import StartJob

REPORT_EVERY_S = 0.5
IMPORTANCE_SALT = 104729  # keeps the choice of images apart from the order of an epoch


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
        costs = costs.model_copy(update={"base": message.base})  # measured on a version of it, perhaps
        measured = MeasuredTraining(torch=torch_version(), processor=processor(), costs=costs)
        return TrainingMeasured(measured=measured, seconds=time.monotonic() - began)


def measured_importance(
    message: MeasureImportance, job: StartJob, base: Base, should_yield: Callable[[], bool]
) -> tuple[tuple[str, float], ...] | None:
    """Fisher information of the base's tensors on images of a job's training part; None when told to yield.

    Raises DataSetError for an image that cannot be read.
    """
    torch.set_num_threads(message.threads)
    train = open_training_data(job.task, job.spec).train
    chosen = [train[index] for index in permutation(len(train), job.spec.seed, IMPORTANCE_SALT)[:MOST_IMAGES].tolist()]
    part = Loading(chosen, message.resolution, job.task.preprocessing).run(should_yield)
    if part is None:
        return None
    found = importance(
        base,
        part.images,
        part.classes,
        len(job.task.labels),
        job.task.preprocessing,
        seed=job.spec.seed,
        should_stop=should_yield,
    )
    return None if found is None else tuple(found.items())


def _now_and_then(report: Callable[[float], None]) -> Callable[[float], None]:
    last_s = 0.0

    def rarely(share: float) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= REPORT_EVERY_S:
            last_s = time.monotonic()
            report(share)

    return rarely
