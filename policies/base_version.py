"""Base versions: what several tasks make of a packaged base by training it together; and which tasks may use one."""

from __future__ import annotations

from pydantic import Field

from .base_name import packaged
from .errors import BadInputError
from .snapshot import Frozen
from .task import Side, TaskSpec


class VersionMetadata(Frozen):
    """Everything in a version's file beside its tensors; stored as JSON in the safetensors header."""

    format: int = 1
    base: str = Field(description="the packaged base, whose other tensors the version shares")
    base_hash: str = Field(description="fingerprint of the packaged base")
    hash: str = Field(description="fingerprint of the whole network, to which patches are tied")
    parent: str = Field(description="the base that the training began from: the packaged one, or a version of it")
    parent_hash: str = Field(description="fingerprint of that base")
    tasks: tuple[str, ...] = Field(description="that trained it together")
    job_id: str
    parameters: int = Field(ge=1, description="numbers in the tensors that differ from the packaged base")
    created_s: float


class VersionOutcome(Frozen):
    """What became of the base version that a job made."""

    name: str
    registered: bool
    note: str = Field(description="which task got worse, where one did")


def related(spec: TaskSpec, base: str) -> str | None:
    """The one of a task's bases that `base` is, or is another version of; None for a stranger."""
    if base in spec.bases:
        return base
    return next((own for own in spec.bases if packaged(own) == packaged(base)), None)


def sides_on(spec: TaskSpec, base: str) -> tuple[Side, ...]:
    """The sides, in pixels, of the rungs that a task has or may have of `base`; of a version as of its own base."""
    own = related(spec, base)
    return () if own is None else spec.bases[own]


def moved(spec: TaskSpec, to: str) -> TaskSpec:
    """The task with `to` in place of the base that it is another version of. Raises BadInputError for a stranger."""
    own = related(spec, to)
    if own is None:
        raise BadInputError(
            f"Task '{spec.name}' has no rungs of base '{packaged(to)}' or a version of it.",
            hint=f"It has rungs of {', '.join(spec.bases)}.",
        )
    others = tuple(other.model_copy(update={"base": to}) if other.base == own else other for other in spec.others)
    return spec.model_copy(update={"base": to if spec.base == own else spec.base, "others": others})


class MemberScore(Frozen):
    """The validation accuracy of one private patch, beside that of the patch in force for the same task and side."""

    task: str
    resolution: int
    made: float = Field(ge=0, le=1)
    in_force: float | None = Field(None, description="absent where no patch is in force, or its accuracy is unknown")


def got_worse(scores: tuple[MemberScore, ...]) -> str | None:
    """Which tasks would lose by moving, in one sentence; None when none would.

    The rule for keeping a version: on its own validation part no task is worse, at any of its resolutions, than with
    the patch that is in force for it.
    """
    worse = [score for score in scores if score.in_force is not None and score.made < score.in_force]
    if not worse:
        return None
    told = ", ".join(
        f"{score.task} at {score.resolution} px ({score.made:.1%} against {score.in_force:.1%})" for score in worse
    )
    return f"not kept, for it makes worse on validation: {told}"
