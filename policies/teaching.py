"""Who teaches a rung: the rungs of a task that are in force when a job begins, and those that it has made since."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field

from .labels import imagenet_labels
from .snapshot import Frozen
from .task import PatchKind, RungResult, Side, TaskSpec, Teacher, TrainSpec

HEADS = frozenset((PatchKind.HEAD, PatchKind.RANDOM_HEAD))


class RungInForce(Frozen):
    """A rung that can answer: a patch in force, or the base as it is where its own labels are the task's."""

    resolution: Side
    file: str | None = Field(None, description="its patch, whose name is its id; absent: the base as it is")


class TeachingRecord(Frozen):
    """What a job that is taught fixes at its beginning, so that it ends the same however often it is interrupted."""

    format: int = 1
    in_force: tuple[RungInForce, ...]
    images: tuple[str, ...] = Field((), description="the unlabelled images that can be used, below their directory")


def with_made(in_force: Iterable[RungInForce], made: Iterable[RungResult], patches_dir: str) -> tuple[RungInForce, ...]:
    """The rungs as they stand once a job's own results have taken the places of those that they beat, finest first."""
    rungs = {rung.resolution: rung for rung in in_force}
    for result in made:
        rival = result.rival
        if result.resolution not in rungs or rival is None or result.validation.accuracy > rival.accuracy:
            file = f"{patches_dir}/{result.patch_id}.safetensors"
            rungs[result.resolution] = RungInForce(resolution=result.resolution, file=file)
    return tuple(rungs[side] for side in sorted(rungs, reverse=True))


def inherits(spec: TrainSpec, task: TaskSpec) -> bool:
    """Whether a job's rungs begin as the one in force at the full resolution: without labels, or to keep its head.

    A job that learns no head, for a task whose labels are not the base's own, keeps that of the full resolution.
    """
    keeps_head = not HEADS & set(spec.kinds) and task.labels != imagenet_labels()
    return spec.unlabelled is not None or keeps_head


def is_taught(spec: TrainSpec, task: TaskSpec) -> bool:
    """Whether a job has any use for the rungs in force."""
    return spec.teacher is not Teacher.NONE or inherits(spec, task)


def teachers(teacher: Teacher, rungs: tuple[RungInForce, ...], full: int) -> tuple[RungInForce, ...]:
    """Whose answers are averaged: of `rungs`, none, the one at the full resolution `full`, or all."""
    match teacher:
        case Teacher.NONE:
            return ()
        case Teacher.FULL:
            return tuple(rung for rung in rungs if rung.resolution == full)
        case Teacher.ENSEMBLE:
            return rungs
