"""Messages between the control plane and its workers, and their framing on a stream socket.

A frame is `header_length` (4 bytes) and `payload_length` (8 bytes), both big-endian, then the header (JSON of one
of the models below, told apart by `type`) and the payload (raw bytes: an image or a tensor). No pickle anywhere.
"""

from __future__ import annotations

import struct
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from ...policies.base_version import VersionMetadata
from ...policies.batching import PATIENT, URGENT, USUAL
from ...policies.cascade import AcceptRule, CalibrationImage, Cascade, CascadePoint, Price, Row, RungId
from ...policies.decision import TrainingPlan
from ...policies.examples import ExampleFile
from ...policies.snapshot import Frozen
from ...policies.task import (
    ExportFormat,
    ExportReport,
    JobProgress,
    PatchMetadata,
    Preprocessing,
    RungResult,
    TaskSpec,
    TrainSpec,
)
from ...policies.training_corrections import PlanUse
from .measure_messages import (
    JobOutlined,
    MeasureImportance,
    MeasureTraining,
    MeasuringEnded,
    TrainingMeasured,
    TrainingMeasuring,
)

PREFIX = struct.Struct(">IQ")
MAX_HEADER_BYTES = 4 * 1024 * 1024


class RungRef(Frozen):
    """Everything a worker needs to run one rung; it carries no state of its own between requests."""

    task: str
    base: str
    resolution: int
    patch_file: str | None = None
    patch_id: str | None = None
    labels: int
    preprocessing: Preprocessing


class StageRef(Frozen):
    """A stage of a cascade: its rung, when its answer is taken, and what it costs an input that comes to it."""

    rung: RungRef
    rule: AcceptRule
    cost_ms: float = 0.0


class InferRequest(Frozen):
    """Run one image. The payload is an encoded image, or a tensor of `shape` and `datatype`, row-major."""

    type: Literal["infer"] = "infer"
    id: int
    rung: RungRef
    smaller: tuple[RungRef, ...] = Field(
        (), description="rungs that an image which has their form already goes to, in place of `rung`"
    )
    stages: tuple[StageRef, ...] = Field(
        (), description="a cascade that an image which goes to none of `smaller` passes in place of `rung`"
    )
    audit: tuple[RungRef, ...] = Field(
        (),
        description="rungs to run on it as well when there is nothing else to do, unless it goes to one of `smaller`; "
        "`Audited` tells what they said",
    )
    form: Literal["image", "pixels", "input"] = Field(
        description="image: JPEG/PNG bytes; pixels: UINT8 [H,W,3] RGB; input: FP32 [3,R,R] already preprocessed"
    )
    shape: tuple[int, ...] = ()
    top_k: int = 5
    max_pixels: int = 40_000_000
    threads: int = Field(1, ge=1, description="threads to spread this request over")
    client: str = Field("", description="who asks; clients take turns")
    priority: int = Field(USUAL, ge=URGENT, le=PATIENT, description="1 goes before 2, and 2 before 3")
    batch_delay_ms: float = Field(0.0, ge=0, description="how long it may wait for others to share a batch with")
    cost_ms: float = Field(0.0, ge=0, description="what it is known to cost, to be kept free before its deadline")
    expires_s: float | None = Field(None, description="its deadline, seconds of CLOCK_MONOTONIC")


class Timing(Frozen):
    """Where a prediction's time went, in milliseconds."""

    decode_ms: float
    preprocess_ms: float
    bind_ms: float = Field(description="swapping the patch in")
    network_ms: float

    @property
    def spent_ms(self) -> float:
        """All of it."""
        return self.decode_ms + self.preprocess_ms + self.bind_ms + self.network_ms


class Passage(Frozen):
    """How far an image went through a cascade."""

    stage: int = Field(ge=0, description="index of the stage that answered")
    confidence: float = Field(description="the score of its rule; of the last stage's answer its probability")
    late: bool = Field(False, description="a further stage was due, and had no time before the deadline")


class InferResult(Frozen):
    """The answer to one `InferRequest`."""

    type: Literal["result"] = "result"
    id: int
    indices: tuple[int, ...]
    probabilities: tuple[float, ...]
    timing: Timing
    engine: str = Field(description="the engine that ran it: what the fast one cannot run, the reference does")
    resolution: int = Field(description="the rung's that ran it")
    batch: int = Field(1, ge=1, description="images that ran together")
    image_size: tuple[int, int] | None = Field(None, description="width, height as sent")
    passage: Passage | None = Field(None, description="through the cascade, where there was one")


