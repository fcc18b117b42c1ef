"""The records that deciding produces and consumes: ladders with measured rungs, and decisions with their reasons."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from .snapshot import Frozen
from .training_times import TrainingTimes


class ReasonKind(StrEnum):
    """Why an allocation has its value."""

    DEFAULT = "default"
    RULE = "rule"
    HOLD = "hold"
    MISSING_SIGNAL = "missing_signal"


class Reason(Frozen):
    """One sentence of why, with the numbers it rests on."""

    kind: ReasonKind
    text: str
    rule: str | None = None
    signal: str | None = None
    value: float | None = None
    threshold: float | None = None


class AllocationDecision(Frozen):
    """One allocation in [0, 1]: the value in force, what the rules ask for now, and why."""

    value: float = Field(ge=0, le=1)
    target: float = Field(ge=0, le=1, description="what the matching rules ask for; value follows it with hysteresis")
    ahead: float | None = Field(
        None, ge=0, le=1, description="what it falls to if the conditions that wait out their `for_s` hold on"
    )
    reasons: tuple[Reason, ...]


class CapKey(StrEnum):
    """What a matching rule may restrict beside the two allocations."""

    MAX_RESOLUTION = "max_resolution"
    KEEP_ALIVE_S = "keep_alive_s"
    MEMORY_BYTES = "memory_bytes"
    MAX_MINUTES_PER_DAY = "max_minutes_per_day"
    TRAINING = "training"
    EXAMPLES = "examples"
    CASCADE = "cascade"
    EPSILON = "epsilon"
    DELTA = "delta"


class Cap(Frozen):
    """One thing that matching rules restrict further than the policy's tables do."""

    key: CapKey
    value: float = Field(description="the bound; 0 of a permission or a switch that is taken away")
    rule: str = Field(description="the rule that restricts it most")
    reasons: tuple[Reason, ...] = Field(description="of all matching rules that restrict it, the winner first")


class Rung(Frozen):
    """One patch of a task for one resolution, with measured cost and accuracy where they have been measured."""

    base: str = Field("", description="the base network; empty where none is known, as in what patchd 0.1 stored")
    resolution: int = Field(gt=0, description="side of the square network input, pixels")
    patch_id: str | None = Field(None, description="sha256 of the patch file; None is the base as it is")
    cost_ms: float | None = Field(None, gt=0, description="measured median, one image, milliseconds")
    accuracy: float | None = Field(None, ge=0, le=1, description="top-1 on held-out data")
    accuracy_samples: int | None = Field(None, ge=1)


class Ladder(Frozen):
    """All rungs of a task that are of one base: its own, unless another is asked for."""

    task: str
    rungs: tuple[Rung, ...] = Field(min_length=1, description="at most one a resolution")


class RungCandidate(Frozen):
    """A rung as the decision saw it, and the verdict on it in words."""

    rung: Rung
    cost_ms: float = Field(gt=0, description="measured, or estimated from pixels where `estimated`")
    slowed_ms: float | None = Field(None, description="what it costs on the device as slowed by other work")
    estimated: bool = False
    fits: bool
    chosen: bool
    within_caps: bool = Field(True, description="whether the policy's resolution caps allow it")
    verdict: str


class SlowdownDecision(Frozen):
    """How much slower than measured calm predictions are, and by how much that scales the costs of the rungs."""

    measured: float = Field(gt=0, description="filtered over the last predictions")
    factor: float = Field(ge=1, description="in force: follows what is measured with hysteresis")
    text: str


class RungDecision(Frozen):
    """Which rung answers a task's predictions now, and why the others do not."""

    task: str
    resolution: int
    patch_id: str | None
    budget_ms: float
    candidates: tuple[RungCandidate, ...]
    text: str


class UnfreezeOrder(StrEnum):
    """In which order a larger allocation lets more of a network train; the head always does."""

    PATCH_FIRST = "patch_first"
    DOWNWARDS = "downwards"
    SPARSE = "sparse"


class TrainingPlan(Frozen):
    """What a training step touches, how it is run, and what that is predicted to cost.

    What can be learned depends on `reach`, `fraction`, `tensors`, `biases_only` and `resolution`; the others change
    cost and memory alone, so that a job gives the same weights whichever of them it runs under.
    """

    paused: bool
    order: UnfreezeOrder = UnfreezeOrder.PATCH_FIRST
    resolution: int | None = Field(None, description="the rung to begin next, pixels; absent: the next of the job")
    reach: float = Field(
        1.0, ge=0, le=1, description="share of the network's depth, from the head down, whose patch parameters train"
    )
    biases_only: bool = Field(False, description="of the norms' scale and bias only the biases train")
    fraction: float = Field(0.0, ge=0, le=1, description="share of the base's parameters unfrozen")
    tensors: tuple[str, ...] = Field(
        (), description="names of the base's tensors that are unfrozen; empty: whole layers from the head down"
    )
    keep_features: bool = Field(
        False, description="what the frozen lower part gives is computed once, kept on disk and reused by every epoch"
    )
    lean: bool = Field(False, description="keep for the backward pass only what its gradients need, at some time")
    micro_batch: int | None = Field(
        None, ge=1, description="images in one forward and backward pass; absent: the whole batch"
    )
    cost: float = Field(0.0, ge=0, description="predicted share of a full fine-tuning step at the full resolution")
    step_ms: float | None = Field(None, ge=0, description="predicted time of an optimiser step, milliseconds")
    memory_bytes: int | None = Field(None, ge=0, description="predicted peak of a step beyond the base in memory")

    @property
    def as_run(self) -> TrainingPlan:
        """The plan without what was predicted for it: two that are equal in this do the same."""
        return self.model_copy(update={"cost": 0.0, "step_ms": None, "memory_bytes": None})


class PlanCandidate(Frozen):
    """A plan the planner weighed, with the verdict in words."""

    plan: TrainingPlan
    fits: bool
    chosen: bool
    verdict: str


class TrainingDecision(Frozen):
    """The training plan in force and the refused ones."""

    plan: TrainingPlan
    candidates: tuple[PlanCandidate, ...]
    text: str
    job: str | None = Field(None, description="the job it is for; absent: none waits, and a usual one is assumed")
    memory_bytes: int | None = Field(None, description="what a step may take beside the base; absent: no cap")
    features_bytes: int = Field(0, description="what kept features may take of the disk")


class Decision(Frozen):
    """What follows from a snapshot under a policy, with all its reasons."""

    id: str
    time_s: float
    policy: str
    source: str
    inference: AllocationDecision
    training: AllocationDecision
    rungs: tuple[RungDecision, ...]
    plan: TrainingDecision
    slowdown: SlowdownDecision | None = Field(None, description="absent where the policy does not ask for it")
    times: TrainingTimes = Field(TrainingTimes(), description="whether the policy lets training run at this moment")
    caps: tuple[Cap, ...] = Field((), description="what matching rules restrict beside the two allocations")
    changed: tuple[str, ...] = Field((), description="what differs from the decision before it, in words")

    @property
    def slowed_by(self) -> float:
        """The factor by which the costs of all rungs are scaled."""
        return 1.0 if self.slowdown is None else self.slowdown.factor
