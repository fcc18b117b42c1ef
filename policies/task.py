"""Records of tasks, patches and training jobs that cross files, sockets and processes. Types only, no behaviour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from .base_name import packaged
from .decision import TrainingPlan
from .snapshot import Frozen

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$", description="lower case, digits, - and _")]
Side = Annotated[int, Field(ge=32, le=512, multiple_of=4, description="side of the square input, pixels")]


class Preprocessing(Frozen):
    """How an image becomes a network input: centre crop, bicubic resize to R x R, (x - mean) / scale in RGB."""

    crop_fraction: float = Field(0.875, gt=0, le=1, description="side of the centre crop over the image's short side")
    mean: float = 127.0
    scale: float = Field(128.0, gt=0)


class PatchKind(StrEnum):
    """The patch kinds that exist; each is one module of `patchd.models.patches`.

    Where several change one layer, they act on it in this order.
    """

    SCALE_BIAS = "scale_bias"
    STATISTICS = "statistics"
    BIAS = "bias"
    DEPTHWISE = "depthwise"
    SEPARABLE = "separable"
    ADDED_NEURONS = "added_neurons"
    ADDED_LAYER = "added_layer"
    SQUEEZE_EXCITE = "squeeze_excite"
    OWN_SQUEEZE_EXCITE = "own_squeeze_excite"
    GATE = "gate"
    LITE_RESIDUAL = "lite_residual"
    HEAD = "head"
    RANDOM_HEAD = "random_head"
    BASE_FRACTION = "base_fraction"


class KindOptions(Frozen):
    """Where a patch kind acts, and how large it is; a kind refuses what it has no use for."""

    where: str | None = Field(
        None, description="names of layers, * for any part, several with commas; absent: what suits the base"
    )
    rank: int | None = Field(
        None, ge=0, description="separable: width of the bottleneck; added_layer: 0 is a whole one"
    )
    expansion: int | None = Field(None, ge=1, description="separable: filters for each input channel")
    reduction: int | None = Field(None, ge=1, description="squeeze_excite, lite_residual: channels over hidden ones")
    kernel: int | None = Field(None, ge=1, le=7, description="lite_residual: side of the filters, odd")
    neurons: int | None = Field(None, ge=1, description="added_neurons: how many beside each layer")
    seed: int | None = Field(None, ge=0, description="random_head, added_neurons: of what is drawn")
    momentum: float | None = Field(
        None, gt=0, le=1, description="statistics: share of each batch mixed into the base's; absent: mean of all"
    )

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int | None) -> int | None:
        if kernel is not None and kernel % 2 == 0:
            raise ValueError("a filter's side is odd, so that it has a middle")
        return kernel


Options = dict[PatchKind, KindOptions]

KIND_OPTIONS: Mapping[PatchKind, tuple[str, ...]] = {  # what each kind has a use for
    PatchKind.SCALE_BIAS: ("where",),
    PatchKind.STATISTICS: ("where", "momentum"),
    PatchKind.BIAS: ("where",),
    PatchKind.DEPTHWISE: ("where",),
    PatchKind.SEPARABLE: ("where", "expansion", "rank"),
    PatchKind.ADDED_NEURONS: ("where", "neurons", "seed"),
    PatchKind.ADDED_LAYER: ("where", "rank"),
    PatchKind.SQUEEZE_EXCITE: ("where", "reduction"),
    PatchKind.OWN_SQUEEZE_EXCITE: ("where",),
    PatchKind.GATE: ("where",),
    PatchKind.LITE_RESIDUAL: ("where", "kernel", "reduction"),
    PatchKind.HEAD: (),
    PatchKind.RANDOM_HEAD: ("seed",),
    PatchKind.BASE_FRACTION: (),
}


def check_kinds(kinds: Iterable[PatchKind], options: Options) -> None:
    """Raise ValueError, one sentence, for kinds or options that contradict each other."""
    asked = set(kinds)
    if {PatchKind.HEAD, PatchKind.RANDOM_HEAD} <= asked:
        raise ValueError("A patch has one head: learned (head) or left as drawn (random_head), not both.")
    for kind, given in sorted(options.items()):
        if kind not in asked:
            raise ValueError(f"There are options for '{kind}', which is not among the patch's kinds.")
        known = KIND_OPTIONS[kind]
        wrong = sorted(given.model_dump(exclude_none=True).keys() - set(known))
        if wrong:
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ValueError(f"The patch kind '{kind}' has no option '{wrong[0]}'; {takes}.")


def only_statistics(kinds: Iterable[PatchKind]) -> bool:
    """Whether a job of these kinds estimates statistics and has nothing to learn by gradient."""
    return PatchKind.STATISTICS in (asked := set(kinds)) and asked <= {PatchKind.STATISTICS, PatchKind.RANDOM_HEAD}


class BaseRungs(Frozen):
    """The rungs that a task has of one base."""

    base: str = Field(description="lite0, lite1, lite2, or a version of one")
    resolutions: tuple[Side, ...] = Field(min_length=1, description="pixels")


def check_others(base: str, others: Iterable[BaseRungs]) -> None:
    """Raise ValueError, one sentence, unless `others` are bases beside a task's own `base`, each in one version."""
    named = {packaged(base)}
    for other in others:
        if packaged(other.base) in named:
            why = "is the task's own" if packaged(other.base) == packaged(base) else "is named twice"
            raise ValueError(f"The other bases of a task are each named once: '{other.base}' {why}.")
        named.add(packaged(other.base))


