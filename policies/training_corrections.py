"""What plans took when they ran, and how predictions follow it: robust, bounded, and slow to move a plan."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from pydantic import Field

from .decision import TrainingPlan
from .snapshot import Frozen
from .training_costs import Correction

WINDOW = 7  # ratios remembered: a burst of other work spoils two or three slices, not the most of seven
LEAST, MOST = 0.4, 2.5  # a measurement further off than this tells of something else than the step
BAND = 0.05  # a factor in force moves when what was measured has moved further than this share
LEAST_STEPS = 4  # the first two of a slice choose kernels and fill caches


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


class Observed(Frozen):
    """Measured over predicted of one way of running at one resolution, and the factors in force that follow."""

    time: tuple[float, ...] = Field((), description="ratios of processor time of a step, newest last")
    memory: tuple[float, ...] = Field((), description="ratios of peak memory, newest last")
    correction: Correction

    @property
    def way(self) -> tuple[int, bool, bool]:
        """Resolution, lean, keep_features: plans that err alike."""
        return self.correction.resolution, self.correction.lean, self.correction.keep_features


def way_of(use: PlanUse) -> tuple[int, bool, bool]:
    """The way of running that a use tells of."""
    return use.resolution, use.plan.lean, use.plan.keep_features


def observe(before: Observed | None, use: PlanUse, step_ms: float | None, memory_bytes: int | None) -> Observed:
    """What is known after a slice. `step_ms` and `memory_bytes` are what was predicted for its plan *uncorrected*.

    A prediction or a measurement that is absent, or a slice of too few steps, leaves its ratios as they were.
    """
    resolution, lean, keep_features = way_of(use)
    known = before or Observed(
        correction=Correction(resolution=resolution, lean=lean, keep_features=keep_features, time=1.0, memory=1.0)
    )
    time, memory = known.time, known.memory
    if step_ms and use.steps >= LEAST_STEPS and use.step_cpu_ms > 0:
        time = (*time, use.step_cpu_ms / step_ms)[-WINDOW:]
    if memory_bytes and use.peak_bytes:
        memory = (*memory, use.peak_bytes / memory_bytes)[-WINDOW:]
    return Observed(
        time=time,
        memory=memory,
        correction=known.correction.model_copy(
            update={
                "time": moved(known.correction.time, time),
                "memory": moved(known.correction.memory, memory),
                "slices": known.correction.slices + 1,
            }
        ),
    )


def moved(factor: float, ratios: Iterable[float]) -> float:
    """The factor in force after `ratios`: their median within bounds, once it lies more than `BAND` away.

    While there are fewer than `WINDOW` of them a ratio of 1 counts beside them: one slice alone moves half as far.
    """
    seen = list(ratios)
    if len(seen) < WINDOW:
        seen.append(1.0)
    target = min(MOST, max(LEAST, median(seen)))
    return target if abs(target / factor - 1.0) > BAND else factor