class Audited(Frozen):
    """What the rungs of a request's `audit` said, in their order, beside the answer that was given."""

    type: Literal["audited"] = "audited"
    id: int
    given: int = Field(description="class index of the answer")
    answers: tuple[int, ...]
    features: tuple[tuple[float, ...], ...]


class ProfileRequest(Frozen):
    """Measure the cost of one image, decoded pixels to answer, at each resolution."""

    type: Literal["profile"] = "profile"
    id: int
    base: str
    resolutions: tuple[int, ...]
    repeats: int
    threads: int = Field(1, ge=1, description="threads to spread each run over")


class RungCost(Frozen):
    """Median and 90th percentile of one image's cost, milliseconds: resize, normalise, network."""

    resolution: int
    prepare_ms: float = Field(description="median of resize and normalise")
    median_ms: float
    p90_ms: float
    repeats: int


class ProfileResult(Frozen):
    """The answer to one `ProfileRequest`."""

    type: Literal["profile_result"] = "profile_result"
    id: int
    base: str
    engine: str
    threads: int
    costs: tuple[RungCost, ...]


class CheckPatch(Frozen):
    """Load a patch file and check every tensor of it against its base."""

    type: Literal["check_patch"] = "check_patch"
    id: int
    base: str
    patch_file: str


class PatchChecked(Frozen):
    """The patch fits; one that does not is answered with a `WorkerError`."""

    type: Literal["patch_checked"] = "patch_checked"
    id: int


class CheckImage(Frozen):
    """Decode the payload, an encoded image, as a prediction would."""

    type: Literal["check_image"] = "check_image"
    id: int
    max_pixels: int


class ImageChecked(Frozen):
    """The image can be decoded; one that cannot is answered with a `WorkerError`."""

    type: Literal["image_checked"] = "image_checked"
    id: int


class WorkerError(Frozen):
    """One request failed; the worker serves on. `code` is that of the error hierarchy."""

    type: Literal["error"] = "error"
    id: int
    code: str
    message: str
    hint: str | None = None


class Export(Frozen):
    """The request of an exporting worker: write a patched model to `output`."""

    type: Literal["export"] = "export"
    base: str
    patch_file: str
    format: ExportFormat
    output: str
    versions: str | None = Field(None, description="folder of base versions")


class Exported(Frozen):
    """The one message of an exporting worker: the model is written."""

    type: Literal["exported"] = "exported"
    report: ExportReport


class Calibrate(Frozen):
    """The request of a calibrating worker: measure what is to be measured, then plan a cascade.

    The inputs are those of the table where nothing else is named: then only the prices or the promise are new.
    """

    type: Literal["calibrate"] = "calibrate"
    task: TaskSpec
    rungs: tuple[RungRef, ...]
    reference: RungId
    epsilon: float
    delta: float
    table_file: str = Field(description="written when something was measured, else read")
    own_data: bool = Field(False, description="measure on the test part of the task's data set")
    images: tuple[CalibrationImage, ...] = Field((), description="measure on these, all of them labelled or none")
    rows: tuple[Row, ...] = Field((), description="these were measured already, by audits, on `rungs` in their order")
    prices: tuple[Price, ...]
    decode_ms: float | None = Field(None, description="absent: as measured on the images")
    engine: str = "torch"
    precision: Literal["f32", "bf16"] = "f32"
    threads: int = Field(1, ge=1)
    graphs: str | None = None
    versions: str | None = Field(None, description="folder of base versions")


class Calibrating(Frozen):
    """Sent now and then while images are run."""

    type: Literal["calibrating"] = "calibrating"
    done: int
    images: int


class Calibrated(Frozen):
    """The last message of a calibrating worker."""

    type: Literal["calibrated"] = "calibrated"
    cascade: Cascade
    points: tuple[CascadePoint, ...]
    decode_ms: float
    dispatch_ms: float
    samples: int


class Ready(Frozen):
    """The worker's first message."""

    type: Literal["ready"] = "ready"
    engine: str


class Stop(Frozen):
    """Finish what is in hand and exit."""

    type: Literal["stop"] = "stop"


