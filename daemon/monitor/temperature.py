"""Temperatures and trip points from thermal zones and hardware monitors, in degrees Celsius.

Kernel: Documentation/driver-api/thermal/sysfs-api.rst (trip_point_N_type: critical, hot, passive, active) and
Documentation/hwmon/sysfs-interface.rst (tempN_crit).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...policies.signal_readings import Origin
from ...policies.snapshot import Sensor
from .files import read_int, read_text, subdirectories

PLAUSIBLE = (-40.0, 150.0)  # broken sensors report values like -128 or 255
TRIPS = ("passive", "hot", "critical")  # an active one only starts a fan


@dataclass(frozen=True, slots=True)
class FoundSensor:
    """A sensor's file and its trip points as they were when it was found: they hardly ever change."""

    name: str
    file: Path
    trips: Mapping[str, float]


def find_sensors(sys_root: Path) -> tuple[FoundSensor, ...]:
    """All sensors; discovery is the slow part, so it is apart."""
    found: list[FoundSensor] = []
    for zone in subdirectories(sys_root / "class" / "thermal"):
        if zone.name.startswith("thermal_zone"):
            found.append(FoundSensor(read_text(zone / "type") or zone.name, zone / "temp", _trips(zone)))
    for monitor in subdirectories(sys_root / "class" / "hwmon"):
        chip = read_text(monitor / "name") or monitor.name
        for value in subdirectories(monitor):
            if value.name.startswith("temp") and value.name.endswith("_input"):
                stem = value.name.removesuffix("_input")
                label = read_text(monitor / f"{stem}_label") or stem
                critical = _limit(monitor / f"{stem}_crit")
                trips = {} if critical is None else {"critical": critical}
                found.append(FoundSensor(f"{chip}/{label}", value, trips))
    return tuple(found)


def read_sensors(found: tuple[FoundSensor, ...]) -> tuple[Sensor, ...]:
    """The sensors' present values; one that cannot be read or is not plausible is left out."""
    sensors = []
    for each in found:
        celsius = _celsius(each.file)
        if celsius is not None:
            trips = each.trips
            sensors.append(
                Sensor(
                    name=each.name,
                    celsius=celsius,
                    passive_celsius=trips.get("passive"),
                    hot_celsius=trips.get("hot"),
                    critical_celsius=trips.get("critical"),
                )
            )
    return tuple(sensors)


def origins(sys_root: Path, found: tuple[FoundSensor, ...], sensors: tuple[Sensor, ...]) -> dict[str, Origin]:
    """Which sensor is the hottest and which is nearest to a trip point, and why there is none."""
    place = sys_root / "class"
    if not found:
        missing = f"no temperature sensor under {place}/thermal and {place}/hwmon"
    else:
        missing = f"none of the {len(found)} sensors under {place} tells a plausible temperature"
    hottest = max(sensors, key=lambda s: s.celsius, default=None)
    tight = min((s for s in sensors if s.headroom is not None), key=lambda s: s.headroom or 0.0, default=None)
    untold = f"none of the {len(sensors)} sensors under {place} has a passive, hot or critical trip point"
    return {
        "temperature.max": Origin(_where(hottest, found), missing),
        "temperature.headroom": Origin(_where(tight, found), untold if sensors else missing),
    }


def _where(sensor: Sensor | None, found: tuple[FoundSensor, ...]) -> str:
    file = next((each.file for each in found if sensor is not None and each.name == sensor.name), None)
    return "" if sensor is None else f"{sensor.name} ({file})"


def _celsius(file: Path) -> float | None:
    millidegrees = read_int(file)
    if millidegrees is None or not PLAUSIBLE[0] <= millidegrees / 1000 <= PLAUSIBLE[1]:
        return None
    return millidegrees / 1000


def _limit(file: Path) -> float | None:
    """A trip point; one at 0 degrees or below is a place where none has been set."""
    celsius = _celsius(file)
    return celsius if celsius is not None and celsius > 0 else None


def _trips(zone: Path) -> dict[str, float]:
    """The lowest trip point of each kind."""
    trips: dict[str, float] = {}
    for entry in subdirectories(zone):
        if not (entry.name.startswith("trip_point_") and entry.name.endswith("_type")):
            continue
        kind, celsius = read_text(entry), _limit(zone / entry.name.replace("_type", "_temp"))
        if kind in TRIPS and celsius is not None:
            trips[kind] = min(celsius, trips.get(kind, celsius))
    return trips
