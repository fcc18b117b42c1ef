"""Recorded resource traces: a header, then what has changed of the device at each moment (docs/traces.md).

The sections of a trace are those of the snapshot, whatever sections it has: none is listed here.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, Field, field_validator

from .snapshot import Frozen, Snapshot

MAX_RECORDS = 1_000_000
VERSION, MINOR = 2, 0  # a minor version adds sections or keys; what it adds is left out by a reader of an older one
WORK = "patchd"  # the key of a record that tells of the daemon, not of the device
# When and whence a snapshot is; the daemon's own processes, which stay what they are while a trace is replayed; and the
# names of other programs, which are nobody's business where a trace is handed on.
_NOT_RECORDED = ("time_s", "source", "read_s", "traced", "workers", "consumers")
LATEST_S = 1e9  # of a record: thirty years

SECTIONS = tuple(name for name in Snapshot.model_fields if name not in _NOT_RECORDED)


class TraceMachine(Frozen):
    """The machine that a trace was recorded on, or that its author had in mind."""

    name: str = ""
    cores: float | None = Field(None, gt=0, description="processors, or the quota in cores where there is one")
    memory_bytes: int | None = Field(None, gt=0)


class TraceHeader(Frozen):
    """The first line of a trace file."""

    format: Literal["patchd-trace"]
    version: Literal[1, 2]
    minor: int = Field(0, ge=0, description="what was added since the version's first form")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    story: str
    period_s: float = Field(gt=0, allow_inf_nan=False)
    start: AwareDatetime | None = Field(None, description="local time of the first moment, with its offset from UTC")
    timezone: str | None = Field(None, description="IANA name of the zone; absent: the offset of `start` holds")
    machine: TraceMachine | None = None
    written_by: str | None = Field(None, description="program and version")

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                ZoneInfo(name)
            except (KeyError, OSError, ValueError) as error:
                raise ValueError(f"'{name}' is no time zone that this machine knows; install its tzdata") from error
        return name

    @field_validator("start")
    @classmethod
    def _of_our_time(cls, start: datetime | None) -> datetime | None:
        if start is not None and not 1970 < start.year < 3000:
            raise ValueError(f"the year {start.year} is not one of the years 1971 to 2999")
        return start


class TaskWork(Frozen):
    """What a task did at a moment."""

    resolution: int | None = Field(None, gt=0, description="side of the rung in force, pixels")
    per_second: float | None = Field(None, ge=0, allow_inf_nan=False, description="predictions answered")


class DaemonWork(Frozen):
    """What the daemon that recorded did at a moment."""

    policy: str | None = None
    inference: float | None = Field(None, ge=0, le=1, description="allocation in force")
    training: float | None = Field(None, ge=0, le=1, description="allocation in force")
    tasks: dict[str, TaskWork] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TraceRecord:
    """What holds from `t` seconds after the start on, until the next record; each section whole."""

    t: float
    given: Mapping[str, Any]  # section of the snapshot: its value; one that is not given keeps the device's own
    work: DaemonWork | None = None
    note: str | None = None  # what happened to the recording at this moment


@dataclass(frozen=True)
class Trace:
    """A checked trace; `records` is in order of time and not empty. `notes` say what could not be read of the file."""

    header: TraceHeader
    records: tuple[TraceRecord, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def name(self) -> str:
        """The trace's name."""
        return self.header.name

    @property
    def duration_s(self) -> float:
        """From the start to one period after the last record."""
        return self.records[-1].t + self.header.period_s

    @cached_property
    def _times(self) -> list[float]:
        return [record.t for record in self.records]

    def index_at(self, t: float) -> int:
        """Which record holds at `t` seconds: the last one not after it, the first one before all."""
        return max(0, bisect.bisect_right(self._times, t) - 1)

    def at(self, t: float, device: Snapshot) -> Snapshot:
        """The snapshot at `t` seconds: the record that holds, over the device's own values."""
        return self.over(self.records[self.index_at(t)], device)

    def over(self, record: TraceRecord, device: Snapshot) -> Snapshot:
        """What a record gives, over the device's own values. What others added counts as added now."""
        given = dict(record.given)
        if "added" in given:
            given["added"] = tuple(each.model_copy(update={"taken_s": device.time_s}) for each in given["added"])
        return device.model_copy(update={**given, "source": f"trace:{self.name}", "traced": tuple(given)})

    def with_start(self, start: datetime) -> Trace:
        """The same trace, begun at another local time (aware)."""
        return Trace(self.header.model_copy(update={"start": start, "timezone": None}), self.records, self.notes)

    def local(self, t: float) -> datetime | None:
        """The local time at `t` seconds; None where the trace does not tell when it began."""
        start = self.header.start
        if start is None:
            return None
        if self.header.timezone is None:
            return start + timedelta(seconds=t)
        zone = ZoneInfo(self.header.timezone)
        return datetime.fromtimestamp(start.timestamp() + t, zone)
