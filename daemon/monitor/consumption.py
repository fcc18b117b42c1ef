"""What the machine takes in watts: RAPL counters, else a sensor at the board's supply, else what the batteries give.

Boards such as NVIDIA's Jetson measure the current into the board with an INA3221, whose channels hwmon names by
the rail (Documentation/hwmon/ina3221.rst); servers tell an ACPI power meter (Documentation/hwmon/acpi_power_meter.rst).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...policies.signal_readings import Origin
from .energy import RaplCounters
from .files import read_int, read_text, subdirectories

INPUT_RAILS = ("VDD_IN", "POM_5V_IN", "5V_IN")  # the rails that feed a whole Jetson module
METER = "power_meter"


@dataclass(frozen=True, slots=True)
class Consumption:
    """Watts, and what they cover."""

    watts: float
    of: Literal["rapl", "input", "battery"]


class ConsumptionReader:
    """Remembers the energy counters of the last sample; with RAPL the first sample therefore tells nothing."""

    def __init__(self, sys_root: Path) -> None:
        self._sys = sys_root
        self._rapl = RaplCounters(sys_root)
        self._read_s: float | None = None
        self.discover()

    def discover(self) -> None:
        """Find the counters, and the sensors at the board's supply."""
        self._rapl.discover()
        self._inputs = tuple(_inputs(self._sys))

    def read(self, now_s: float, battery_watts: float | None) -> Consumption | None:
        """Mean power since the last call, at `now_s` of a clock that is never set back; the present one of a sensor.

        `battery_watts` is what the batteries give, below 0 while they are charged.
        """
        elapsed = 0.0 if self._read_s is None else now_s - self._read_s
        self._read_s = now_s
        joules = self._rapl.read()
        if joules is not None and elapsed > 0:
            return Consumption(joules / elapsed, "rapl")
        watts = [value for each in self._inputs if (value := _watts(each)) is not None]
        if watts:
            return Consumption(sum(watts), "input")
        if battery_watts is not None and battery_watts > 0 and not self._rapl.readable:
            return Consumption(battery_watts, "battery")
        return None

    def origins(self, of: str | None) -> dict[str, Origin]:
        """Where `power.watts` is read, and why it is absent."""
        source = {
            "rapl": f"{self._sys}/class/powercap/intel-rapl:*, processors and memory alone",
            "input": ", ".join(str(files[0].parent) for files in self._inputs),
            "battery": f"{self._sys}/class/power_supply",
        }.get(of or "", "")
        if self._rapl.readable:
            return {"power.watts": Origin(source, "RAPL counts between two samples, and there has been one")}
        why = f"{self._rapl.why_absent()}, no sensor at the supply under {self._sys}/class/hwmon"
        why += ", and no battery discharges and tells how fast"
        return {"power.watts": Origin(source, why)}


def _inputs(sys_root: Path) -> list[tuple[Path, ...]]:
    """The files of each supply: one in microwatts, or two in millivolts and milliamperes."""
    found: list[tuple[Path, ...]] = []
    for monitor in subdirectories(sys_root / "class" / "hwmon"):
        chip = read_text(monitor / "name") or ""
        if chip == METER:
            found.append((monitor / "power1_average",))
        elif chip.startswith("ina"):
            for channel in range(1, 9):
                if read_text(monitor / f"in{channel}_label") in INPUT_RAILS:
                    found.append((monitor / f"in{channel}_input", monitor / f"curr{channel}_input"))
    return found


def _watts(files: tuple[Path, ...]) -> float | None:
    values = [read_int(file) for file in files]
    known = [value for value in values if value is not None and value >= 0]
    if len(known) < len(values):
        return None
    return known[0] / 1e6 if len(known) == 1 else known[0] * known[1] / 1e6
