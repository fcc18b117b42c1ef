"""The monitor: one snapshot from all readers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from ...policies.signal_readings import Origin
from ...policies.snapshot import Disk, Power, Snapshot, User
from . import memory, power, pressure, temperature
from .cgroup import Cgroup
from .consumption import ConsumptionReader
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
        self._cpu = CpuReader(proc_root, sys_root, self._cgroup)
        self._idle = IdleReader(proc_root, sys_root, dev_root)
        self._consumption = ConsumptionReader(proc_root, sys_root)
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
            self._cpu.discover()
            self._consumption.discover()
            self._discovered_s = time.monotonic()
        cpu, workers = self._cpu.sample(self._worker_pids())
        return Snapshot(
            time_s=now_s,
            cpu=cpu,
            memory=read_memory(self._proc, self._cgroup),
            pressure=read_pressure(self._proc, self._cgroup.directory),
            power=self._power(),
            temperatures=read_sensors(self._sensors),
            disk=_disk(self._state_dir),
            user=User(idle_s=self._idle.read(now_s)),
            workers=workers,
            read_s={} if self._idle.looked_s is None else {"user.idle_s": self._idle.looked_s},
        )

    def origins(self, seen: Snapshot) -> dict[str, Origin]:
        """Where each signal is read, and why those are absent that `seen` lacks. Reads anew, so only when asked."""
        disk = Origin(f"statvfs of {self._state_dir}", f"the file system of {self._state_dir} does not tell its size")
        return {
            **self._cpu.origins(),
            **memory.origins(self._proc, self._cgroup),
            **pressure.origins(self._proc, self._cgroup.directory),
            **power.origins(self._sys),
            **self._consumption.origins(seen.power.watts_of),
            **temperature.origins(self._sys, self._sensors, seen.temperatures),
            **self._idle.origins(),
            "disk.free_bytes": disk,
            "disk.free": disk,
        }

    def _power(self) -> Power:
        taken = self._consumption.read(time.monotonic())
        supplies = read_power(self._sys)
        if taken is None:
            return supplies
        return supplies.model_copy(update={"watts": taken.watts, "watts_of": taken.of})


def _disk(path: Path) -> Disk | None:
    try:
        status = os.statvfs(path)
    except OSError:
        return None
    if status.f_blocks == 0:
        return None
    return Disk(total_bytes=status.f_blocks * status.f_frsize, free_bytes=status.f_bavail * status.f_frsize)
