"""Writing a trace: each line holds what has changed since the line before, in numbers that are no finer than needed."""

from __future__ import annotations

import json
import math
from typing import Any

from .snapshot import Snapshot
from .trace import MINOR, SECTIONS, VERSION, WORK, DaemonWork, TraceHeader

DIGITS = 4  # significant ones: no rule tells apart what differs by less
FINEST = 3  # decimals: a share to a tenth of a percent
EXACT = ("count", "total_bytes", "swap_total_bytes")  # capacities: they hardly ever change, and shares are of them
FINEST_T = 0.01  # seconds between two lines
QUIET_S = 60.0  # a line at least so often, so that a recording that is killed loses no more


class TraceWriter:
    """Gives the lines of one trace, in order."""

    def __init__(self, header: TraceHeader) -> None:
        """The header may leave out what the writer knows: format, version and minor version."""
        self._header = header
        self._stands: dict[str, Any] = {}
        self._last_t: float | None = None

    def header_line(self) -> str:
        """The first line, without its end."""
        return _dumped(self._header.model_dump(mode="json", exclude_none=True))

    def line(
        self,
        t: float,
        snapshot: Snapshot,
        work: DaemonWork | None = None,
        note: str | None = None,
        *,
        last: bool = False,
    ) -> str | None:
        """The line for `t` seconds after the start, without its end; None where nothing has changed.

        The `last` line is always written: the trace lasts as long as the recording did.
        """
        t = round(float(t), 2)
        if self._last_t is not None:  # time grows from line to line
            t = max(t, round(self._last_t + FINEST_T, 2))
        now = {
            name: rounded(value)
            for name, value in snapshot.model_dump(mode="json", exclude_none=True, include=set(SECTIONS)).items()
        }
        for reading in now.get("added", ()):
            reading["taken_s"] = 0  # a Unix time, which nothing that is replayed can have
        if work is not None:
            now[WORK] = rounded(work.model_dump(mode="json", exclude_none=True))
        elif WORK in self._stands:
            now[WORK] = self._stands[WORK]
        changed = difference(self._stands, now)
        quiet = self._last_t is not None and t - self._last_t < QUIET_S
        if not changed and note is None and quiet and not last:
            return None
        self._stands, self._last_t = now, t
        return _dumped({"t": _short(t), **changed, **({} if note is None else {"note": note})})


def new_header(name: str, story: str, period_s: float, **facts: Any) -> TraceHeader:
    """The header of a new trace; `facts` are further fields of it."""
    return TraceHeader(
        format="patchd-trace", version=VERSION, minor=MINOR, name=name, story=story, period_s=period_s, **facts
    )


def difference(old: Any, new: Any) -> Any:
    """The change that `trace_reading.merged` makes `new` of `old` with; for equal objects an empty one."""
    if isinstance(old, dict) and isinstance(new, dict):
        changed = {key: None for key in old if key not in new}
        for key, value in new.items():
            if key not in old:
                changed[key] = value
            elif old[key] != value:
                changed[key] = difference(old[key], value)
        return changed
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return {str(at): difference(a, b) for at, (a, b) in enumerate(zip(old, new, strict=True)) if a != b}
    return new


def rounded(value: Any, key: str = "") -> Any:
    """A JSON value with its numbers rounded; sizes are rounded down, so that no part outgrows its whole."""
    if isinstance(value, dict):
        return {name: rounded(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [rounded(each, key) for each in value]
    if isinstance(value, bool) or key in EXACT:
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and key.endswith("_bytes"):
        step = 10 ** max(0, len(str(abs(value))) - DIGITS)
        return value // step * step
    return value


def _number(value: float) -> float | int:
    if value == 0 or not math.isfinite(value):
        return 0 if value == 0 else value
    decimals = min(FINEST, DIGITS - 1 - math.floor(math.log10(abs(value))))
    return _short(round(value, decimals))


def _short(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