class Change(StrEnum):
    """What may be done to a training image of a task without making it another class."""

    FLIP = "flip"
    SHIFT = "shift"
    CROP = "crop"
    COLOUR = "colour"


Changes = Annotated[
    tuple[Change, ...],
    Field(
        description="of training images, drawn anew in every epoch: flip (left for right), shift (by up to an eighth "
        "of the side), crop (of three quarters of the side or more), colour (brightness, contrast, saturation)"
    ),
]


class TaskSpec(Frozen):
    """What a patched network is used for."""

    name: Name
    base: str = Field("lite0", description="lite0, lite1, lite2, or a version of one")
    labels: tuple[str, ...] = Field(min_length=2)
    resolutions: tuple[Side, ...] = Field(min_length=1, description="the rungs of the ladder, pixels")
    others: tuple[BaseRungs, ...] = Field((), description="rungs of other bases, for cascades")
    data: str | None = Field(
        None, description="'sklearn:digits', or a directory of train/CLASS/*.jpg, test/CLASS/*.jpg"
    )
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Changes = ()
    builtin: bool = False

    @property
    def bases(self) -> Mapping[str, tuple[int, ...]]:
        """The sides of the rungs of each base, in pixels; the task's own base comes first."""
        return {self.base: self.resolutions} | {other.base: other.resolutions for other in self.others}

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        check_others(self.base, self.others)
        return self


class Measure(StrEnum):
    """What an answer was compared with."""

    ACCURACY = "accuracy"  # the image's label
    AGREEMENT = "agreement"  # the teacher's first answer


