"""What a training job may ask for: checked before it is queued."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from ..policies.base_version import sides_on
from ..policies.errors import BadInputError, ForbiddenError
from ..policies.examples import ExampleFile, enough_alone
from ..policies.labels import imagenet_labels
from ..policies.task import PatchKind, TaskSpec, Teacher, TrainSpec
from ..policies.teaching import HEADS


def checked(
    spec: TrainSpec, task: TaskSpec, in_force: Collection[int] = (), examples: Sequence[ExampleFile] = ()
) -> TrainSpec:
    """The request with what it left open filled in; `in_force` are the resolutions that can answer on its base.

    `examples` are those of the task that may be used now; they can take the place of a data set. Raises BadInputError
    for what cannot be trained.
    """
    if task.data is None and spec.unlabelled is None and not (spec.examples and enough_alone(examples)):
        raise BadInputError(
            f"Task '{task.name}' has no data set to train on, nor two usable examples of each of two classes.",
            hint="Add a task with --data, hand over examples, or train without labels: --unlabelled DIR.",
        )
    if PatchKind.BASE_FRACTION in spec.kinds:
        raise BadInputError(
            "The kind base_fraction cannot be asked for: the training allocation decides what is unfrozen.",
            hint="See max_fraction in docs/policy.md.",
        )
    if not spec.kinds:
        raise BadInputError("A job needs at least one patch kind.", hint="For example scale_bias,head.")
    base = spec.base or task.base
    sides = sides_on(task, base)
    if not sides:
        raise BadInputError(
            f"Task '{task.name}' has no rungs of base '{base}'.", hint=f"It has rungs of {', '.join(task.bases)}."
        )
    wrong = [side for side in spec.resolutions if side not in sides]
    if wrong:
        of = "" if base == task.base else f" of {base}"
        raise BadInputError(
            f"Task '{task.name}' has no rung{of} at {wrong[0]} px.",
            hint=f"Its rungs{of}: {', '.join(map(str, sides))}.",
        )
    whole = max(sides) in in_force
    if not HEADS & set(spec.kinds) and task.labels != imagenet_labels() and not whole:
        raise BadInputError(
            f"Task '{task.name}' has labels of its own, so the base's final layer cannot answer it, and no rung is in "
            f"force at {max(sides)} px whose head could be kept.",
            hint="Add the kind head.",
        )
    return _taught(spec.model_copy(update={"base": base}), task, sides, whole=whole)


def _taught(spec: TrainSpec, task: TaskSpec, sides: tuple[int, ...], *, whole: bool) -> TrainSpec:
    """Teacher, unlabelled images and resolutions; `whole` says whether the full resolution is in force."""
    full, asked = max(sides), spec.resolutions or sides
    teacher = spec.teacher
    if spec.unlabelled is not None:
        directory = Path(spec.unlabelled).absolute()
        if not directory.is_dir():
            raise BadInputError(f"The unlabelled images' directory {directory} is none.", hint="Name a directory.")
        if not whole:
            raise BadInputError(
                f"Task '{task.name}' has no rung in force at {full} px, its full resolution, that could teach.",
                hint=f"Train it with labels first: patchctl train submit --task {task.name} --resolutions {full}.",
            )
        if teacher is Teacher.NONE:
            teacher = Teacher.FULL
        if teacher is Teacher.FULL:
            if full in spec.resolutions:
                raise BadInputError(
                    f"Without labels the rung at {full} px is the teacher, and cannot learn from itself.",
                    hint="Leave it out of the resolutions.",
                )
            asked = tuple(side for side in asked if side != full)
        spec = spec.model_copy(update={"unlabelled": str(directory)})
    if not asked:
        raise BadInputError(f"Task '{task.name}' has no rung below {full} px to teach.", hint="Add a task with more.")
    if teacher is Teacher.FULL and not whole and full not in asked:
        raise BadInputError(
            f"Task '{task.name}' has no rung in force at {full} px, its full resolution, that could teach.",
            hint=f"Train it first, or in the same job: --resolutions {full},{','.join(map(str, asked))}.",
        )
    if teacher is not Teacher.NONE:
        asked = tuple(sorted(asked, reverse=True))  # what teaches is trained first
    return spec.model_copy(update={"teacher": teacher, "resolutions": asked})


def check_trainable(forbidden: str | None, tasks: Sequence[str]) -> None:
    """Raise ForbiddenError where the policy does not permit one of the tasks to be trained."""
    if forbidden is not None:
        raise ForbiddenError(
            f"{forbidden[:1].upper()}{forbidden[1:]} (asked for: {', '.join(tasks)}).",
            hint="The operator changes that in the policy: training = true.",
        )
