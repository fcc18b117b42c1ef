"""The training worker on the scales: processor time and energy between two looks at it."""

from __future__ import annotations

import contextlib
import time

import psutil

from ..policies.training_use import TrainingUse
from .monitor.energy import EnergyReader


class TrainingMeter:
    """Reads what the kernel has counted for the worker, so that what a killed one used is known to the last look."""

    def __init__(self, energy: EnergyReader) -> None:
        self._energy = energy
        self._process: psutil.Process | None = None
        self._cpu_s = 0.0

    def look(self, pid: int | None) -> TrainingUse:
        """What the process has used since the last look; all of it where this is the first at this process."""
        if pid is None:
            self._process = None
            return TrainingUse()
        if self._process is None or self._process.pid != pid:
            self._process, self._cpu_s = None, 0.0
            self._energy.forget()
            with contextlib.suppress(psutil.Error):
                self._process = psutil.Process(pid)
        if self._process is None:
            return TrainingUse()
        spent = self._energy.read(time.monotonic())
        try:
            times = self._process.cpu_times()
        except psutil.Error:  # reaped meanwhile
            return TrainingUse()
        used, self._cpu_s = times.user + times.system - self._cpu_s, times.user + times.system
        used = max(0.0, used)
        joules = None if spent is None else spent.share_of(used)
        return TrainingUse(
            cpu_seconds=used,
            rapl_joules=joules if spent is not None and spent.source == "rapl" else None,
            battery_joules=joules if spent is not None and spent.source == "battery" else None,
        )
