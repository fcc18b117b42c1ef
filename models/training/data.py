"""The images that a job trains, validates and tests on, and the one look at each of them before the first step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ...policies.errors import DataSetError, TrainingError
from ...policies.examples import ExampleFile, ExamplePart, enough_alone, repeats
from ...policies.task import TaskSpec, TrainSpec
from ..datasets import CLASS_HINT, DataSet, Sample, defect, list_data
from ..preprocessing import decode_image
from .inputs import subset

BROKEN_NAMED = 5


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The three parts as a job uses them, and clauses on what keeps them from being trained on."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    problems: tuple[str, ...] = ()
    examples: int = 0  # distinct ones among the training images
    key: str = ""  # differs where other examples are used, or as other classes

    @property
    def distinct(self) -> int:
        """How many different images there are to learn from."""
        return len(set(self.train))


def open_training_data(task: TaskSpec, spec: TrainSpec, examples: Sequence[ExampleFile] = ()) -> TrainingData:
    """List the images of a job: those of the task's data set, and the examples that were handed over for it.

    So that a few examples beside many images are learned from, an epoch shows each several times, and it counts as
    often in the validation part. A job without labels has the test part alone of a task's data set, if it has one: see
    `unlabelled_data`. Raises DataSetError where images cannot be listed, TrainingError where there are none.
    """
    if spec.unlabelled is not None:
        return TrainingData((), (), () if task.data is None else list_data(task.data)[0].test)
    own = tuple(example for example in examples if example.task == task.name)
    data, problems = _own_data(task, own)
    train = subset(data.train, spec)
    learned = _samples(own, task, "train", 1)
    times = repeats(len(train), len(learned))
    return TrainingData(
        train=(*train, *learned * times),
        validation=(*data.validation, *_samples(own, task, "validation", times)),
        test=data.test,
        problems=tuple(problems),
        examples=len(learned),
        key=_key(own),
    )


def _own_data(task: TaskSpec, examples: Sequence[ExampleFile]) -> tuple[DataSet, list[str]]:
    if task.data is None:
        if not enough_alone(examples):
            raise TrainingError(
                f"Task '{task.name}' has no data set, nor two usable examples of each of two classes.",
                hint="Hand over more, and allow their use in the policy's table [examples].",
            )
        return DataSet(task.labels, (), (), ()), []
    found, problems = list_data(task.data)
    if found.labels != task.labels:
        problems.insert(0, f"its classes are no longer those of task '{task.name}'")
    return found, problems


def _samples(examples: Sequence[ExampleFile], task: TaskSpec, part: ExamplePart, weight: int) -> tuple[Sample, ...]:
    return tuple(
        Sample(f"example {example.id}", _loader(Path(example.path)), task.labels.index(example.label), weight)
        for example in examples
        if example.part == part and example.label in task.labels
    )


def _loader(path: Path) -> Callable[[int], Image.Image]:
    return lambda side: decode_image(path.read_bytes(), needed_side=side)


def _key(examples: Sequence[ExampleFile]) -> str:
    if not examples:
        return ""
    told = "\n".join(f"{example.id} {example.part} {example.label}" for example in examples)
    return hashlib.sha256(told.encode()).hexdigest()


class ImageCheck:
    """Decodes every image of a job once, so that all that is wrong is told together, before the first step."""

    def __init__(self, data: TrainingData) -> None:
        self._unchecked = list(dict.fromkeys((*data.train, *data.validation, *data.test)))  # repeated ones once
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
