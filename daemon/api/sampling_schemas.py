"""What the API tells of sampling: how often the device is looked at, and what makes patchd look at once."""

from __future__ import annotations

from pydantic import Field

from ...policies.snapshot import Frozen


class EventSourceState(Frozen):
    """Something that tells of a change by itself: what is watched, or why it cannot be."""

    name: str
    watches: str
    absent: str | None = Field(None, description="why it is not watched; None while it is")
    events: int = Field(0, description="since the daemon's start")
    last_s: float | None = Field(None, description="Unix time of the last one")


class SamplingState(Frozen):
    """How often the device is sampled now, and why."""

    period_s: float = Field(description="seconds between two samples now")
    fast_s: float = Field(description="while something moves or works")
    slow_s: float = Field(description="when nothing has moved for long")
    why: str
    sources: tuple[EventSourceState, ...] = Field((), description="what makes patchd sample at once")
