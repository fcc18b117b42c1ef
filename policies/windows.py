"""Hours of the week at which something may happen: `01:00-05:00`, `mon-fri 22:00-06:00`. Pure: local time is handed in.

What counts is the wall clock, so a night that skips or repeats an hour makes a window shorter or longer, and never
moves it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HORIZON_DAYS = 8  # a window of one day opens again within a week
MINUTES_A_DAY = 24 * 60
EXAMPLES = "write 01:00-05:00, or with days mon-fri 22:00-06:00"

_TIME = r"(\d{1,2}):(\d{2})"
_DAYS = r"[a-z]{3}(?:-[a-z]{3})?(?:,[a-z]{3}(?:-[a-z]{3})?)*"
_WINDOW = re.compile(rf"(?:({_DAYS})\s+)?{_TIME}\s*-\s*{_TIME}")
_MOMENT = re.compile(rf"(?:({_DAYS})\s+)?{_TIME}")


@dataclass(frozen=True, slots=True)
class Window:
    """A span of the wall clock on some days; one that ends at or before its start ends on the day after."""

    days: frozenset[int]  # of the start, 0 is Monday
    start: int  # minutes after midnight
    end: int  # minutes after the midnight before the start; over 1440 where it lies on the day after

    def holds(self, day: int, minute: float) -> bool:
        """Whether the window is open at a weekday and minute of the wall clock."""
        today = day in self.days and self.start <= minute < self.end
        return today or ((day - 1) % 7 in self.days and minute + MINUTES_A_DAY < self.end)


@dataclass(frozen=True, slots=True)
class WeeklyTime:
    """A time of the wall clock on some days of the week."""

    days: frozenset[int]
    minute: int

    @property
    def day_names(self) -> str:
        """The days as a list of names."""
        return ",".join(DAYS[day] for day in sorted(self.days))


def parse_window(text: str) -> Window:
    """A window from `[DAYS ]HH:MM-HH:MM`. Raises ValueError, one sentence."""
    found = _WINDOW.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"'{text}' is no window; {EXAMPLES}")
    start, end = _minutes(found[2], found[3], text), _minutes(found[4], found[5], text)
    if start == MINUTES_A_DAY:
        raise ValueError(f"'{text}' begins at 24:00; write 00:00 and the day after")
    if end <= start:
        end += MINUTES_A_DAY
    return Window(_days(found[1], text), start, end)


@cache
def windows_of(texts: tuple[str, ...]) -> tuple[Window, ...]:
    """The windows of checked texts."""
    return tuple(parse_window(text) for text in texts)


def parse_weekly_time(text: str) -> WeeklyTime:
    """A time from `[DAYS ]HH:MM`. Raises ValueError, one sentence."""
    found = _MOMENT.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"'{text}' is no time of the week; write 03:00, or with days sun 03:00")
    minute = _minutes(found[2], found[3], text)
    if minute == MINUTES_A_DAY:
        raise ValueError(f"'{text}' is at 24:00; write 00:00 and the day after")
    return WeeklyTime(_days(found[1], text), minute)


def is_open(windows: Sequence[Window], local: datetime) -> bool:
    """Whether one of the windows is open at a local time; without windows it always is."""
    minute = local.hour * 60 + local.minute + local.second / 60
    return not windows or any(window.holds(local.weekday(), minute) for window in windows)


def next_change(windows: Sequence[Window], local: datetime) -> datetime | None:
    """When the windows next open or close after a local time (aware, of a zone); None where they never do."""
    before, now = is_open(windows, local), local.astimezone(UTC)  # in one zone, times compare by the wall clock
    for instant in _instants(windows, local):
        if instant > now and is_open(windows, moment := instant.astimezone(local.tzinfo)) != before:
            return moment
    return None


def day_and_time(local: datetime) -> str:
    """A local time as windows are written: its day and minute."""
    return f"{DAYS[local.weekday()]} {local:%H:%M}"


def next_midnight(local: datetime) -> datetime:
    """The first moment of the local day after."""
    return _first_after(local.date() + timedelta(days=1), local)


def _first_after(day: date, local: datetime) -> datetime:
    """The first moment of a day; in some zones a spring forward skips midnight itself."""
    midnight = datetime.combine(day, time(), local.tzinfo)
    return midnight.astimezone(UTC).astimezone(local.tzinfo)


def _instants(windows: Sequence[Window], local: datetime) -> list[datetime]:
    """All moments at which a window may open or close, in order: its bounds, and where the clock is put on or back."""
    found: set[datetime] = set()
    for ahead in range(-1, HORIZON_DAYS + 1):
        day = local.date() + timedelta(days=ahead)
        for window in windows:
            for minute in (window.start, window.end):
                wall = datetime.combine(day, time()) + timedelta(minutes=minute)
                found |= {wall.replace(tzinfo=local.tzinfo, fold=fold).astimezone(UTC) for fold in (0, 1)}
        found |= _jumps(_first_after(day, local), _first_after(day + timedelta(days=1), local))
    return sorted(found)


def _jumps(start: datetime, end: datetime) -> set[datetime]:
    """The moment between two at which their zone's offset changes, to the second; no day has two."""
    zone, low, high = start.tzinfo, start.astimezone(UTC), end.astimezone(UTC)
    if start.utcoffset() == end.utcoffset():
        return set()
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == start.utcoffset():
            low = middle
        else:
            high = middle
    return {high}


def _minutes(hours: str, minutes: str, text: str) -> int:
    count = int(hours) * 60 + int(minutes)
    if int(minutes) > 59 or count > MINUTES_A_DAY:
        raise ValueError(f"'{text}' names a time that no clock shows: {hours}:{minutes}")
    return count


def _days(text: str | None, whole: str) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    days: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        for name in (first, last or first):
            if name not in DAYS:
                raise ValueError(f"'{whole}' names the day '{name}'; days are {', '.join(DAYS)}")
        begin = DAYS.index(first)
        span = (DAYS.index(last) - begin) % 7 if dash else 0
        days |= {(begin + offset) % 7 for offset in range(span + 1)}
    return frozenset(days)