class StartJob(Frozen):
    """Prepare a training job, resuming from `checkpoint_dir` where it holds a checkpoint."""

    type: Literal["start_job"] = "start_job"
    job_id: str
    task: TaskSpec
    spec: TrainSpec
    checkpoint_dir: str
    patches_dir: str
    versions: str | None = Field(None, description="folder of base versions")
    further: tuple[TaskSpec, ...] = Field((), description="tasks that train the base together with `task`")
    examples: tuple[ExampleFile, ...] = Field((), description="images that applications handed over, as of this start")


class InForce(Frozen):
    """What answers at a rung while it is trained anew."""

    task: str = Field("", description="of a job of several tasks, which one")
    resolution: int
    file: str | None = Field(None, description="its patch; absent: the base as it is")


class RunSlice(Frozen):
    """Train for at most `seconds` under `plan`, then checkpoint and answer `SliceDone` or `JobDone`."""

    type: Literal["run_slice"] = "run_slice"
    seconds: float
    plan: TrainingPlan
    threads: int = Field(1, ge=1, description="threads to spread each step over")
    features_bytes: int | None = Field(None, ge=0, description="quota for kept features; absent: none")
    in_force: tuple[InForce, ...] = Field((), description="what finished rungs are compared with")


class YieldSlice(Frozen):
    """End the slice after the step in hand."""

    type: Literal["yield_slice"] = "yield_slice"


class Progress(Frozen):
    """Sent a few times a second while a slice runs."""

    type: Literal["progress"] = "progress"
    progress: JobProgress


class Note(Frozen):
    """Something the operator should know that ends neither a job nor a request; `kind` is the event's."""

    type: Literal["note"] = "note"
    kind: str = "engine.refused"
    message: str


class RungDone(Frozen):
    """A rung's patch lies in the patches directory, fsynced."""

    type: Literal["rung_done"] = "rung_done"
    result: RungResult
    metadata_json: str = Field(description="PatchMetadata as JSON")


class MemberDone(Frozen):
    """The private patch of one of several tasks lies in the patches directory, fsynced."""

    result: RungResult
    metadata: PatchMetadata


class VersionDone(Frozen):
    """A base version lies in the folder of versions, fsynced, with the private patches that go with it."""

    type: Literal["version_done"] = "version_done"
    name: str
    sha256: str
    bytes: int
    metadata: VersionMetadata
    members: tuple[MemberDone, ...]


class SliceDone(Frozen):
    """The slice has ended and its checkpoint is on disk."""

    type: Literal["slice_done"] = "slice_done"
    seconds: float
    cpu_seconds: float
    progress: JobProgress
    uses: tuple[PlanUse, ...] = Field((), description="what each plan that ran took")


class JobDone(Frozen):
    """All rungs are trained."""

    type: Literal["job_done"] = "job_done"
    seconds: float
    cpu_seconds: float
    uses: tuple[PlanUse, ...] = Field((), description="what each plan that ran took")


class SliceFailed(Frozen):
    """The slice could not be kept, for want of space perhaps; the job stands and its last checkpoint with it."""

    type: Literal["slice_failed"] = "slice_failed"
    message: str


class OutOfMemory(Frozen):
    """Memory ran out in a step. The process ends, and its next one goes on from the last checkpoint."""

    type: Literal["out_of_memory"] = "out_of_memory"
    message: str


class JobFailed(Frozen):
    """The job cannot go on."""

    type: Literal["job_failed"] = "job_failed"
    code: str
    message: str


Message = Annotated[
    InferRequest
    | InferResult
    | Audited
    | ProfileRequest
    | ProfileResult
    | CheckPatch
    | PatchChecked
    | CheckImage
    | ImageChecked
    | WorkerError
    | Export
    | Exported
    | Calibrate
    | Calibrating
    | Calibrated
    | Ready
    | Stop
    | StartJob
    | RunSlice
    | YieldSlice
    | Progress
    | Note
    | RungDone
    | VersionDone
    | SliceDone
    | JobDone
    | SliceFailed
    | OutOfMemory
    | JobFailed
    | MeasureTraining
    | MeasureImportance
    | TrainingMeasuring
    | TrainingMeasured
    | MeasuringEnded
    | JobOutlined,
    Field(discriminator="type"),
]
MESSAGE: TypeAdapter[Message] = TypeAdapter(Message, config=ConfigDict(defer_build=True))  # until a worker starts


def encode(message: Message, payload: bytes = b"") -> bytes:
    """One frame, ready to send."""
    header = message.model_dump_json().encode()
    return PREFIX.pack(len(header), len(payload)) + header + payload
