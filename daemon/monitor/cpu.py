"""Processor use from /proc/stat, load averages, and the share that is patchd's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from ...policies.signal_readings import Origin
from ...policies.snapshot import Cpu, WorkerUse
from .cgroup import Cgroup, CpuQuota
from .files import numbers, read_text, whole, why_absent
from .frequency import FrequencyReader
from .processes import use_of

LEAST_WINDOW_S = 0.5  # the kernel counts in ticks of 10 ms: over less time, a few of them would decide
AT_SECOND = "it is counted between two samples, and there has been one"


T = TypeVar("T")


class Baseline(Generic[T]):
    """The counter to compare with: the last one, or the one before where the last is very recent."""

    def __init__(self) -> None:
        self._older: tuple[float, T] | None = None
        self._newer: tuple[float, T] | None = None

    def of(self, now: float, value: T) -> tuple[float, T] | None:
        """Moment and value to compare `value` with, which is kept; None at the first."""
        newer = self._newer
        if newer is None or now - newer[0] >= LEAST_WINDOW_S:
            self._older, self._newer = newer, (now, value)
            return newer
        return self._older or newer


class CpuReader:
    """Remembers the counters of the last sample; the first sample therefore has no shares."""

    def __init__(self, proc_root: Path, sys_root: Path, cgroup: Cgroup) -> None:
        self._proc = proc_root
        self._cgroup = cgroup
        self._clock = FrequencyReader(sys_root)
        self._ticks = Baseline[list[float]]()
        self._group: tuple[Path, Baseline[float]] | None = None
        self._own_used: dict[tuple[int, float], Baseline[float]] = {}

    def discover(self) -> None:
        """Find what comes and goes rarely."""
        self._clock.discover()

    def usable_cores(self) -> float:
        """Processors in the affinity mask, or the cgroup's quota where that is less."""
        count = len(os.sched_getaffinity(0))
        quota = self._cgroup.cpu_quota()
        return count if quota is None else min(count, quota.cores)

    def sample(self, workers: Mapping[str, int]) -> tuple[Cpu, tuple[WorkerUse, ...]]:
        """Processor use since the last call, or since the one before where that is very recent, and what each of the
        daemon's own processes took of it."""
        now = time.monotonic()
        count = len(os.sched_getaffinity(0))
        quota = self._cgroup.cpu_quota()
        cores = count if quota is None else min(count, quota.cores)
        uses = tuple(self._own({"daemon": os.getpid(), **workers}, now))
        stat = read_text(self._proc / "stat") or ""
        busy, steal = self._shares(_ticks(stat, os.sched_getaffinity(0)), now)
        if quota is not None:
            group = self._group_busy(now, quota)
            busy = max((share for share in (busy, group) if share is not None), default=None)
        known = [use.cpu_cores for use in uses if use.cpu_cores is not None]
        loads = _loads(read_text(self._proc / "loadavg"))
        clock = self._clock.read()
        cpu = Cpu(
            count=count,
            limit_cores=None if quota is None else quota.cores,
            busy=busy,
            busy_own=min(1.0, sum(known) / cores) if known else None,
            load1=loads[0],
            load5=loads[1],
            load15=loads[2],
            steal=steal,
            runnable=_runnable(stat),
            frequency=clock.frequency,
            frequency_limit=clock.limit,
            throttled=clock.throttled,
        )
        return cpu, uses

    def origins(self) -> dict[str, Origin]:
        """Where each signal of the processors is read, and why one is absent."""
        stat, loads = self._proc / "stat", self._proc / "loadavg"
        known = _ticks(read_text(stat) or "", os.sched_getaffinity(0)) is not None
        counted = Origin(str(stat), AT_SECOND if known else why_absent(stat))
        quota = self._cgroup.cpu_quota()
        of_all = counted if quota is None else Origin(f"{stat}, {quota.directory}", counted.absent_because)
        own = Origin("/proc/PID/stat of patchd's processes", AT_SECOND)
        return {
            "cpu.busy": of_all,
            "cpu.busy_other": of_all,
            "cpu.busy_own": own,
            "memory.own_bytes": Origin("/proc/PID/statm of patchd's processes"),
            "cpu.load1": Origin(str(loads), why_absent(loads)),
            "cpu.runnable": Origin(str(stat), why_absent(stat)),
            "cpu.steal": counted,
            **self._clock.origins(),
        }

    def _shares(self, ticks: list[float] | None, now: float) -> tuple[float | None, float | None]:
        """Shares of processor time: what was neither idle nor waiting for input/output, steal counting as busy; and
        steal alone."""
        if ticks is None:
            return None, None
        before = self._ticks.of(now, ticks)
        if before is None or len(before[1]) != len(ticks) or sum(ticks) <= sum(before[1]):
            return None, None
        passed = [after - then for after, then in zip(ticks, before[1], strict=True)]
        total = sum(passed)
        busy = min(1.0, max(0.0, 1.0 - sum(passed[3:5]) / total))
        return busy, min(1.0, max(0.0, passed[7] / total)) if len(passed) > 7 else None

    def _group_busy(self, now: float, quota: CpuQuota) -> float | None:
        """Share of the quota that the group bearing it has used."""
        if quota.used_s is None:
            return None
        if self._group is None or self._group[0] != quota.directory:
            self._group = quota.directory, Baseline()
        before = self._group[1].of(now, quota.used_s)
        if before is None or now <= before[0]:
            return None
        return min(1.0, max(0.0, (quota.used_s - before[1]) / (now - before[0]) / quota.cores))

    def _own(self, pids: Mapping[str, int], now: float) -> Iterator[WorkerUse]:
        seen: dict[tuple[int, float], Baseline[float]] = {}
        for name, pid in pids.items():
            used = use_of(pid)
            if used is None:
                continue
            key = pid, used.started
            seen[key] = self._own_used.get(key) or Baseline()
            before = seen[key].of(now, used.cpu_s)
            cores = None
            if before is not None and now > before[0]:
                cores = max(0.0, (used.cpu_s - before[1]) / (now - before[0]))
            yield WorkerUse(name=name, pid=pid, cpu_cores=cores, resident_bytes=used.resident_bytes)
        self._own_used = seen


def _ticks(text: str, affinity: set[int]) -> list[float] | None:
    """The time counters of the processors in the affinity mask together; of all where they are not told apart.

    Guest time is contained in user time, so the fields behind steal are left out.
    """
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line.startswith("cpu"):  # interrupts follow, hundreds of them
            break
        name, *fields = line.split()
        lines[name] = fields[:8]
    names = [f"cpu{number}" for number in sorted(affinity)]
    rows = [
        numbers(lines[name]) for name in (names if all(name in lines for name in names) else ["cpu"]) if name in lines
    ]
    known = [row for row in rows if row is not None and len(row) >= 4]
    if not known or len(known) < len(rows):
        return None
    return [sum(column) for column in zip(*known, strict=False)]


def _runnable(text: str) -> int | None:
    """Tasks that run or wait for a processor, the one that reads this aside."""
    count = whole(text.partition("procs_running ")[2])
    return None if count is None else max(0, count - 1)


def _loads(text: str | None) -> tuple[float, float, float] | tuple[None, None, None]:
    """The three load averages; absent when the file is missing or not of the known form."""
    values = numbers((text or "").split()[:3])
    if values is None or len(values) < 3:
        return None, None, None
    return values[0], values[1], values[2]
