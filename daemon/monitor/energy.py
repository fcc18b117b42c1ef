"""Energy that the machine tells of: RAPL counters of the processors, or what its batteries give.

Kernel: Documentation/power/powercap/powercap.rst (energy_uj, max_energy_range_uj; readable by root alone since 5.10)
and Documentation/ABI/testing/sysfs-class-power (power_now, or current_now and voltage_now).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .files import numbers, read_int, read_text, subdirectories, why_absent
from .power import discharge_watts

Source = Literal["rapl", "battery"]


@dataclass(frozen=True, slots=True)
class Spent:
    """What the whole machine spent between two readings."""

    joules: float
    source: Source  # rapl: processors and memory; battery: everything that it feeds, the screen too
    busy_s: float | None  # processor seconds of all programs together; None where the kernel does not tell

    def share_of(self, cpu_s: float) -> float | None:
        """Joules of a program that used `cpu_s` of the processor seconds; None where its share cannot be told."""
        if self.busy_s is None:
            return None
        return self.joules * min(1.0, cpu_s / self.busy_s) if self.busy_s > 0 else 0.0


class EnergyReader:
    """Remembers the counters of the last reading; the first reading therefore tells nothing."""

    def __init__(self, proc_root: Path, sys_root: Path) -> None:
        self._proc, self._sys = proc_root, sys_root
        self._counters: dict[Path, int] = {}
        self._busy_s: float | None = None
        self._read_s: float | None = None

    def forget(self) -> None:
        """Begin anew: what the machine spends until the next reading is asked for by nobody."""
        self._counters, self._busy_s, self._read_s = {}, None, None

    def read(self, now_s: float) -> Spent | None:
        """Spent since the last reading, at `now_s` of a clock that is never set; None where nothing tells.

        RAPL where it can be read, else the batteries while they discharge.
        """
        elapsed = None if self._read_s is None else now_s - self._read_s
        counters, busy_s = self._rapl(), self._busy()
        before, self._counters = self._counters, counters
        busy_before, self._busy_s, self._read_s = self._busy_s, busy_s, now_s
        if elapsed is None or elapsed <= 0:
            return None
        busy = None if busy_s is None or busy_before is None else max(0.0, busy_s - busy_before)
        if counters and counters.keys() == before.keys():
            micro = sum(_passed(zone, before[zone], now) for zone, now in counters.items())
            return Spent(micro / 1e6, "rapl", busy)
        watts = discharge_watts(self._sys) if not counters else None
        return None if watts is None else Spent(watts * elapsed, "battery", busy)

    def why_no_rapl(self) -> str:
        """Why no counter of the processors' energy is read."""
        place = self._sys / "class" / "powercap"
        zones = [zone for zone in subdirectories(place) if zone.name.startswith("intel-rapl:")]
        if not zones:
            return f"no RAPL under {place}"
        return f"RAPL: {why_absent(zones[0] / 'energy_uj')}"

    def _rapl(self) -> dict[Path, int]:
        """Counters of the processor packages, and of memory, which no package contains."""
        found: dict[Path, int] = {}
        for zone in subdirectories(self._sys / "class" / "powercap"):
            if not zone.name.startswith("intel-rapl:"):
                continue
            name = read_text(zone / "name") or ""
            count = read_int(zone / "energy_uj")
            if (name.startswith("package") or name == "dram") and count is not None and count >= 0:
                found[zone] = count
        return found

    def _busy(self) -> float | None:
        fields = (read_text(self._proc / "stat") or "").partition("\n")[0].split()
        ticks = numbers(fields[1:9]) if fields[:1] == ["cpu"] else None
        if ticks is None or len(ticks) < 4:
            return None
        return (sum(ticks) - sum(ticks[3:5])) / os.sysconf("SC_CLK_TCK")


def _passed(zone: Path, before: int, now: int) -> int:
    """What a counter has counted; it starts from 0 again past its range."""
    if now >= before:
        return now - before
    return now - before + (read_int(zone / "max_energy_range_uj") or before)
