"""Bodies of the `/v1` API that tell what was: the history of a period, as `patchctl report` draws it."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from ...policies.snapshot import Frozen
from .schemas import Event


class Lazy(Frozen):
    """A body whose validator is built when it is first used: most daemons are never asked for their history."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class TrainingSlice(Lazy):
    """One slice of training under one plan, or several that followed each other."""

    start_s: float
    end_s: float
    job: str
    task: str
    resolution: int | None = Field(None, description="side of the network input, pixels")
    plan: str = Field(description="in words")
    cost: float | None = Field(None, description="predicted share of a full fine-tuning step at the full resolution")
    measured_cost: float | None = Field(None, description="the same share as measured: median step over a full step")
    cpu_seconds: float = Field(0.0, description="processor time of the worker")
    steps: int = 0
    samples: int = Field(0, description="images through training steps")
    slices: int = Field(1, description="how many are told together")


class SpanView(Lazy):
    """The least, the mean over time and the most of a number."""

    low: float
    mean: float
    high: float


class AllocationView(Lazy):
    """One allocation in a stretch of time."""

    value: SpanView
    steps: tuple[tuple[float, float, float], ...] = Field(
        description="changes: Unix time, value in force, what the rules asked for; the first is the state at the start"
    )
    held_by: dict[str, float] = Field(
        description="seconds by what kept it down: 'rule NAME', 'hold' (rising slowly), 'training.KEY' of the policy"
    )


class TaskHistory(Lazy):
    """One task in a stretch of time."""

    pixels: dict[int, float] = Field(description="seconds that the rung of so many pixels was in force")
    steps: tuple[tuple[float, float], ...] = Field(description="changes of the rung in force: Unix time, pixels")
    requests: int = Field(description="predictions answered")
    p50_ms: float | None = Field(None, description="half of them took no longer; within 4.5 %, as all quantiles here")
    p95_ms: float | None = None
    most_ms: float | None = Field(None, description="the longest")
    refused: dict[str, int] = Field(description="requests that ended in an error, by its code")
    stages: dict[str, int] = Field(description="answers by stage of the cascade")


class HistoryRow(Lazy):
    """A stretch of time: a minute, a quarter of an hour of older ones, or several of them together."""

    first_s: float = Field(description="Unix time")
    last_s: float
    signals: dict[str, SpanView]
    inference: AllocationView | None = Field(None, description="absent where nothing was decided")
    training: AllocationView | None = None
    tasks: dict[str, TaskHistory]
    policies: dict[str, float] = Field(description="seconds that each policy was in force")


class Gap(Lazy):
    """A time in which nothing was recorded: patchd did not run, the device slept, or the clock was set."""

    from_s: float
    to_s: float


class TaskTotal(Lazy):
    """One task over the whole period."""

    pixels: dict[int, float]
    requests: int
    p50_ms: float | None = None
    p95_ms: float | None = None
    most_ms: float | None = None
    refused: dict[str, int]
    stages: dict[str, int]


class TrainedTotal(Lazy):
    """All training slices of a period together."""

    slices: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    samples: int = Field(0, description="images through training steps")
    jobs: int = 0


class History(Lazy):
    """What was in a period."""

    from_s: float
    to_s: float
    now_s: float = Field(description="when this was put together")
    version: str = Field(description="of patchd")
    step_s: float = Field(description="rows are of so long, or longer where the history is coarser")
    rows: tuple[HistoryRow, ...]
    gaps: tuple[Gap, ...]
    tasks: dict[str, TaskTotal]
    slices: tuple[TrainingSlice, ...] = Field(description="neighbours of one plan together where there are many")
    trained: TrainedTotal = Field(description="all of the period; of very many slices `slices` has the newest alone")
    events: tuple[Event, ...] = Field(description="oldest first; where there are too many, grave ones and the newest")
    events_by_kind: dict[str, int] = Field(description="of all in the period")
    units: dict[str, str] = Field(description="of the signals")
