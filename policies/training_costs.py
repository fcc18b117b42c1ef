"""What training costs on a device, measured: records that the worker fills, the daemon stores, the planner reads.

All times are processor milliseconds and all sizes bytes. Whatever is said to be *per image* grows with the images of a
pass (a micro-batch); the rest is paid once a pass or once a step. A network is its units in forward order (stem,
blocks, neck: `models.networks.units_of`) and its head. The backward pass runs from the head down to the lowest tensor
that trains, and no further: what that saves in the lowest unit is told by `reach_share` and `reach_bytes`.

Who measures: `models.training.profiling`. Who predicts from them: `training_prices`. Who plans: `training_plan`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import Field

from .decision import UnfreezeOrder
from .snapshot import Frozen
from .task import PatchKind

Precision = Literal["f32", "bf16"]
EVALUATION_BATCH = 8
EVALUATION_FACTOR = 2


def evaluated_at_once(micro_batch: int | None) -> int:
    """Images that an evaluation, or a teacher, takes at a time under a plan with such micro-batches.

    Nothing is kept for a backward pass: so many are as fast as more, and do not set the peak of memory.
    """
    return EVALUATION_BATCH if micro_batch is None else min(EVALUATION_BATCH, EVALUATION_FACTOR * micro_batch)


class TensorKind(StrEnum):
    """What a tensor of the base is, which decides what its gradient needs."""

    SCALE = "scale"
    BIAS = "bias"
    WEIGHT = "weight"
    DEPTHWISE = "depthwise"
    OFFSET = "offset"
    OTHER = "other"


class TensorCost(Frozen):
    """What it costs that one tensor of the base trains.

    `kind`: scale and bias are those of a normalisation; weight and offset (bias) those of a convolution; depthwise is
    the weight of a depthwise one; other is what no plan unfreezes, such as a linear layer's weight.
    """

    name: str = Field(description="the tensor's name in the base, as in a patch of the kind that replaces it")
    kind: TensorKind
    parameters: int = Field(ge=1)
    gradient_ms: float = Field(ge=0, description="per image: its own gradient, once the layer's output has one")
    gradient_call_ms: float = Field(ge=0, description="per pass: the same, whatever the images")
    kept_bytes: int = Field(ge=0, description="per image: kept for its gradient beyond what the input gradients keep")
    kept_beside_norms_bytes: int = Field(
        ge=0, description="per image: the same where the unit's scales and biases train too, which may keep it already"
    )
    reach_share: float = Field(
        ge=0, le=1, description="of the unit's input gradient: what lies between the unit's output and this layer's"
    )
    reach_bytes: int = Field(
        ge=0, description="per image: all that the unit keeps while this is the lowest tensor that trains, and it alone"
    )


class PassCost(Frozen):
    """A unit's forward pass within the graph and its backward pass, run in one way (plain or lean)."""

    forward_ms: float = Field(ge=0, description="per image: forward, keeping what the backward pass needs")
    forward_call_ms: float = Field(ge=0, description="per pass: the same, whatever the images")
    input_gradient_ms: float = Field(ge=0, description="per image: the gradient of the unit's input, nothing training")
    input_gradient_call_ms: float = Field(ge=0, description="per pass: the same, whatever the images")
    kept_bytes: int = Field(
        ge=0, description="per image: kept for it; the unit's input where it is kept is counted, its output is not"
    )
    transient_bytes: int = Field(ge=0, description="per image: most that lives beside what is kept, at any moment")
    tensors: tuple[TensorCost, ...] = Field(description="all tensors of the unit that can train, in forward order")


class UnitCost(Frozen):
    """What one unit costs. `plain` is torch's own way; `lean` keeps less for the backward pass, at some time."""

    name: str = Field(description="path of the unit's module, such as blocks.3")
    frozen_ms: float = Field(ge=0, description="per image: forward without a graph, as below the lowest trained tensor")
    frozen_call_ms: float = Field(ge=0, description="per pass: the same, whatever the images")
    frozen_transient_bytes: int = Field(ge=0, description="per image: most that lives at any moment of that")
    output_bytes: int = Field(ge=1, description="per image: its output in f32, which is what kept features hold")
    plain: PassCost
    lean: PassCost | None = Field(None, description="absent: not measured, then no plan is lean")


class ResolutionCosts(Frozen):
    """All units at one resolution. Between two resolutions the predictor interpolates by their pixels."""

    resolution: int = Field(gt=0, description="pixels")
    images: int = Field(ge=1, description="images in the largest pass that was measured")
    input_ms: float = Field(ge=0, description="per image: from stored bytes to normalised f32 in the memory format")
    units: tuple[UnitCost, ...] = Field(min_length=1)


class HeadCost(Frozen):
    """Pooling, the last linear layer and the loss; the same at any resolution but for the pooling, which is small."""

    features: int = Field(ge=1, description="inputs of the last linear layer")
    classes: int = Field(ge=1, description="outputs of the base's own head")
    forward_ms: float = Field(ge=0, description="per pass: forward and loss")
    backward_ms: float = Field(ge=0, description="per pass: backward")
    forward_class_ms: float = Field(ge=0, description="per image and class")
    backward_class_ms: float = Field(ge=0, description="per image and class: gradient of weight or of features, each")