class Evaluation(Frozen):
    """Top-1 on `samples` images, with the 95 % Wilson interval: accuracy, or agreement where there were no labels."""

    measure: Measure = Measure.ACCURACY
    accuracy: float = Field(ge=0, le=1)
    samples: int = Field(ge=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Teacher(StrEnum):
    """Whose answers a rung learns from, beside labels or in their place."""

    NONE = "none"
    FULL = "full"  # the rung at the full resolution
    ENSEMBLE = "ensemble"  # all rungs, their probabilities averaged


class Precision(StrEnum):
    """The floats that forward and backward passes of training run in; parameters are float32 in any case."""

    F32 = "f32"
    BF16 = "bf16"
    AUTO = "auto"  # the faster of the two, as measured when a rung begins


class TrainingRecord(Frozen):
    """How a patch came to be."""

    job_id: str
    kinds: tuple[PatchKind, ...]
    epochs: int
    steps: int
    train_samples: int
    examples: int = Field(0, description="those of the training images that applications handed over")
    seed: int
    learning_rate: float
    batch_size: int
    seconds: float = Field(description="wall time spent in training slices")
    reach: float = Field(1.0, description="the least depth, from the head down, that patch parameters trained in")
    fraction: float = Field(0.0, description="the largest share of the base that was unfrozen")
    precision: Precision = Field(Precision.F32, description="f32 or bf16")
    final_loss: float | None = None
    best_epoch: int | None = Field(None, description="the epoch that the weights are of, with early stopping")
    validation_digest: str = Field(
        "", description="of the validation images and classes at this resolution: figures of equal ones compare"
    )
    validation: Evaluation
    test: Evaluation | None = None
    teacher: Teacher = Teacher.NONE


class ExportFormat(StrEnum):
    """What a patched base can be written as."""

    SAFETENSORS = "safetensors"
    ONNX = "onnx"
    OPENVINO = "openvino"
    ADAPTER = "adapter"


class KeptPart(Frozen):
    """Something that could not be folded, and why."""

    path: str
    why: str


class ExportReport(Frozen):
    """What became of the affine parts of a model that was written."""

    format: ExportFormat
    folded: tuple[str, ...]
    kept: tuple[KeptPart, ...]


class PatchMetadata(Frozen):
    """Everything in a patch file beside its tensors; stored as JSON in the safetensors header."""

    format: int = 1
    base: str
    base_hash: str = Field(description="sha256 over the base's tensors: names, dtypes, shapes, bytes")
    task: str
    labels: tuple[str, ...]
    kinds: tuple[PatchKind, ...]
    resolution: Side
    preprocessing: Preprocessing
    options: Options = Field({}, description="by kind: where it acts and how large it is")
    parameters: int = Field(ge=0, description="trainable numbers in the patch; running statistics not counted")
    parameters_by_kind: dict[PatchKind, int] = Field({}, description="the same, kind by kind")
    base_parameters: int = Field(ge=1)
    training: TrainingRecord | None = None
    created_s: float


class TrainSpec(Frozen):
    """What a training job is asked to do; the rungs are trained one after the other."""

    task: Name
    together: tuple[Name, ...] = Field((), description="further tasks that train the base at the same time")
    base: str | None = Field(None, description="one of the task's bases, or a version of one; absent: its own")
    kinds: tuple[PatchKind, ...] = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
    options: Options = Field({}, description="by kind: where it acts and how large it is")
    resolutions: tuple[Side, ...] = Field((), description="empty: all rungs of that base")
    epochs: int = Field(4, ge=1, le=1000)
    batch_size: int = Field(32, ge=2, le=512)
    learning_rate: float | None = Field(None, gt=0, le=10, description="absent: the default of the patch kinds")
    seed: int = Field(0, ge=0)
    max_samples: int | None = Field(
        None, ge=8, description="use at most this many training images of the data set; examples are always used"
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="epochs without a better validation score after which a rung ends, with the weights of its best "
        "epoch; absent: all epochs, with the weights of the last",
    )
    precision: Precision = Field(Precision.F32, description="floats of the passes; auto: the faster, as measured here")
    examples: bool = Field(True, description="learn from the task's examples as well, where the policy gives consent")
    teacher: Teacher = Field(Teacher.NONE, description="whose answers the rungs learn from; without labels: full")
    unlabelled: str | None = Field(None, description="learn from the images below this directory, in place of labels")

    @model_validator(mode="after")
    def _consistent(self) -> TrainSpec:
        check_kinds(self.kinds, self.options)
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("The tasks of a job are each named once.")
        if self.together and self.precision is not Precision.F32:
            raise ValueError("Several tasks are trained together in f32 alone.")
        taught = self.teacher is not Teacher.NONE or self.unlabelled is not None
        if self.together and (taught or PatchKind.STATISTICS in self.kinds):
            raise ValueError("Tasks that are trained together have no teacher, need labels, and keep their statistics.")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Every task that the job trains."""
        return (self.task, *self.together)


class JobState(StrEnum):
    """Life of a training job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class MemberProgress(Frozen):
    """One of several tasks that are trained together, at one resolution."""

    task: str
    resolution: int
    loss: float | None = Field(None, description="of the last step")
    gradient_norm: float | None = Field(
        None, description="length of its gradient on the base's unfrozen parameters, smoothed; each counts as one"
    )


class JobProgress(Frozen):
    """Where a job stands."""

    rung: int = Field(0, description="index into the job's resolutions")
    rungs: int = 1
    resolution: int = 0
    epoch: int = Field(0, description="epochs of this rung that are done")
    epochs: int = 0
    step: int = Field(0, description="steps done in this rung")
    steps: int = Field(0, description="steps of this rung in all")
    loss: float | None = None
    samples_per_s: float | None = None
    rate_share: float | None = Field(None, description="of the learning rates that the rung began with")
    validation: float | None = Field(None, description="top-1 on the validation part after the last epoch done")
    best_epoch: int | None = Field(None, description="the epoch of this rung with the best validation score so far")
    kept_from: int | None = Field(None, description="the first unit that still runs where features are kept on disk")
    kept_bytes: int = Field(0, description="what kept features take of the disk")
    plan: TrainingPlan | None = None
    precision: Precision | None = Field(None, description="of the rung's passes; absent: not decided yet")
    members: tuple[MemberProgress, ...] = Field((), description="of a job of several tasks")
    phase: str = Field(
        "",
        description="measuring costs, checking images, asking the teacher, loading, statistics, features, training, "
        "evaluating, waiting",
    )


class RungResult(Frozen):
    """What training one rung gave."""

    task: str = Field("", description="of a job of several tasks, which one; empty: the job's own")
    resolution: int
    patch_id: str
    parameters: int
    share: float = Field(description="patch parameters over base parameters")
    bytes: int
    validation: Evaluation
    test: Evaluation | None
    seconds: float
    rival_id: str | None = Field(None, description="the patch that was in force when it was done, if any")
    rival: Evaluation | None = Field(
        None, description="what was in force, that or the bare base, scores on the same validation images"
    )
    published: bool = Field(False, description="whether it became the rung in force")
    note: str = ""
