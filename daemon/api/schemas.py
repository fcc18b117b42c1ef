"""Bodies of the `/v1` API. Every body that is read or sent is one of these models."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from ...policies.base_version import VersionMetadata, VersionOutcome
from ...policies.batching import PATIENT, URGENT, USUAL
from ...policies.cascade import Basis, CalibrationImage, Cascade, CascadePoint, Price, Promise, RungId
from ...policies.decision import Decision, Ladder, Rung, TrainingDecision
from ...policies.drift import DriftState
from ...policies.snapshot import Frozen, Snapshot
from ...policies.task import (
    BaseRungs,
    Changes,
    ExportFormat,
    ExportReport,
    JobProgress,
    JobState,
    Name,
    PatchMetadata,
    Preprocessing,
    RungResult,
    Side,
    TaskSpec,
    TrainSpec,
    check_others,
)
from ...policies.training_use import TrainingUse
from ..training_records import MeasuredTraining, PlanReport
from .example_schemas import ExampleSummary
from .sampling_schemas import SamplingState

CALIBRATION_REPEATS = 15  # runs a rung; the median of fewer still moves with bursts of other work


class Error(Frozen):
    """Every answer that is not 2xx. `error` is one readable sentence; `code` is stable."""

    error: str
    code: str
    hint: str | None = None
    retry_after_s: float | None = None
    request_id: str | None = None


class PolicyState(Frozen):
    """The policy in force and, where a newer file was refused, why."""

    name: str
    source: str = Field(description="path of the file, or 'preset:NAME'")
    files: tuple[str, ...] = Field((), description="all files that it comes from, later ones laid over earlier ones")
    sha256: str = Field(description="of the texts of all its files")
    loaded_s: float
    error: str | None = Field(None, description="why a newer version of the file is not in force")


class WorkerStatus(Frozen):
    """One worker process."""

    name: Literal["inference", "training"]
    state: Literal["stopped", "starting", "ready", "busy"]
    pid: int | None = None
    engine: str | None = None
    threads: int | None = None
    resident_bytes: int | None = None
    started_s: float | None = None
    restarts: int = 0
    in_flight: int = 0
    reason: str | None = Field(None, description="why a worker that was loaded is not any more")


class StageAnswers(Frozen):
    """How often a stage of a cascade gave the answer."""

    stage: str
    answers: int


class TaskServing(Frozen):
    """What came for one task since the start. The counts only grow: two looks tell what was between them."""

    task: str
    times: dict[int, int] = Field(
        description="answers by class of what they took: class k holds 2^(k/8) to 2^((k+1)/8) ms"
    )
    most_ms: float = Field(description="the longest")
    refused: dict[str, int] = Field(description="requests that ended in an error, by its code")
    stages: tuple[StageAnswers, ...] = Field((), description="of its cascade, since that was made")


class Status(Frozen):
    """The daemon at a glance."""

    version: str
    pid: int
    started_s: float
    now_s: float
    state_dir: str
    socket: str
    listen: str | None = Field(None, description="address and port of the TCP listener, where there is one")
    policy: PolicyState
    decision: Decision | None
    snapshot: Snapshot | None
    workers: tuple[WorkerStatus, ...]
    tasks: int
    jobs_active: int
    requests_total: int
    serving: tuple[TaskServing, ...] = Field((), description="tasks that were asked since the start")
    trace: str | None = Field(None, description="name of the trace being replayed into the monitor")
    examples: ExampleSummary = Field(ExampleSummary(), description="what applications handed over to learn from")
    sampling: SamplingState | None = Field(None, description="how often the device is looked at, and why")


class PolicyInfo(Frozen):
    name: str
    source: str
    description: str
    in_force: bool


class PolicyList(Frozen):
    policies: tuple[PolicyInfo, ...]


class PolicyText(Frozen):
    name: str
    source: str
    in_force: bool
    toml: str


class PolicyUse(Frozen):
    """Put a policy in force: a preset's or file's `name`, or the absolute `path` of a file."""

    name: str | None = None
    path: str | None = None


class TaskCreate(Frozen):
    """Add a task. Labels come from the data set unless given."""

    name: Name
    data: str | None = None
    base: str = "lite0"
    labels: tuple[str, ...] = ()
    resolutions: tuple[Side, ...] = Field((224, 192, 160, 128, 96), min_length=1)
    others: tuple[BaseRungs, ...] = Field((), description="rungs of other bases, for cascades")
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Changes = ()

    @model_validator(mode="after")
    def _consistent(self) -> TaskCreate:
        check_others(self.base, self.others)
        return self


class TaskView(Frozen):
    """A task with its ladder."""

    spec: TaskSpec
    created_s: float
    ladder: Ladder | None = Field(
        None, description="of the task's own base; absent while no rung of it can answer: nothing has been trained yet"
    )
    pool: tuple[Rung, ...] = Field((), description="every rung that can answer, of all bases of the task")
    predictions: int = 0


class TaskList(Frozen):
    tasks: tuple[TaskView, ...]


class BaseUse(Frozen):
    """A task that answers with rungs of a base."""

    task: str
    resolutions: tuple[int, ...] = Field(description="of the patches that are in force for them, pixels")


class BaseView(Frozen):
    """A base: a packaged one, or a version that tasks made of it together."""

    name: str
    packaged: str = Field(description="the packaged base that it is, or is a version of")
    sha256: str | None = Field(None, description="of a version's file")
    bytes: int | None = Field(None, description="of a version's file, which holds only what differs")
    metadata: VersionMetadata | None = Field(None, description="of a version")
    used_by: tuple[BaseUse, ...] = Field((), description="tasks whose predictions run on it")
    ready: tuple[BaseUse, ...] = Field((), description="tasks that have patches for it and could move to it")
    jobs: tuple[str, ...] = Field((), description="training jobs on it that have not ended")


class BaseList(Frozen):
    bases: tuple[BaseView, ...]


class TaskMove(Frozen):
    """Have a task answer on another version of its base."""

    to: str = Field(description="a base version, or the packaged base")


class PatchView(Frozen):
    """A stored patch."""

    id: str = Field(description="sha256 of the file")
    bytes: int
    in_force: bool
    metadata: PatchMetadata

    @property
    def share(self) -> float:
        return self.metadata.parameters / self.metadata.base_parameters


class RollbackCreate(Frozen):
    """Which rungs of a task go back to what they had before."""

    base: str | None = Field(None, description="one of the task's bases; absent: its own")
    resolution: int | None = Field(None, gt=0, description="pixels; absent: every rung that had something before")


class RungRollback(Frozen):
    """A rung that has gone back."""

    base: str
    resolution: int
    patch_id: str | None = Field(None, description="in force again; absent: the base as it is")
    taken_back: str | None = Field(None, description="the patch that was in force; it stays stored")


class Rollback(Frozen):
    """What has gone back."""

    task: str
    rungs: tuple[RungRollback, ...]


class PatchList(Frozen):
    patches: tuple[PatchView, ...]


class JobView(Frozen):
    """A training job."""

    id: str
    state: JobState
    spec: TrainSpec
    created_s: float
    updated_s: float
    progress: JobProgress
    results: tuple[RungResult, ...] = ()
    error: str | None = None
    waiting: str | None = Field(None, description="why a queued or running job does not advance now")
    seconds: float = Field(0.0, description="wall seconds spent in slices")
    cpu_seconds: float = 0.0
    slices: int = 0
    version: VersionOutcome | None = Field(None, description="the base version that a job of several tasks has made")
    use: TrainingUse = Field(TrainingUse(), description="what it used, a slice that was lost included")
    plan: TrainingDecision | None = Field(
        None, description="the plan for its next slice, with those refused; absent where another job is in hand"
    )
    plans_run: tuple[PlanReport, ...] = Field((), description="what its plans took beside what was predicted")
    examples: int | None = Field(None, description="handed-over images that it was started with; absent: not started")
    memory_cap_bytes: int | None = Field(None, description="of its steps, since memory ran out in one")


class JobList(Frozen):
    jobs: tuple[JobView, ...]


class CostView(Frozen):
    """The measured cost of one image at one resolution of one base, milliseconds."""

    base: str
    resolution: int
    prepare_ms: float = Field(description="median of resize and normalise alone")
    median_ms: float
    p90_ms: float
    samples: int
    engine: str
    measured_s: float


class RequestLatency(Frozen):
    """What the last requests of a rung took, milliseconds, from the last byte in to the answer; no worker started."""

    task: str
    base: str
    resolution: int
    samples: int
    p50_ms: float
    p99_ms: float
    network_p50_ms: float


class Profile(Frozen):
    """Measured costs: of each rung by calibration, and of the requests served."""

    costs: tuple[CostView, ...]
    requests: tuple[RequestLatency, ...]


class TrainingProfile(Frozen):
    """What training costs, as it was measured here and as slices corrected it; empty before the first measurement."""

    measured: tuple[MeasuredTraining, ...]


class TrainingProfileRun(Frozen):
    """Measure what training a base costs now, between two slices of a job."""

    base: str = "lite0"
    resolutions: tuple[Side, ...] = Field((), description="absent: all that tasks train this base at")


class ProfileRun(Frozen):
    """Measure now."""

    base: str = "lite0"
    resolutions: tuple[Side, ...] = ()
    repeats: int = Field(CALIBRATION_REPEATS, ge=1, le=200)


class Event(Frozen):
    """Something that happened; `data` depends on `kind`."""

    id: int
    time_s: float
    level: Literal["info", "warning", "error"]
    kind: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class EventList(Frozen):
    events: tuple[Event, ...]


Form = Literal["image", "pixels", "input"]


class TensorInput(Frozen):
    """A raw tensor: UINT8 [H,W,3] is an RGB image; FP32 [3,R,R] or [1,3,R,R] is a finished network input."""

    shape: tuple[int, ...]
    datatype: Literal["UINT8", "FP32"]
    data: list[float] = Field(description="row-major, flat")


class InferJson(Frozen):
    """JSON form of an inference request; images go faster as `image/jpeg` or `image/png` bodies."""

    tensor: TensorInput
    top_k: int = Field(5, ge=1, le=1000)
    base: str | None = None
    resolution: Side | None = None
    min_accuracy: float | None = Field(None, ge=0, le=1)
    cascade: bool = True
    deadline_ms: float | None = Field(None, gt=0)
    priority: int = Field(USUAL, strict=True, ge=URGENT, le=PATIENT)


class StageCount(Frozen):
    """What one stage of a cascade has answered."""

    answers: int = 0
    spent_ms: float = Field(0.0, description="in all, from decoding to the last network, of the answers it gave")


class CascadeState(Frozen):
    """A task's cascade, whether it is in force, and what it rests on."""

    task: str
    cascade: Cascade
    in_force: bool
    reason: str = Field(description="why it is in force, or is not")
    calibrated_on: str
    samples: int = Field(description="inputs in all, to search and to certify on")
    prices: tuple[Price, ...] = Field(description="the costs it was planned for")
    decode_ms: float
    dispatch_ms: float
    drift: DriftState = DriftState()
    drifted_since_s: float | None = Field(None, description="when its answers began to differ, by the drift test")
    rungs: tuple[RungId, ...] = Field((), description="those that it was planned among")
    retry_from: int | None = Field(
        None, description="after a drift: audited inputs to wait for, since as many as there were promised nothing"
    )


