"""Bodies of the routes that tell of signals."""

from __future__ import annotations

from pydantic import Field

from ...policies.signal_readings import SignalReading
from ...policies.snapshot import Frozen


class SignalList(Frozen):
    """Every signal as of the last sample, absent ones with the reason."""

    time_s: float = Field(description="Unix time of this answer")
    sampled_s: float = Field(description="Unix time of the last sample")
    source: str = Field(description="'device', or 'trace:NAME' while a trace is replayed")
    signals: tuple[SignalReading, ...]
