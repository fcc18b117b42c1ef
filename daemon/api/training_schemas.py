"""Bodies of the `/v1` API that tell how training goes and what it used."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from ...policies.snapshot import Frozen
from ...policies.training_curve import MOST_POINTS, CurvePoint
from ...policies.training_use import TrainingUse


class JobUse(Frozen):
    """What one job used."""

    job: str
    use: TrainingUse


class DayUse(Frozen):
    """What training used on one local day."""

    day: date
    use: TrainingUse = Field(description="of all jobs together")
    jobs: tuple[JobUse, ...]


class JobCurve(Frozen):
    """The curve of a job, rung after rung."""

    job: str
    points: tuple[CurvePoint, ...] = Field((), max_length=MOST_POINTS)


class TrainingUsage(Frozen):
    """What training used on the last days, the newest first; days without training are left out."""

    today: date = Field(description="the local day, which began at midnight")
    today_cpu_seconds: float = Field(description="processor seconds that training has used of it")
    max_minutes_per_day: float | None = Field(None, description="the policy's limit, processor minutes")
    days: tuple[DayUse, ...]
    use: TrainingUse = Field(description="of all these days together")
