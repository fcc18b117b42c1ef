"""What becomes of examples that applications hand over: which part they go to, and how much they weigh."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from .snapshot import Frozen

ExamplePart = Literal["train", "validation"]

VALIDATION_SHARE = 0.15  # as of data sets
LEAST_CLASSES = 2  # each with one image to learn from and one to judge by
EPOCH_SHARE = 0.25  # of an epoch that examples make up at least ...
MOST_REPEATS = 8  # ... unless each would have to be seen more often than this


class ExampleFile(Frozen):
    """An example as a training job gets it."""

    id: str
    task: str
    path: str
    label: str
    part: ExamplePart


def part_of_next(train: int, validation: int) -> ExamplePart:
    """The part that the next example of a class goes to, and stays in for good.

    `train` and `validation` count the class's examples so far. The first is learned from, the second judged by, and
    from there on the validation part keeps its share. A part once given never changes: what a patch was judged by
    must not be what its successor or its predecessor has learned from.
    """
    wanted = max(1, round(VALIDATION_SHARE * (train + validation + 1)))
    return "validation" if train > 0 and validation < wanted else "train"


def repeats(own: int, examples: int) -> int:
    """How often an epoch shows each of `examples` images beside `own` images of the task's data set."""
    if examples == 0 or own == 0:
        return 1
    wanted = EPOCH_SHARE / (1 - EPOCH_SHARE) * own / examples
    return min(MOST_REPEATS, max(1, math.ceil(wanted)))


def enough_alone(examples: Iterable[ExampleFile]) -> bool:
    """Whether a task without a data set can be trained on these: some to learn from and to judge by, of two classes."""
    parts: dict[ExamplePart, set[str]] = {"train": set(), "validation": set()}
    for example in examples:
        parts[example.part].add(example.label)
    return len(parts["train"] & parts["validation"]) >= LEAST_CLASSES
