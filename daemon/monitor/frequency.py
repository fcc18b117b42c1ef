"""The processors' clock, and whether heat or want of power holds it down.

Kernel: Documentation/admin-guide/pm/cpufreq.rst (scaling_cur_freq, scaling_max_freq, cpuinfo_max_freq in kHz);
thermal_throttle of Intel processors (counters of the times at which heat slowed them) in
Documentation/ABI/testing/sysfs-devices-system-cpu; cooling devices in Documentation/driver-api/thermal/sysfs-api.rst.
The Raspberry Pi's kernel adds its firmware's flags, get_throttled: bit 1 clock capped, 2 throttled, 3 soft
temperature limit (raspberrypi.com, "vcgencmd").
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...policies.signal_readings import Origin
from .files import read_int, read_text, subdirectories, why_absent

MOST_FILES = 8  # looked at each time, spread over the processors: some machines have hundreds, and they run alike
THROTTLED_FOR_S = 10.0  # a counter moves when heat begins to slow a processor, not all the while
FIRMWARE = ("devices/platform/soc/soc:firmware/get_throttled", "devices/platform/soc@0/soc@0:firmware/get_throttled")
SLOWED_NOW = 0b1110
COOLS_BY_CLOCK = ("Processor", "cpufreq-", "thermal-cpufreq-")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Clock:
    """Shares of the highest clock, and whether something holds it down; None where the machine does not tell."""

    frequency: float | None
    limit: float | None
    throttled: bool | None


class FrequencyReader:
    """Remembers the counters of the last sample."""

    def __init__(self, sys_root: Path) -> None:
        self._sys = sys_root
        self._counts: dict[Path, int] = {}
        self._moved_s: float | None = None
        self.discover()

    def discover(self) -> None:
        """Find the files: processors are plugged in and out."""
        system, allowed = self._sys / "devices" / "system" / "cpu", os.sched_getaffinity(0)
        found = []
        for policy in subdirectories(system / "cpufreq"):
            highest, cores = read_int(policy / "cpuinfo_max_freq"), _processors(policy / "affected_cpus")
            if policy.name.startswith("policy") and highest is not None and highest > 0:
                weight = len(cores & allowed) if cores is not None else 1
                if weight > 0:
                    found.append((policy, highest, weight))
        self._policies = _spread(found)
        places = [system / f"cpu{number}" / "thermal_throttle" for number in sorted(allowed)]
        self._counters = [
            file
            for place in _spread([place for place in places if place.is_dir()])
            for file in (place / "core_throttle_count", place / "package_throttle_count")
            if file.exists()
        ]
        self._firmware = next((self._sys / path for path in FIRMWARE if (self._sys / path).exists()), None)
        self._cooling = _spread(
            [
                device / "cur_state"
                for device in subdirectories(self._sys / "class" / "thermal")
                if device.name.startswith("cooling_device")
                and (read_text(device / "type") or "").startswith(COOLS_BY_CLOCK)
            ]
        )

    def read(self) -> Clock:
        """The clock now, the mean of all processors that this daemon may use."""
        throttled = [known for known in (self._counted(), self._flagged(), self._cooled()) if known is not None]
        return Clock(
            self._share("scaling_cur_freq"), self._share("scaling_max_freq"), any(throttled) if throttled else None
        )

    def _share(self, name: str) -> float | None:
        total = weights = 0.0
        for policy, highest, weight in self._policies:
            value = read_int(policy / name)
            if value is not None and value > 0:
                total += weight * min(1.0, value / highest)
                weights += weight
        return min(1.0, total / weights) if weights else None

    def _counted(self) -> bool | None:
        counts = {file: count for file in self._counters if (count := read_int(file)) is not None}
        if not counts:
            return None
        now = time.monotonic()
        if any(count > self._counts.get(file, count) for file, count in counts.items()):
            self._moved_s = now
        self._counts = counts
        return self._moved_s is not None and now - self._moved_s < THROTTLED_FOR_S

    def _flagged(self) -> bool | None:
        text = None if self._firmware is None else read_text(self._firmware)
        try:
            return None if text is None else bool(int(text.removeprefix("0x")[:16], 16) & SLOWED_NOW)
        except ValueError:
            return None

    def _cooled(self) -> bool | None:
        states = [state for file in self._cooling if (state := read_int(file)) is not None]
        return any(state > 0 for state in states) if states else None

    def origins(self) -> dict[str, Origin]:
        """Where the clock and what holds it down are read, and why one is absent."""
        place = self._sys / "devices" / "system" / "cpu" / "cpufreq"
        if not self._policies:
            none = f"no processor has a clock to read under {place}: virtual machines have none"
            current = limit = Origin(str(place), none)
        else:
            first = self._policies[0][0]
            current, limit = (
                Origin(f"{place}/policy*/{name}", why_absent(first / name))
                for name in ("scaling_cur_freq", "scaling_max_freq")
            )
        sources = [
            *(str(file) for file in (self._firmware,) if file is not None),
            *(f"{file.parent.parent.parent}/cpu*/thermal_throttle" for file in self._counters[:1]),
            *(f"{file.parent.parent}/cooling_device*" for file in self._cooling[:1]),
        ]
        why = f"no thermal_throttle counters, no cooling device of a processor and no firmware flag under {self._sys}"
        return {
            "cpu.frequency": current,
            "cpu.frequency_limit": limit,
            "cpu.throttled": Origin(", ".join(sources), why),
        }


def _spread(found: Sequence[T]) -> list[T]:
    """At most MOST_FILES of them, evenly apart."""
    step = max(1, -(-len(found) // MOST_FILES))
    return list(found[::step])


def _processors(file: Path) -> set[int] | None:
    fields = (read_text(file) or "").split()
    return {int(field) for field in fields if field.isascii() and field.isdecimal() and len(field) < 8} or None
