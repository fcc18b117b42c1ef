"""What a process has used so far: /proc/PID/stat and statm (Documentation/filesystems/proc.rst)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from .files import numbers, read_text

PROC = Path("/proc")  # of this daemon's own processes, whatever tree the device is read from
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """One process's line in /proc/PID/stat; `started` in clock ticks since the machine began tells it from another of
    the same number."""

    name: str
    parent: int
    started: float
    cpu_s: float  # user and system


def read_times(directory: Path) -> ProcessTimes | None:
    """Of the process with this directory; None when it is gone. One that has ended and waits for its parent counts."""
    head, _, rest = (read_text(directory / "stat") or "").rpartition(")")  # a name may contain anything
    fields = rest.split()
    values = numbers((*fields[1:2], *fields[11:13], *fields[19:20]))
    if values is None or len(values) < 4:
        return None
    parent, user, system, started = values
    return ProcessTimes(head.partition("(")[2], int(parent), started, (user + system) / _TICKS)


def read_resident(directory: Path) -> int | None:
    """Bytes of memory that a process holds; None when it is gone."""
    values = numbers((read_text(directory / "statm") or "").split()[1:2])
    return int(values[0]) * _PAGE if values else None


def cpu_seconds(pid: int) -> float | None:
    """Processor seconds that a process of this machine has used; None when it is gone."""
    times = read_times(PROC / str(pid))
    return None if times is None else times.cpu_s
