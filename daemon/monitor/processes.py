"""What processes have used so far: patchd's own through psutil, all of a tree from their /proc/PID/stat.

Kernel: Documentation/filesystems/proc.rst.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

from .files import numbers, read_text

_TICKS = os.sysconf("SC_CLK_TCK")


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


@dataclass(frozen=True, slots=True)
class ProcessUse:
    """One of this machine's processes; `started` (Unix time) tells it from another of the same number."""

    started: float
    cpu_s: float  # user and system
    resident_bytes: int


def use_of(pid: int) -> ProcessUse | None:
    """What a process of this machine, whatever tree the device is read from, has used; None when it is gone."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return ProcessUse(process.create_time(), times.user + times.system, process.memory_info().rss)
    except psutil.Error:
        return None
