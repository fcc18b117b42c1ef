"""What plans took when they ran, and how predictions follow it."""

from __future__ import annotations

from pydantic import Field

from .decision import TrainingPlan
from .snapshot import Frozen


class PlanUse(Frozen):
    """What one plan took in a slice: its steps alone, without loading, features, evaluating and saving."""

    plan: TrainingPlan
    resolution: int = Field(gt=0, description="side of the network input, pixels")
    batch: int = Field(ge=1, description="images of a whole step")
    threads: int = Field(1, ge=1)
    steps: int = Field(ge=1)
    samples: int = Field(ge=1)
    seconds: float = Field(ge=0, description="wall time of all its steps")
    cpu_seconds: float = Field(ge=0, description="processor time of all its steps")
    step_ms: float = Field(ge=0, description="median wall time of a step, the first ones left out, milliseconds")
    step_cpu_ms: float = Field(ge=0, description="median processor time of those steps, milliseconds")
    peak_bytes: int | None = Field(
        None, ge=0, description="most that was resident beyond the level before; absent: the kernel cannot tell"
    )
