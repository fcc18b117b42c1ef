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


class RaplCounters:
    """Energy of the processor packages, and of memory, which no package contains; remembers the last reading."""

    def __init__(self, sys_root: Path) -> None:
        self._place = sys_root / "class" / "powercap"
        self._counts: dict[Path, int] = {}
        self.discover()

    def discover(self) -> None:
        """Find the counters."""
        self._zones = []
        for zone in subdirectories(self._place):
            name = read_text(zone / "name") or "" if zone.name.startswith("intel-rapl:") else ""
            if name.startswith("package") or name == "dram":
                self._zones.append(zone / "energy_uj")

    def forget(self) -> None:
        """The next reading tells nothing."""
        self._counts = {}

    def read(self) -> float | None:
        """Joules since the last reading; None at the first, and where no counter can be read."""
        counts = {zone: count for zone in self._zones if (count := read_int(zone)) is not None and count >= 0}
        before, self._counts = self._counts, counts
        if not counts or counts.keys() != before.keys():
            return None
        return sum(_passed(zone, before[zone], now) for zone, now in counts.items()) / 1e6

    @property
    def readable(self) -> bool:
        """Whether the last reading found counters."""
        return bool(self._counts)

    def why_absent(self) -> str:
        """Why no counter is read."""
        return f"RAPL: {why_absent(self._zones[0])}" if self._zones else f"no RAPL under {self._place}"


class EnergyReader:
    """Remembers the counters of the last reading; the first reading therefore tells nothing."""

    def __init__(self, proc_root: Path, sys_root: Path) -> None:
        self._proc, self._sys = proc_root, sys_root
        self._rapl = RaplCounters(sys_root)
        self._busy_s: float | None = None
        self._read_s: float | None = None

    def forget(self) -> None:
        """Begin anew: what the machine spends until the next reading is asked for by nobody."""
        self._rapl.forget()
        self._busy_s, self._read_s = None, None

    def read(self, now_s: float) -> Spent | None:
        """Spent since the last reading, at `now_s` of a clock that is never set; None where nothing tells.

        RAPL where it can be read, else the batteries while they discharge.
        """
        elapsed = None if self._read_s is None else now_s - self._read_s
        self._rapl.discover()
        joules, busy_s = self._rapl.read(), self._busy()
        busy_before, self._busy_s, self._read_s = self._busy_s, busy_s, now_s
        if elapsed is None or elapsed <= 0:
            return None
        busy = None if busy_s is None or busy_before is None else max(0.0, busy_s - busy_before)
        if joules is not None:
            return Spent(joules, "rapl", busy)
        watts = None if self._rapl.readable else discharge_watts(self._sys)
        return None if watts is None else Spent(watts * elapsed, "battery", busy)

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
    return now - before + (read_int(zone.with_name("max_energy_range_uj")) or before)
