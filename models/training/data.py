"""The images that a job trains, validates and tests on, and the one look at each of them before the first step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...policies.errors import DataSetError, TrainingError
from ...policies.task import TaskSpec, TrainSpec
from ..datasets import CLASS_HINT, Sample, defect, list_data
from .inputs import subset

BROKEN_NAMED = 5


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The three parts as a job uses them, and clauses on what keeps them from being trained on."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    problems: tuple[str, ...] = ()


def open_training_data(task: TaskSpec, spec: TrainSpec) -> TrainingData:
    """List the images of a job. Raises DataSetError where they cannot be listed, TrainingError for a task without.

    A job without labels has the test part alone of a task's data set, if it has one: see `unlabelled_data`.
    """
    if spec.unlabelled is not None:
        return TrainingData((), (), () if task.data is None else list_data(task.data)[0].test)
    if task.data is None:
        raise TrainingError(f"Task '{task.name}' has no data set.")
    found, problems = list_data(task.data)
    if found.labels != task.labels:
        problems.insert(0, f"its classes are no longer those of task '{task.name}'")
    return TrainingData(subset(found.train, spec), found.validation, found.test, tuple(problems))


class ImageCheck:
    """Decodes every image of a job once, so that all that is wrong is told together, before the first step."""

    def __init__(self, data: TrainingData) -> None:
        self._unchecked = [*data.train, *data.validation, *data.test]
        self._problems = data.problems
        self._broken: list[str] = []

    def run(self, should_end: Callable[[], bool]) -> bool:
        """Look at what is left; False when told to end before all of it. The next call goes on from there.

        Each call looks at one image at least. Raises DataSetError that says all that is wrong with the data: classes
        without images, and the broken images, counted, the first ones named.
        """
        while self._unchecked:
            sample = self._unchecked.pop()
            if (wrong := defect(sample)) is not None:
                self._broken.append(wrong)
            if self._unchecked and should_end():
                return False
        self._report()
        return True

    def _report(self) -> None:
        clauses = list(self._problems)
        hints = [CLASS_HINT] if clauses else []
        if self._broken:
            named = sorted(self._broken)[:BROKEN_NAMED]
            more = len(self._broken) - len(named)
            count = f"{len(self._broken)} image{' is' if len(self._broken) == 1 else 's are'} broken"
            clauses.append(f"{count}: {'; '.join(named)}" + (f"; and {more} more" if more else ""))
            hints.append("Remove or replace the broken images, then submit again.")
        if clauses:
            raise DataSetError(f"The data cannot be trained on: {'; '.join(clauses)}.", hint=" ".join(hints))
