"""Recorded resource traces: JSON lines, a header and then what the device was like at each moment."""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from .errors import TraceError
from .snapshot import (
    Cpu,
    Disk,
    Frozen,
    Gpu,
    Memory,
    Network,
    Power,
    Pressure,
    Requests,
    Sensor,
    Snapshot,
    User,
)

MAX_RECORDS = 1_000_000


class TraceHeader(Frozen):
    """The first line of a trace file."""

    format: Literal["patchd-trace"]
    version: Literal[1]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")
    story: str
    period_s: float = Field(gt=0, allow_inf_nan=False)


class TraceRecord(Frozen):
    """One moment, `t` seconds from the start; a section left out keeps the device's own value."""

    t: float = Field(ge=0, allow_inf_nan=False)
    cpu: Cpu | None = None
    memory: Memory | None = None
    pressure: Pressure | None = None
    power: Power | None = None
    temperatures: tuple[Sensor, ...] | None = None
    disk: Disk | None = None
    user: User | None = None
    gpus: tuple[Gpu, ...] | None = None
    network: Network | None = None
    requests: Requests | None = None


SECTIONS = (
    "cpu",
    "memory",
    "pressure",
    "power",
    "temperatures",
    "disk",
    "user",
    "gpus",
    "network",
    "requests",
)


@dataclass(frozen=True)
class Trace:
    """A checked trace; `records` is in order of time and not empty."""

    header: TraceHeader
    records: tuple[TraceRecord, ...]

    @property
    def name(self) -> str:
        """The trace's name."""
        return self.header.name

    @property
    def duration_s(self) -> float:
        """From the start to one period after the last record."""
        return self.records[-1].t + self.header.period_s

    def at(self, t: float, device: Snapshot) -> Snapshot:
        """The snapshot at `t` seconds: the last record not after it, over the device's own values."""
        index = bisect.bisect_right(self.records, t, key=lambda record: record.t) - 1
        record = self.records[max(0, index)]
        given = {name: getattr(record, name) for name in SECTIONS if getattr(record, name) is not None}
        return device.model_copy(update={**given, "source": f"trace:{self.name}", "traced": tuple(given)})


def parse_trace(text: str, file: str) -> Trace:
    """Check a trace file's text. Raises TraceError naming file and line."""
    header: TraceHeader | None = None
    records: list[TraceRecord] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            if header is None:
                header = TraceHeader.model_validate_json(line)
                continue
            record = TraceRecord.model_validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            at = f" at '{key}'" if key else ""
            what = "header" if header is None else "record"
            raise TraceError(
                f"{file}:{number}: not a trace {what}{at}: {first['msg']}.",
                hint="The format is described in docs/policy.md.",
            ) from error
        if records and record.t <= records[-1].t:
            raise TraceError(f"{file}:{number}: t is {record.t:g}, not after {records[-1].t:g} of the record before.")
        records.append(record)
        if len(records) > MAX_RECORDS:
            raise TraceError(f"{file}:{number}: a trace has at most {MAX_RECORDS} records.", hint="Cut it.")
    if header is None or not records:
        raise TraceError(
            f"{file}: a trace needs a header line and at least one record.",
            hint="The format is described in docs/policy.md.",
        )
    return Trace(header, tuple(records))


def header_line(name: str, story: str, period_s: float) -> str:
    """The first line of a new trace."""
    return TraceHeader(format="patchd-trace", version=1, name=name, story=story, period_s=period_s).model_dump_json()


def record_line(t: float, snapshot: Snapshot) -> str:
    """One line of a trace: what `snapshot` saw, `t` seconds from the start."""
    fields: dict[str, Any] = {"t": round(t, 3)}
    dumped = snapshot.model_dump(exclude_none=True)
    for name in SECTIONS:
        if dumped.get(name) is not None:
            fields[name] = dumped[name]
    return json.dumps(fields, separators=(",", ":"))
