"""What the training worker tells of a base's costs and of its job, as it is sent and stored."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from ..policies.decision import TrainingPlan
from ..policies.snapshot import Frozen
from ..policies.training_costs import AddedLayer, TrainingCosts


class MeasuredTraining(Frozen):
    """What training a base costs here, and what it was measured on: on anything else it is measured again."""

    torch: str = Field(description="version of torch")
    processor: str = Field(description="model of the processor")
    costs: TrainingCosts


class PlanReport(Frozen):
    """What a plan of a job took, beside what was predicted for it: of all slices that ran under it."""

    plan: TrainingPlan
    resolution: int
    threads: int = Field(ge=1)
    bf16: bool = Field(False, description="whether its passes ran in bfloat16")
    steps: int = Field(ge=0)
    samples: int = Field(ge=0)
    cpu_seconds: float = Field(ge=0, description="processor time of its steps")
    predicted_step_ms: float | None = Field(None, description="processor time of a step, before any correction")
    measured_step_ms: float = Field(description="the same, median of the last slice")
    time_factor: float = Field(1.0, description="correction in force after the last slice")
    predicted_bytes: int | None = Field(None, description="peak of memory, before any correction")
    measured_bytes: int | None = Field(None, description="the same, of the last slice")
    memory_factor: float = 1.0
    full_step_ms: float | None = Field(None, description="predicted for full fine-tuning at the full resolution")


MOST_REPORTS = 24  # of a job


def joined(reports: tuple[PlanReport, ...], last: PlanReport) -> tuple[PlanReport, ...]:
    """The reports with those of one plan summed up, the plan that ran last at the end."""
    run = (last.plan.as_run, last.resolution, last.bf16)
    same = [r for r in reports if (r.plan.as_run, r.resolution, r.bf16) == run]
    others = tuple(r for r in reports if r not in same)
    summed = last.model_copy(
        update={
            name: getattr(last, name) + sum(getattr(r, name) for r in same)
            for name in ("steps", "samples", "cpu_seconds")
        }
    )
    return (*others, summed)[-MOST_REPORTS:]


class JobFacts(Frozen):
    """What the planner must know of a job and only its worker can find out."""

    train_images: int = Field(ge=1)
    validation_images: int = Field(ge=0)
    added: tuple[AddedLayer, ...] = Field((), description="layers that its patch kinds join to the base")
    augmented: bool = Field(False, description="inputs differ from epoch to epoch, so that no features can be kept")
    importance: tuple[tuple[str, float], ...] = Field(
        (), description="by tensor of the base: Fisher information at the start, for the order sparse"
    )


class JobNotes(Frozen):
    """What is kept of a job beside its progress; the facts only until it has ended."""

    facts: JobFacts | None = None
    plans_run: tuple[PlanReport, ...] = ()
    memory_cap_bytes: int | None = Field(None, description="of a step, learned when memory ran out")


@cache
def torch_version() -> str:
    """The installed torch, without importing it; empty where there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


@cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's model as the kernel names it, else the architecture."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model")))
    return next(named, platform.machine())