class StepCost(Frozen):
    """What a step costs beside its passes."""

    fixed_ms: float = Field(ge=0, description="per step: choosing the batch, the loss as a number, checks")
    tensor_ms: float = Field(ge=0, description="per tensor that trains: the optimiser's call")
    parameter_ms: float = Field(ge=0, description="per parameter that trains: the optimiser's arithmetic")
    read_ms_per_byte: float = Field(0.0, ge=0, description="kept features, from the disk's cache")
    write_ms_per_byte: float = Field(0.0, ge=0, description="kept features, once")
    workspace_bytes: int = Field(0, ge=0, description="resident memory a first step takes whatever its size")


class Way(NamedTuple):
    """How a plan runs at a resolution: plans of one way err alike."""

    resolution: int
    lean: bool = False
    keep_features: bool = False
    bf16: bool = False


class Correction(Frozen):
    """What slices that ran have shown: measured over predicted, for plans of one way of running at one resolution."""

    resolution: int = Field(gt=0)
    lean: bool = False
    keep_features: bool = False
    bf16: bool = False
    time: float = Field(1.0, gt=0, description="factor on the predicted step time")
    memory: float = Field(1.0, gt=0, description="factor on the predicted peak memory")
    slices: int = Field(0, ge=0, description="slices it rests on")

    @property
    def way(self) -> Way:
        """What it is the correction of."""
        return Way(self.resolution, self.lean, self.keep_features, self.bf16)


class TrainingCosts(Frozen):
    """The costs of training one base with a number of threads.

    To store: `model_dump_json()` under the key (base, threads, precision); to feed: `model_validate_json`. About 40 kB
    a record of `at`. Corrections are stored beside, and put in with `model_copy(update={"corrections": ...})`: a new
    object, which is how the planner's cache knows that something changed.
    """

    base: str
    threads: int = Field(1, ge=1)
    precision: Precision = "f32"
    measured_s: float | None = Field(None, description="Unix time of the measuring; absent: shipped with patchd")
    seconds: float = Field(0.0, ge=0, description="how long the measuring took")
    at: tuple[ResolutionCosts, ...] = Field(min_length=1)
    head: HeadCost
    step: StepCost
    corrections: tuple[Correction, ...] = ()

    @property
    def estimated(self) -> bool:
        """Whether they come from another machine."""
        return self.measured_s is None


class AddedLayer(Frozen):
    """A layer that a patch kind joins to a module of the base: its cost is taken from the layer it is joined to."""

    site: str = Field(description="path of the module, such as blocks.3.project.norm")
    kind: PatchKind
    parameters: int = Field(ge=1)
    tensors: int = Field(1, ge=1)


class JobOutline(Frozen):
    """What the planner must know of the job in hand. The defaults stand for a usual job where there is none yet."""

    id: str = ""
    base: str = "lite0"
    kinds: tuple[PatchKind, ...] = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
    where: tuple[tuple[PatchKind, str], ...] = Field((), description="patterns of layers, for kinds that got one")
    added: tuple[AddedLayer, ...] = Field((), description="absent for kinds that add layers: estimated, one a unit")
    classes: int = Field(10, ge=1)
    resolutions: tuple[int, ...] = Field((224,), min_length=1, description="rungs still to train, in the job's order")
    in_hand: int | None = Field(None, description="the rung that has begun: no other is chosen until it is done")
    full_resolution: int = Field(224, gt=0, description="of the task: what an allocation of 1 is measured by")
    batch_size: int = Field(32, ge=1)
    epochs: int = Field(4, ge=1)
    train_images: int = Field(1000, ge=1)
    validation_images: int = Field(100, ge=0, description="evaluated after every epoch")
    kept_from: int | None = Field(
        None, ge=0, description="features of the rung in hand are on disk: index of the first unit that still runs"
    )
    kept_bytes: int = Field(0, ge=0, description="what those take of the disk quota")
    augmented: bool = Field(False, description="inputs differ from epoch to epoch, so that no features can be kept")
    bf16: bool = Field(False, description="its steps run in bfloat16: what that changes is known from slices alone")
    taught_at: tuple[int, ...] = Field(
        (), description="resolutions at which teachers have still to answer the images before the rung's first step"
    )
    unlabelled: bool = Field(False, description="teachers answer the validation images too, which have no labels")
    importance: tuple[tuple[str, float], ...] = Field(
        (), description="by tensor of the base: Fisher information, for the order sparse"
    )


class PlanLimits(Frozen):
    """What policy and device allow beside the allocation."""

    max_fraction: float = Field(0.0, ge=0, le=1, description="at most this share of the base is unfrozen")
    order: UnfreezeOrder | Literal["auto"] = "auto"
    memory_bytes: int | None = Field(None, ge=0, description="peak of a step beyond the base; absent: no cap")
    disk_bytes: int = Field(0, ge=0, description="quota for kept features; 0: none are kept")


class TrainingSituation(Frozen):
    """All that a training plan depends on beside the allocation: what `decide` is given and hands to `plan_training`.

    `plan_training(allocation, situation.costs, situation.job, limits)`: the policy's `max_fraction` and `order` take
    the place of those in `limits`, so the daemon fills in memory and disk alone. The costs are those of the job's base.
    """

    costs: TrainingCosts
    job: JobOutline = JobOutline()
    limits: PlanLimits = PlanLimits()
