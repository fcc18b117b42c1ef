"""Sources that cost more than a file: each is asked in a thread, at a period of its own, and is as old as it says."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...policies.signal_readings import Origin
from ...policies.snapshot import Consumer, Gpu, Network, Snapshot
from . import consumers, system_bus
from .consumers import ConsumerReader
from .gpu import GpuReader
from .system_bus import Sessions, SystemBus

CHECK_S = 5.0  # how often `refresh` is to be called: the shortest period of a source
STALE_PERIODS = 4  # a source that has not answered for so many periods tells nothing any more
WAIT_S = 20.0  # for answers, before the caller is let go; a thread that hangs is left alone
BUSY = 0.5  # share of the processors that others use from which it is told who they are


@dataclass
class _Source:
    """One source, what it told last, and when (of a clock that is never set back, and Unix time)."""

    ask: Callable[[], Any]
    wanted: Callable[[], bool]
    every_s: Callable[[], float]
    value: Any = None
    asked: float | None = None  # seconds of time.monotonic
    told: float | None = None
    read_s: float = 0.0
    in_flight: bool = False

    @property
    def due(self) -> bool:
        return not self.in_flight and (self.asked is None or time.monotonic() - self.asked >= self.every_s())

    @property
    def stale(self) -> bool:
        return self.told is None or time.monotonic() - self.told > STALE_PERIODS * self.every_s() + WAIT_S

    def forget(self) -> None:
        """What it told counts no more."""
        self.value, self.told, self.asked = None, None, None

    async def refresh(self) -> None:
        """Ask in a thread, and keep the answer."""
        self.in_flight, self.asked = True, time.monotonic()
        try:
            self.value = await asyncio.to_thread(self.ask)
            self.told, self.read_s = time.monotonic(), time.time()
        finally:
            self.in_flight = False


class SlowSources:
    """Graphics processors, other services, and who keeps the processors busy."""

    def __init__(
        self, proc_root: Path, sys_root: Path, bus_socket: Path, worker_pids: Callable[[], Mapping[str, int]]
    ) -> None:
        self._proc, self._worker_pids = proc_root, worker_pids
        self._gpu = GpuReader(proc_root, sys_root)
        self._bus = SystemBus(bus_socket)
        self._busiest = ConsumerReader(proc_root)
        self._busy = False
        self._pending: set[asyncio.Task[None]] = set()
        on_bus, bus_period = (lambda: self._bus.present), (lambda: system_bus.EVERY_S)
        self._sources = {
            "gpu": _Source(self._gpu.read, lambda: self._gpu.present, lambda: self._gpu.every_s),
            "network": _Source(self._bus.network, on_bus, bus_period),
            "sessions": _Source(self._bus.sessions, on_bus, bus_period),
            "consumers": _Source(
                lambda: self._busiest.look(self.own_pids()), lambda: self._busy, lambda: consumers.EVERY_S
            ),
        }

    def own_pids(self) -> set[int]:
        """The daemon and its workers."""
        return {os.getpid(), *self._worker_pids().values()}

    async def refresh(self, seen: Snapshot | None) -> None:
        """Ask those whose time has come. What a source cannot be asked for is forgotten."""
        self._busy = seen is not None and (seen.cpu.busy or 0.0) - (seen.cpu.busy_own or 0.0) > BUSY
        for name, source in self._sources.items():
            if not source.wanted():
                if name == "consumers" and source.asked is not None:
                    self._busiest = ConsumerReader(self._proc)
                source.forget()
            elif source.due:
                self._pending.add(asyncio.create_task(source.refresh()))
        if not self._pending:
            return
        done, self._pending = await asyncio.wait(self._pending, timeout=WAIT_S)
        for task in done:
            task.result()  # an error that no reader expects is the caller's to report

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every graphics processor that NVML tells of."""
        return self._value("gpu") or ()

    @property
    def network(self) -> Network:
        """The connection, as NetworkManager sees it."""
        return self._value("network") or Network()

    @property
    def sessions(self) -> Sessions:
        """Who is logged in, as logind sees it."""
        return self._value("sessions") or Sessions(None, None)

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """Who keeps the processors busy, while somebody does."""
        return self._value("consumers") or ()

    @property
    def read_s(self) -> dict[str, float]:
        """Unix time at which each told what it tells, by the names that a snapshot's `read_s` has."""
        names = {
            "gpu": ("gpu",),
            "network": ("network",),
            "sessions": ("user.sessions", "user.session_idle"),
            "consumers": ("consumers",),
        }
        return {
            name: source.read_s
            for key, source in self._sources.items()
            if source.told is not None and not source.stale
            for name in names[key]
        }

    def origins(self) -> dict[str, Origin]:
        """Where each signal is asked for, and why it is absent."""
        return {**self._gpu.origins(), **self._bus.origins()}

    def _value(self, name: str) -> Any:
        source = self._sources[name]
        return None if source.stale else source.value
