"""Mains and batteries from /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...policies.snapshot import Power
from .files import read_int, read_text, subdirectories

MAINS_TYPES = ("Mains", "USB", "USB_C", "USB_PD", "Wireless")
NOT_DISCHARGING = ("Charging", "Full", "Not charging")


@dataclass(frozen=True, slots=True)
class _Battery:
    now: float
    full: float
    rate: float | None  # in the unit of `now` an hour
    discharging: bool | None  # None where the battery does not tell


def read_power(sys_root: Path) -> Power:
    """All supplies together. Batteries of mice and other devices (scope Device) are left out."""
    mains: list[bool] = []
    adapter = False
    batteries: list[_Battery] = []
    for supply in subdirectories(sys_root / "class" / "power_supply"):
        if read_text(supply / "scope") == "Device":
            continue
        kind = read_text(supply / "type")
        online = read_int(supply / "online")
        if kind in MAINS_TYPES and online is not None:
            mains.append(online > 0)
            adapter = adapter or kind == "Mains"
        elif kind == "Battery" and (battery := _battery(supply)) is not None:
            batteries.append(battery)
    full = sum(battery.full for battery in batteries)
    states = [battery.discharging for battery in batteries if battery.discharging is not None]
    discharging = any(states)
    if any(mains):
        on_mains: bool | None = True
    elif mains and (adapter or batteries):
        on_mains = False
    else:  # an unused USB port says nothing about a machine that has no battery
        on_mains = not discharging if states else None
    charge = min(1.0, max(0.0, sum(b.now for b in batteries) / full)) if full > 0 else None
    return Power(
        on_mains=on_mains, battery_charge=charge, battery_seconds_left=_seconds_left(batteries) if discharging else None
    )


def _battery(supply: Path) -> _Battery | None:
    if read_int(supply / "present") == 0:
        return None
    status = read_text(supply / "status")
    discharging = True if status == "Discharging" else False if status in NOT_DISCHARGING else None
    for quantity, rate in (("energy", "power_now"), ("charge", "current_now")):
        now = read_int(supply / f"{quantity}_now")
        full = read_int(supply / f"{quantity}_full") or read_int(supply / f"{quantity}_full_design")
        if now is not None and now >= 0 and full is not None and full > 0:
            flow = read_int(supply / rate)
            return _Battery(float(now), float(full), None if flow is None else abs(float(flow)), discharging)
    capacity = read_int(supply / "capacity")
    if capacity is None or capacity < 0:
        return None
    return _Battery(float(capacity), 100.0, None, discharging)


def _seconds_left(batteries: list[_Battery]) -> float | None:
    rates = [battery.rate for battery in batteries if battery.discharging]
    if not rates or any(rate is None for rate in rates):
        return None
    rate = sum(rate for rate in rates if rate is not None)
    return 3600.0 * sum(battery.now for battery in batteries) / rate if rate > 0 else None
