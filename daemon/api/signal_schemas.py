"""Bodies of the routes that tell of signals."""

from __future__ import annotations

from pydantic import Field

from ...policies.signal_readings import SignalReading
from ...policies.snapshot import Consumer, Frozen


class SignalList(Frozen):
    """Every signal as of the last sample, absent ones with the reason."""

    time_s: float = Field(description="Unix time of this answer")
    sampled_s: float = Field(description="Unix time of the last sample")
    source: str = Field(description="'device', or 'trace:NAME' while a trace is replayed")
    signals: tuple[SignalReading, ...]


class ConsumerList(Frozen):
    """Who keeps the processors busy besides patchd."""

    over_s: float = Field(description="seconds over which it was measured")
    consumers: tuple[Consumer, ...] = Field(description="the three busiest, by name of their program")
