"""A job as the planner sees it."""

from __future__ import annotations

from collections.abc import Iterable

from ..policies.base_name import packaged
from ..policies.base_version import sides_on
from ..policies.task import JobProgress, JobState, PatchKind, Precision, TaskSpec, Teacher, TrainSpec
from ..policies.training_costs import JobOutline
from .api.schemas import JobView
from .training_records import JobFacts

USUAL_IMAGES = 1000  # until a job's worker has counted them


def outline(job: JobView, task: TaskSpec, facts: JobFacts | None) -> JobOutline:
    """What is left of a job. What only its worker knows is guessed until it has told."""
    spec, at = job.spec, job.progress
    done = {result.resolution for result in job.results}
    left = tuple(side for side in spec.resolutions if side not in done) or spec.resolutions
    in_hand = at.resolution if at.step > 0 and at.resolution in left and job.state is not JobState.DONE else None
    if spec.together:  # all at once: planned as if all of them were of the dearest resolution
        left = (max(spec.resolutions),)
    elif spec.teacher is not Teacher.NONE:  # in the job's own order: what teaches the others comes before them
        left = left[:1]
    begun = at.step > 0 or bool(spec.together)
    taught_at = () if begun else _taught_at(spec, task, left[0], tuple(sorted(done, reverse=True)))
    return _outlined(job.id, spec, task, facts, left, in_hand, at, taught_at)


def _taught_at(spec: TrainSpec, task: TaskSpec, side: int, made: tuple[int, ...]) -> tuple[int, ...]:
    """Where teachers have still to answer before rung `side`: all once, and those anew that the job has made."""
    sides = sides_on(task, spec.base or task.base)
    match spec.teacher:
        case Teacher.NONE:
            return ()
        case Teacher.FULL:
            answered = any(done < max(sides) for done in made)
            return () if answered or side == max(sides) else (max(sides),)  # it does not teach itself
        case Teacher.ENSEMBLE:
            return made[-1:] or sides


def usual_job(tasks: Iterable[TaskSpec]) -> JobOutline:
    """A job as most are, of the first task that has data: what an allocation would buy while nothing waits."""
    task = next((task for task in tasks if task.data is not None), None)
    if task is None:
        return JobOutline()
    spec = TrainSpec(task=task.name, base=task.base, resolutions=task.resolutions)
    return _outlined("", spec, task, None, spec.resolutions, None, JobProgress())


def _outlined(
    job_id: str,
    spec: TrainSpec,
    task: TaskSpec,
    facts: JobFacts | None,
    left: tuple[int, ...],
    in_hand: int | None,
    at: JobProgress,
    taught_at: tuple[int, ...] = (),
) -> JobOutline:
    base = spec.base or task.base
    where = tuple((kind, given.where) for kind, given in sorted(spec.options.items()) if given.where is not None)
    learned = PatchKind.HEAD in spec.kinds or PatchKind.RANDOM_HEAD in spec.kinds
    known = facts or JobFacts(train_images=spec.max_samples or USUAL_IMAGES, validation_images=USUAL_IMAGES // 10)
    return JobOutline(
        id=job_id,
        base=packaged(base),  # a version of a base costs what that one does
        kinds=spec.kinds,
        where=where,
        added=known.added,
        classes=len(task.labels) if learned else 1000,
        resolutions=left,
        in_hand=in_hand,
        full_resolution=max(sides_on(task, base)),
        batch_size=spec.batch_size,
        epochs=spec.epochs,
        train_images=known.train_images,
        validation_images=known.validation_images,
        kept_from=at.kept_from,
        kept_bytes=at.kept_bytes,
        augmented=known.augmented,
        bf16=(at.precision or spec.precision) is Precision.BF16,
        taught_at=taught_at,
        unlabelled=spec.unlabelled is not None,
        importance=known.importance,
    )
