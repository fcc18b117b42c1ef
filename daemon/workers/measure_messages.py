"""Messages about what training costs: asked of the training worker, and its answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...policies.snapshot import Frozen
from ..training_records import JobFacts, MeasuredTraining


class MeasureTraining(Frozen):
    """Measure what training a base costs, in about `seconds`; a `YieldSlice` ends it after the pass in hand."""

    type: Literal["measure_training"] = "measure_training"
    base: str
    resolutions: tuple[int, ...] = Field(min_length=1)
    seconds: float
    threads: int = Field(ge=1, description="threads to spread each pass over")


class MeasureImportance(Frozen):
    """Compute the Fisher information of the job's base on its data; the answer is `JobOutlined` with it."""

    type: Literal["measure_importance"] = "measure_importance"
    resolution: int = Field(gt=0, description="pixels of the images that it is computed on")
    threads: int = Field(ge=1)


class TrainingMeasuring(Frozen):
    """Sent now and then while something is measured."""

    type: Literal["training_measuring"] = "training_measuring"
    share: float = Field(ge=0, le=1, description="of it that is done")


class TrainingMeasured(Frozen):
    """The answer to `MeasureTraining`."""

    type: Literal["training_measured"] = "training_measured"
    measured: MeasuredTraining
    seconds: float


class MeasuringEnded(Frozen):
    """Nothing was measured: it was told to yield, or `message` says why it cannot."""

    type: Literal["measuring_ended"] = "measuring_ended"
    message: str | None = None


class JobOutlined(Frozen):
    """What the worker knows of the job in hand; sent when it has started, and when its importance is computed."""

    type: Literal["job_outlined"] = "job_outlined"
    facts: JobFacts
