"""What plans took when they ran, and how predictions follow it: robust, bounded, and slow to move a plan."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from pydantic import Field

from .decision import TrainingPlan
from .snapshot import Frozen
from .training_costs import Correction, Way

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
    bf16: bool = Field(False, description="whether its passes ran in bfloat16")
    steps: int = Field(ge=1)
    samples: int = Field(ge=1)
    seconds: float = Field(ge=0, description="wall time of all its steps")
    cpu_seconds: float = Field(ge=0, description="processor time of all its steps")
    step_ms: float = Field(ge=0, description="median wall time of a step, the first ones left out, milliseconds")
    step_cpu_ms: float = Field(ge=0, description="median processor time of those steps, milliseconds")
    peak_bytes: int | None = Field(
        None, ge=0, description="most that was resident beyond the level before; absent: the kernel cannot tell"
    )

    @property
    def way(self) -> Way:
        """The way of running that it tells of."""
        return Way(self.resolution, self.plan.lean, self.plan.keep_features, self.bf16)


class Observed(Frozen):
    """Measured over predicted of one way of running at one resolution, and the factors in force that follow."""

    time: tuple[float, ...] = Field((), description="ratios of processor time of a step, newest last")
    memory: tuple[float, ...] = Field((), description="ratios of peak memory, newest last")
    correction: Correction


def observe(before: Observed | None, use: PlanUse, step_ms: float | None, memory_bytes: int | None) -> Observed:
    """What is known after a slice. `step_ms` and `memory_bytes` are what was predicted for its plan *uncorrected*.

    A prediction or a measurement that is absent, or a slice of too few steps, leaves its ratios as they were.
    """
    known = before or Observed(correction=Correction(**use.way._asdict()))
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