class CalibrationView(Frozen):
    """Where a calibration stands, or how the last one ended."""

    state: Literal["running", "done", "failed", "cancelled"]
    what: str
    done: int = Field(0, description="images that all rungs have run on")
    images: int = 0
    error: str | None = None


class CascadeView(Frozen):
    """A task's cascade, what its stages have answered since it was made or the daemon started, and its calibration."""

    task: str
    state: CascadeState | None = Field(None, description="absent before the first calibration")
    counts: tuple[StageCount, ...] = Field((), description="stage by stage; empty before the first prediction")
    audit_rows: int = Field(0, description="audited inputs that a calibration from requests could use")
    enabled: bool = Field(True, description="false: the policy has cascades switched off")
    calibration: CalibrationView | None = None


class CascadePoints(Frozen):
    """What the search for a task's cascade weighed."""

    task: str
    basis: Basis
    points: tuple[CascadePoint, ...]


class CalibrateCreate(Frozen):
    """Make a cascade. Without images, on the test part of the task's data set."""

    images: tuple[CalibrationImage, ...] = Field((), description="all of them labelled, or none")
    from_requests: bool = Field(False, description="on what audits of requests have gathered")
    again: bool = Field(False, description="on the inputs of the last time, at the costs of now")
    reference: tuple[str, Side] | None = Field(None, description="base and side of the rung to be compared with")
    epsilon: float | None = Field(None, gt=0, lt=0.5, description="absent: the policy's")
    delta: float | None = Field(None, gt=0, lt=0.5, description="absent: the policy's")

    @model_validator(mode="after")
    def _one_source(self) -> CalibrateCreate:
        if sum((bool(self.images), self.from_requests, self.again)) > 1:
            raise ValueError("Give only one of images, from_requests and again.")
        return self


