"""The training worker on the scales: processor time and energy between two looks at it."""

from __future__ import annotations

import time

from ..policies.training_use import TrainingUse
from .monitor.energy import EnergyReader
from .monitor.processes import use_of


class TrainingMeter:
    """Reads what the kernel has counted for the worker, so that what a killed one used is known to the last look."""

    def __init__(self, energy: EnergyReader) -> None:
        self._energy = energy
        self._pid: int | None = None
        self._cpu_s = 0.0

    def look(self, pid: int | None) -> TrainingUse:
        """What the process has used since the last look; all of it where this is the first at this process."""
        now = None if pid is None else use_of(pid)
        if pid is None or now is None:  # stopped, or reaped meanwhile
            self._pid = None
            return TrainingUse()
        if self._pid != pid:
            self._pid, self._cpu_s = pid, 0.0
            self._energy.forget()
        spent = self._energy.read(time.monotonic())
        used, self._cpu_s = now.cpu_s - self._cpu_s, now.cpu_s
        used = max(0.0, used)
        joules = None if spent is None else spent.share_of(used)
        return TrainingUse(
            cpu_seconds=used,
            rapl_joules=joules if spent is not None and spent.source == "rapl" else None,
            battery_joules=joules if spent is not None and spent.source == "battery" else None,
        )
