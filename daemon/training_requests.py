"""What a training job may ask for: checked before it is queued."""

from __future__ import annotations

from ..policies.base_version import sides_on
from ..policies.errors import BadInputError
from ..policies.labels import imagenet_labels
from ..policies.task import PatchKind, TaskSpec, TrainSpec

HEADS = {PatchKind.HEAD, PatchKind.RANDOM_HEAD}


def checked(spec: TrainSpec, task: TaskSpec) -> TrainSpec:
    """The request with what it left open filled in. Raises BadInputError for what cannot be trained."""
    if task.data is None:
        raise BadInputError(f"Task '{task.name}' has no data set to train on.", hint="Add a task with --data.")
    if PatchKind.BASE_FRACTION in spec.kinds:
        raise BadInputError(
            "The kind base_fraction cannot be asked for: the training allocation decides what is unfrozen.",
            hint="See max_fraction in docs/policy.md.",
        )
    if not spec.kinds:
        raise BadInputError("A job needs at least one patch kind.", hint="For example scale_bias,head.")
    if not HEADS & set(spec.kinds) and task.labels != imagenet_labels():
        raise BadInputError(
            f"Task '{task.name}' has labels of its own, so the base's final layer cannot answer it.",
            hint="Add the kind head.",
        )
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
    return spec.model_copy(update={"base": base, "resolutions": spec.resolutions or sides})
