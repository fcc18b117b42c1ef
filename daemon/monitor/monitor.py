"""The monitor: one snapshot from all readers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ...policies.signal_readings import Origin
from ...policies.snapshot import AddedReading, Consumer, Power, Requests, Snapshot, User
from . import memory, power, pressure, temperature
from .cgroup import Cgroup
from .consumers import ConsumerReader
from .consumption import ConsumptionReader
from .cpu import CpuReader
from .disk import DiskReader
from .idle import IdleReader
from .memory import read_memory
from .power import read_power
from .pressure import PressureReader
from .slow import SlowSources
from .temperature import find_sensors, read_sensors

SYSTEM_BUS = Path("/run/dbus/system_bus_socket")
REDISCOVER_S = 30.0  # sensors and control groups come and go rarely


class AddedSource(Protocol):
    """Signals that others give."""

    def readings(self, now_s: float) -> tuple[AddedReading, ...]:
        """Those there are now."""

    def origins(self) -> dict[str, Origin]:
        """Why those are absent that were there or should be."""


class Monitor:
    """Reads the device under configurable roots, so that a recorded or made-up tree can stand in."""

    def __init__(
        self,
        *,
        state_dir: Path,
        proc_root: Path = Path("/proc"),
        sys_root: Path = Path("/sys"),
        dev_root: Path = Path("/dev"),
        system_bus: Path = SYSTEM_BUS,
        worker_pids: Callable[[], Mapping[str, int]] = dict,
        requests_waiting: Callable[[], int] | None = None,
        memory_acute: Callable[[], tuple[bool | None, Origin]] = lambda: (None, Origin("")),
        added: Sequence[AddedSource] = (),
    ) -> None:
        """`memory_acute` tells of acute pressure on memory, and who says so or why nobody can; `added` gives more."""
        self._proc, self._sys = proc_root, sys_root
        self._worker_pids, self._requests_waiting = worker_pids, requests_waiting
        self._memory_acute, self._added = memory_acute, added
        self._cgroup = Cgroup(proc_root, sys_root)
        self._cpu = CpuReader(proc_root, sys_root, self._cgroup)
        self._idle = IdleReader(proc_root, sys_root, dev_root)
        self._pressure = PressureReader(proc_root, self._cgroup.directory)
        self._consumption = ConsumptionReader(sys_root)
        self._disk = DiskReader(sys_root, state_dir)
        self._slow = SlowSources(proc_root, sys_root, system_bus, worker_pids)
        self._last: Snapshot | None = None
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
            self._pressure.watch(self._cgroup.directory)
            self._idle.discover()
            self._cpu.discover()
            self._consumption.discover()
            self._disk.discover()
            self._discovered_s = time.monotonic()
        cpu, workers = self._cpu.sample(self._worker_pids())
        slow, waiting = self._slow, self._requests_waiting
        read_s = {"disk.wear": self._disk.looked_s, **slow.read_s}
        idle_s = self._idle.read(now_s)
        if self._idle.looked_s is not None:
            read_s["user.idle_s"] = self._idle.looked_s
        self._last = Snapshot(
            time_s=now_s,
            cpu=cpu,
            memory=read_memory(self._proc, self._cgroup),
            pressure=self._pressure.read().model_copy(update={"memory_acute": self._memory_acute()[0]}),
            power=self._power(),
            temperatures=read_sensors(self._sensors),
            disk=self._disk.read(),
            user=User(idle_s=idle_s, sessions=slow.sessions.count, session_idle=slow.sessions.idle),
            gpus=slow.gpus,
            network=slow.network,
            requests=None if waiting is None else Requests(waiting=waiting()),
            consumers=slow.consumers,
            workers=workers,
            added=tuple(reading for source in self._added for reading in source.readings(now_s)),
            read_s=read_s,
        )
        return self._last

    async def refresh_slow(self) -> None:
        """Ask the sources that cost more than a file and whose time has come; the next sample has what they tell."""
        await self._slow.refresh(self._last)

    def busiest(self) -> tuple[Consumer, ...]:
        """Who else uses most of the processors in the next second. Sleeps: not for the event loop."""
        return ConsumerReader(self._proc).ask(self._slow.own_pids())

    def origins(self, seen: Snapshot) -> dict[str, Origin]:
        """Where each signal is read, and why those are absent that `seen` lacks. Reads anew, so only when asked."""
        return {
            **self._cpu.origins(),
            **memory.origins(self._proc, self._cgroup),
            **pressure.origins(self._proc, self._cgroup.directory),
            **power.origins(self._sys),
            **self._consumption.origins(seen.power.watts_of),
            **temperature.origins(self._sys, self._sensors, seen.temperatures),
            **self._idle.origins(),
            **self._disk.origins(),
            **self._slow.origins(),
            "requests.waiting": Origin("patchd's own queue of predictions", "nothing here answers predictions"),
            "pressure.memory.acute": self._memory_acute()[1],
            **{name: origin for source in self._added for name, origin in source.origins().items()},
        }

    def _power(self) -> Power:
        supplies = read_power(self._sys)
        taken = self._consumption.read(time.monotonic(), supplies.battery_watts)
        if taken is None:
            return supplies
        return supplies.model_copy(update={"watts": taken.watts, "watts_of": taken.of})