class CascadeAnswer(Frozen):
    """How far an input went through its task's cascade."""

    stage: int = Field(description="index of the stage that answered")
    stages: int = Field(description="of the whole cascade")
    confidence: float = Field(description="the score of the stage's rule; of the last stage its probability")
    cost_ms: float = Field(description="known cost of the stages that ran; `timing` has what this answer took")
    late: bool = Field(description="a further stage was due, and had no time before the deadline")
    shortened: bool = Field(description="the inference allocation affords a part of the cascade only")
    promise: Promise | None = Field(None, description="that this answer comes under")
    text: str


class Prediction(Frozen):
    label: str
    index: int
    probability: float


class InferTiming(Frozen):
    """Milliseconds, from the last byte of the request to the answer."""

    total_ms: float
    queue_ms: float
    start_worker_ms: float = 0.0
    decode_ms: float
    preprocess_ms: float
    bind_ms: float
    network_ms: float


class ExportCreate(Frozen):
    """Write a patched model for use elsewhere."""

    format: ExportFormat


class ExportView(Frozen):
    """A model that was written: fetch it at /v1/exports/{name} within an hour."""

    name: str
    bytes: int
    report: ExportReport


class InferAnswer(Frozen):
    """A prediction, and what was decided for it."""

    request_id: str
    task: str
    predictions: tuple[Prediction, ...]
    base: str
    resolution: int
    patch_id: str | None
    decision_id: str | None
    allocation: float
    engine: str
    batch: int = Field(1, description="images that ran together with this one, itself included")
    why: str
    cascade: CascadeAnswer | None = Field(None, description="absent where the input passed none")
    timing: InferTiming


class TraceReplay(Frozen):
    """Feed a trace to the monitor in place of the device, `speed` times as fast as recorded."""

    name: str
    speed: float = Field(1.0, gt=0, le=1000)
    jsonl: str = Field(description="the trace file's text")


class TraceState(Frozen):
    active: bool
    name: str | None = None
    position_s: float | None = None
    duration_s: float | None = None


class Deleted(Frozen):
    """What was removed."""

    deleted: str


class SafetensorsHeader(BaseModel):
    """The part of a safetensors header that patchd reads without torch."""

    metadata: dict[str, str] = Field(default_factory=dict, alias="__metadata__")
