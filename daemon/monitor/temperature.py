"""Temperatures from thermal zones and hardware monitors, in degrees Celsius."""

from __future__ import annotations

from pathlib import Path

from ...policies.snapshot import Sensor
from .files import read_int, read_text, subdirectories

PLAUSIBLE = (-40.0, 150.0)  # broken sensors report values like -128 or 255


def find_sensors(sys_root: Path) -> tuple[tuple[str, Path, Path | None], ...]:
    """Name, value file and critical-temperature file of each sensor; discovery is the slow part, so it is apart."""
    found: list[tuple[str, Path, Path | None]] = []
    for zone in subdirectories(sys_root / "class" / "thermal"):
        if zone.name.startswith("thermal_zone"):
            found.append((read_text(zone / "type") or zone.name, zone / "temp", _critical_trip(zone)))
    for monitor in subdirectories(sys_root / "class" / "hwmon"):
        chip = read_text(monitor / "name") or monitor.name
        for value in subdirectories(monitor):
            if value.name.startswith("temp") and value.name.endswith("_input"):
                stem = value.name.removesuffix("_input")
                label = read_text(monitor / f"{stem}_label") or stem
                critical = monitor / f"{stem}_crit"
                found.append((f"{chip}/{label}", value, critical if critical.exists() else None))
    return tuple(found)


def read_sensors(found: tuple[tuple[str, Path, Path | None], ...]) -> tuple[Sensor, ...]:
    """The sensors' present values; one that cannot be read or is not plausible is left out."""
    sensors = []
    for name, value, critical in found:
        celsius = _celsius(value)
        if celsius is not None:
            limit = None if critical is None else _celsius(critical)
            sensors.append(Sensor(name=name, celsius=celsius, critical_celsius=limit))
    return tuple(sensors)


def _celsius(file: Path) -> float | None:
    millidegrees = read_int(file)
    if millidegrees is None or not PLAUSIBLE[0] <= millidegrees / 1000 <= PLAUSIBLE[1]:
        return None
    return millidegrees / 1000


def _critical_trip(zone: Path) -> Path | None:
    for entry in subdirectories(zone):
        if entry.name.startswith("trip_point_") and entry.name.endswith("_type") and read_text(entry) == "critical":
            return zone / entry.name.replace("_type", "_temp")
    return None
