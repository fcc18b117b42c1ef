"""The monitor: one snapshot from all readers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ...policies.snapshot import Disk, Snapshot, User
from .cgroup import Cgroup
from .cpu import CpuReader
from .idle import IdleReader
from .memory import read_memory
from .power import read_power
from .pressure import read_pressure
from .temperature import find_sensors, read_sensors

REDISCOVER_S = 30.0  # sensors and control groups come and go rarely


class Monitor:
    """Reads the device under configurable roots, so that a recorded or made-up tree can stand in."""

    def __init__(
        self,
        *,
        state_dir: Path,
        proc_root: Path = Path("/proc"),
        sys_root: Path = Path("/sys"),
        dev_root: Path = Path("/dev"),
        worker_pids: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._proc, self._sys, self._state_dir = proc_root, sys_root, state_dir
        self._worker_pids = worker_pids
        self._cgroup = Cgroup(proc_root, sys_root)
        self._cpu = CpuReader(proc_root, self._cgroup)
        self._idle = IdleReader(proc_root, sys_root, dev_root)
        self._sensors = find_sensors(sys_root)
        self._discovered_s = time.monotonic()

    def usable_cores(self) -> float:
        """The processors this daemon and its workers may use: the affinity mask, or the cgroup quota below it."""
        return self._cpu.usable_cores()

    def sample(self, now_s: float) -> Snapshot:
        """What the device is like at `now_s` (Unix time); what it lacks or does not tell is absent."""
        if time.monotonic() - self._discovered_s >= REDISCOVER_S:
            self._sensors = find_sensors(self._sys)
            self._cgroup.discover()
            self._idle.discover()
            self._discovered_s = time.monotonic()
        cpu, workers = self._cpu.sample(self._worker_pids())
        return Snapshot(
            time_s=now_s,
            cpu=cpu,
            memory=read_memory(self._proc, self._cgroup),
            pressure=read_pressure(self._proc),
            power=read_power(self._sys),
            temperatures=read_sensors(self._sensors),
            disk=_disk(self._state_dir),
            user=User(idle_s=self._idle.read(now_s)),
            workers=workers,
        )


def _disk(path: Path) -> Disk | None:
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    if status.f_blocks == 0:
        return None
    return Disk(total_bytes=status.f_blocks * status.f_frsize, free_bytes=status.f_bavail * status.f_frsize)
