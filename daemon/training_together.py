"""Jobs of several tasks: what they may ask for, what their worker is told, and whether a version they make is kept."""

from __future__ import annotations

from collections.abc import Sequence

from ..policies.base_version import MemberScore, VersionOutcome, got_worse, related
from ..policies.decision import TrainingPlan
from ..policies.errors import BadInputError, ConflictError, NotFoundError
from ..policies.task import PatchKind, RungResult, TaskSpec, Teacher, TrainSpec
from ..policies.teaching import HEADS
from ..policies.training_members import members_of
from .events import EventLog
from .store import Store
from .task_service import TaskService
from .training_requests import checked
from .workers.protocol import InForce, MemberDone, VersionDone


def checked_together(spec: TrainSpec, tasks: Sequence[TaskSpec], max_fraction: float) -> TrainSpec:
    """The request with what it left open filled in. Raises BadInputError or ConflictError for what cannot be trained.

    `max_fraction` is the policy's: tasks can train a base together only where some of it may be unfrozen.
    """
    if max_fraction == 0:
        raise ConflictError(
            "The policy unfreezes nothing of a base, so tasks cannot train one together.",
            hint="Set max_fraction in its [training] table, or train each task alone.",
        )
    asked = {
        "unlabelled images": spec.unlabelled is not None,
        "a teacher": spec.teacher is not Teacher.NONE,
        "the kind statistics": PatchKind.STATISTICS in spec.kinds,
        "a patch without a head": not HEADS & set(spec.kinds),
    }
    if (wrong := next((what for what, wanted in asked.items() if wanted), None)) is not None:
        raise BadInputError(
            f"A job of several tasks learns from their labels, patches and heads: {wrong} is not supported.",
            hint="Train each task alone for that, on the version that they made: --base.",
        )
    bases = {task.base: task.name for task in tasks}
    if spec.base is None and len(bases) > 1:
        (one, first), (other, second), *_ = bases.items()
        raise BadInputError(
            f"Task '{first}' answers on {one} and task '{second}' on {other}.",
            hint="Name the base to be trained with --base, or move the tasks to one: patchctl task move.",
        )
    spec = spec.model_copy(update={"base": spec.base or tasks[0].base})
    alone = spec.model_copy(update={"resolutions": ()})
    for task in tasks:
        checked(alone, task)
    sides = dict.fromkeys(side for _, side in members_of(tasks, spec))
    # A patch that is trained with the others' is theirs too: examples, which are one user's, stay out of it.
    return spec.model_copy(update={"resolutions": tuple(sides), "examples": False})


def why_not_together(spec: TrainSpec, plan: TrainingPlan) -> str | None:
    """Why a job of several tasks cannot advance under a plan; None when it can, and for a job of one task."""
    if spec.together and plan.fraction == 0 and not plan.tensors:
        return "the allocation unfreezes nothing of the base, which these tasks train together"
    return None


class TrainingTogether:
    """Keeps or drops the base versions that jobs make."""

    def __init__(self, store: Store, events: EventLog, tasks: TaskService) -> None:
        self._store, self._events, self._tasks = store, events, tasks

    def in_force(self, spec: TrainSpec) -> tuple[InForce, ...]:
        """What answers at each rung of each task of a job now, on whichever version the task is."""
        told: list[InForce] = []
        for name in spec.tasks:
            base = related(self._tasks.task(name), spec.base or "")
            own = () if base is None else self._tasks.in_force(name, base)
            told += [each.model_copy(update={"task": name}) for each in own] if spec.together else own
        return tuple(told)

    def take(self, made: VersionDone, job_id: str) -> tuple[VersionOutcome, tuple[RungResult, ...]]:
        """Register a version with its private patches unless a task gets worse by it; then nothing of it is kept.

        Raises StateError where it could not be stored; then it may be told again.
        """
        worse = got_worse(tuple(self._score(member) for member in made.members))
        if worse is None and not self._store.base_file(made.sha256).exists():
            worse = "not kept, for its file is gone"
        if worse is not None:
            results = tuple(self._noted(member.result, worse) for member in made.members)
            self._remove_files(made)
        else:
            self._store.put_base_version(made.name, made.sha256, made.bytes, made.metadata)
            results = tuple(self._registered(member, job_id) for member in made.members)
        for result in results:
            self._store.put_job_result(job_id, result)
        outcome = VersionOutcome(
            name=made.name, registered=worse is None, note=worse or "kept; no task answers on it until it is moved"
        )
        self._events.emit(
            "base.registered" if outcome.registered else "base.dropped",
            f"Base version {made.name} of {', '.join(made.metadata.tasks)}, made in job {job_id}, is {outcome.note}.",
            level="info" if outcome.registered else "warning",
            job=job_id,
            base=made.name,
        )
        return outcome, results

    def _score(self, member: MemberDone) -> MemberScore:
        """The accuracy of a private patch, and that of what is in force for its task at its side."""
        made, standing = member.result, None
        try:
            spec = self._tasks.task(made.task)
            base = related(spec, member.metadata.base)
            standing = None if base is None else self._tasks.standing(spec.name, base, made.resolution)
        except NotFoundError:  # the task is gone by now
            pass
        if standing is None:
            before = None
        elif made.rival is not None and made.rival_id == standing.patch_id:
            before = made.rival.accuracy
        else:
            before = standing.validation
        return MemberScore(task=made.task, resolution=made.resolution, made=made.validation.accuracy, in_force=before)

    def _registered(self, member: MemberDone, job_id: str) -> RungResult:
        result = member.result
        try:
            published, note = self._tasks.add_patch(result.patch_id, result.bytes, member.metadata)
        except (BadInputError, NotFoundError) as error:  # the task has gone or is another one by now
            self._events.emit("patch.refused", str(error), level="warning", job=job_id)
            return self._noted(result, str(error))
        return result.model_copy(update={"published": published, "note": note})

    @staticmethod
    def _noted(result: RungResult, note: str) -> RungResult:
        return result.model_copy(update={"published": False, "note": note})

    def _remove_files(self, made: VersionDone) -> None:
        self._store.base_file(made.sha256).unlink(missing_ok=True)
        for member in made.members:
            self._store.patch_file(member.result.patch_id).unlink(missing_ok=True)
