"""What training used, as records that add up. Types only."""

from __future__ import annotations

from datetime import date

from pydantic import Field

from .snapshot import Frozen


class TrainingUse(Frozen):
    """What training used: of a job, of a day, or of both."""

    cpu_seconds: float = Field(
        0.0,
        ge=0,
        description="processor seconds of the training worker, its start and what was lost by a kill included",
    )
    seconds: float = Field(0.0, ge=0, description="wall seconds in slices that were ended in order")
    slices: int = Field(0, ge=0, description="slices that were ended in order")
    samples: int = Field(0, ge=0, description="images through training steps, repeated ones counted again")
    rapl_joules: float | None = Field(
        None, ge=0, description="its share of what processors and memory spent; absent where RAPL cannot be read"
    )
    battery_joules: float | None = Field(
        None, ge=0, description="its share of what the batteries gave, where there is no RAPL; absent on mains"
    )

    def __add__(self, other: TrainingUse) -> TrainingUse:
        return TrainingUse(
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            seconds=self.seconds + other.seconds,
            slices=self.slices + other.slices,
            samples=self.samples + other.samples,
            rapl_joules=_sum(self.rapl_joules, other.rapl_joules),
            battery_joules=_sum(self.battery_joules, other.battery_joules),
        )


class UseRow(Frozen):
    """What one job used on one local day."""

    day: date
    job: str
    use: TrainingUse = TrainingUse()


def _sum(one: float | None, other: float | None) -> float | None:
    return one if other is None else other if one is None else one + other
