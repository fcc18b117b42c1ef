"""A trace in place of the device: its sections over the real snapshot, until it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...policies.snapshot import Snapshot

if TYPE_CHECKING:
    from ...policies.trace import Trace


class TracePlayer:
    """Plays at most one trace at a time."""

    def __init__(self) -> None:
        self._trace: Trace | None = None
        self._speed = 1.0
        self._started_s = 0.0

    @property
    def name(self) -> str | None:
        """The playing trace's name."""
        return None if self._trace is None else self._trace.name

    @property
    def duration_s(self) -> float | None:
        """The playing trace's length in its own seconds."""
        return None if self._trace is None else self._trace.duration_s

    def position_s(self, now_s: float) -> float | None:
        """Where the playing trace stands, in its own seconds."""
        return None if self._trace is None else max(0.0, (now_s - self._started_s) * self._speed)

    def start(self, trace: Trace, speed: float, now_s: float) -> None:
        """Play `trace` from its beginning, `speed` times as fast as it was recorded."""
        self._trace, self._speed, self._started_s = trace, speed, now_s

    def stop(self) -> None:
        """Return to the device."""
        self._trace = None

    def overlay(self, device: Snapshot, now_s: float) -> Snapshot:
        """The device's snapshot with the trace's sections over it; past the trace's end, the device's own."""
        position = self.position_s(now_s)
        if self._trace is None or position is None:
            return device
        if position >= self._trace.duration_s:
            self.stop()
            return device
        return self._trace.at(position, device)
