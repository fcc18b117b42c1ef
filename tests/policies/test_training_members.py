"""Which tasks take part in a job of several, at which resolutions."""

from __future__ import annotations

import pytest
from patchd.policies.errors import BadInputError
from patchd.policies.task import TaskSpec, TrainSpec
from patchd.policies.training_members import members_of
from pydantic import ValidationError


def task(name: str, *sides: int) -> TaskSpec:
    return TaskSpec(name=name, labels=("a", "b"), resolutions=sides)


def spec(*sides: int) -> TrainSpec:
    return TrainSpec(task="a", together=("b",), resolutions=sides)


def test_without_resolutions_the_common_ones_are_trained() -> None:
    found = members_of((task("a", 128, 96, 64), task("b", 96, 64, 32)), spec())
    assert found == (("a", 96), ("a", 64), ("b", 96), ("b", 64))


def test_each_task_takes_those_of_the_named_resolutions_that_it_has() -> None:
    assert members_of((task("a", 128), task("b", 96)), spec(128, 96)) == (("a", 128), ("b", 96))
    both = members_of((task("a", 128, 96), task("b", 128, 96)), spec(96))
    assert both == (("a", 96), ("b", 96))


def test_what_leaves_a_task_or_a_resolution_alone_is_refused() -> None:
    pair = task("a", 128), task("b", 96)
    with pytest.raises(BadInputError, match=r"have no resolution in common\. Name one of each"):
        members_of(pair, spec())
    with pytest.raises(BadInputError, match=r"Task 'b' has no rung at 128 px\. It has rungs at 96 px"):
        members_of(pair, spec(128))
    with pytest.raises(BadInputError, match="None of the tasks a, b has a rung at 64 px"):
        members_of(pair, spec(128, 96, 64))


def test_a_job_names_each_of_its_tasks_once() -> None:
    with pytest.raises(ValidationError, match="each named once"):
        TrainSpec(task="a", together=("b", "a"))
    assert TrainSpec(task="a", together=("b",)).tasks == ("a", "b")
