"""The images that a job trains, validates and tests on, and the one look at each of them before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...policies.errors import DataSetError, TrainingError
from ...policies.task import TaskSpec, TrainSpec
from ..datasets import Sample, defect, open_data
from .inputs import subset

BROKEN_NAMED = 5


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The three parts as a job uses them."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]


def open_training_data(task: TaskSpec, spec: TrainSpec) -> TrainingData:
    """List the images of a job. Raises DataSetError, or TrainingError where the data set is no longer the task's."""
    if task.data is None:
        raise TrainingError(f"Task '{task.name}' has no data set.")
    found = open_data(task.data)
    if found.labels != task.labels:
        raise TrainingError(f"The classes of {task.data} are no longer those of task '{task.name}'.")
    return TrainingData(subset(found.train, spec), found.validation, found.test)


class ImageCheck:
    """Decodes every image of a job once, so that a broken one is told before the first step and not at the last."""

    def __init__(self, data: TrainingData) -> None:
        self._unchecked = [*data.train, *data.validation, *data.test]
        self._broken: list[str] = []

    def run(self, should_end: Callable[[], bool]) -> bool:
        """Look at what is left; False when told to end before all of it. The next call goes on from there.

        Raises DataSetError that counts the broken images and names the first ones.
        """
        while self._unchecked:
            if should_end():
                return False
            sample = self._unchecked.pop()
            if (wrong := defect(sample)) is not None:
                self._broken.append(wrong)
        if self._broken:
            named = sorted(self._broken)[:BROKEN_NAMED]
            more = len(self._broken) - len(named)
            raise DataSetError(
                f"{len(self._broken)} of the data set's images cannot be used: {'; '.join(named)}"
                + (f"; and {more} more." if more else "."),
                hint="Remove or replace them, then submit again.",
            )
        return True
