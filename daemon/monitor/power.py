"""Mains and batteries from /sys/class/power_supply (Documentation/ABI/testing/sysfs-class-power)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...policies.signal_readings import Origin
from ...policies.snapshot import Power
from .files import read_int, read_text, subdirectories

MAINS_TYPES = ("Mains", "USB", "USB_C", "USB_PD", "Wireless")
NOT_DISCHARGING = ("Charging", "Full", "Not charging")


@dataclass(frozen=True, slots=True)
class _Battery:
    name: str
    unit: str  # of the next three: energy, charge or percent; empty where it does not tell how full it is
    now: float
    full: float
    rate: float | None  # in the unit of `now` an hour
    status: str | None
    watts: float | None  # without a sign: drivers do not agree on it

    @property
    def discharging(self) -> bool | None:
        """None where the battery does not tell."""
        return True if self.status == "Discharging" else False if self.status in NOT_DISCHARGING else None

    @property
    def given(self) -> float | None:
        """Watts out of the battery, below 0 into it; None where it does not tell."""
        if self.status in ("Full", "Not charging"):
            return 0.0
        if self.watts is None or self.discharging is None:
            return None
        return self.watts if self.discharging else -self.watts


@dataclass(frozen=True, slots=True)
class _Supplies:
    mains: tuple[tuple[str, bool], ...]  # name and whether it is plugged in
    adapter: bool  # whether one of them is nothing else
    batteries: tuple[_Battery, ...]


def read_power(sys_root: Path) -> Power:
    """All supplies together. Batteries of mice and other devices (scope Device) are left out."""
    supplies = _supplies(sys_root)
    mains, batteries = [online for _, online in supplies.mains], supplies.batteries
    states = [battery.discharging for battery in batteries if battery.discharging is not None]
    discharging = any(states)
    if any(mains):
        on_mains: bool | None = True
    elif mains and (supplies.adapter or batteries):
        on_mains = False
    else:  # an unused USB port says nothing about a machine that has no battery
        on_mains = not discharging if states else None
    return Power(
        on_mains=on_mains,
        battery_charge=_charge(batteries),
        battery_seconds_left=_seconds_left(batteries) if discharging else None,
        battery_watts=_given(batteries),
    )


def origins(sys_root: Path) -> dict[str, Origin]:
    """Which supplies tell each signal, and why one is absent."""
    place = sys_root / "class" / "power_supply"
    supplies = _supplies(sys_root)
    batteries = supplies.batteries
    names = ", ".join(battery.name for battery in batteries)
    source = f"{place} ({names})" if names else str(place)
    none = f"no battery under {place}"
    untold = [battery.name for battery in batteries if battery.given is None]
    feeds = ", ".join((*(name for name, _ in supplies.mains), *(battery.name for battery in batteries)))
    return {
        "power.on_mains": Origin(
            f"{place} ({feeds})" if feeds else str(place),
            f"{place} shows neither a battery that tells its status nor an adapter",
        ),
        "battery.charge": Origin(source, f"{names} does not tell how full it is" if names else none),
        "battery.seconds_left": Origin(source, _no_time_left(batteries) or none),
        "battery.watts": Origin(
            source, f"{', '.join(untold)} tells neither power nor current and voltage" if untold else none
        ),
    }


def _no_time_left(batteries: tuple[_Battery, ...]) -> str:
    """Why the batteries tell no time left."""
    if not any(battery.discharging for battery in batteries):
        return "the batteries do not discharge" if batteries else ""
    if len({battery.unit for battery in batteries}) > 1:
        return "the batteries tell their charge in different units"
    dry = ", ".join(battery.name for battery in batteries if battery.discharging and battery.rate is None)
    return f"{dry} does not tell how fast it discharges" if dry else "the batteries give no power now"


def discharge_watts(sys_root: Path) -> float | None:
    """What the batteries give together; None unless one discharges and all that do tell how fast."""
    rates = [battery.watts for battery in _supplies(sys_root).batteries if battery.discharging]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known and len(known) == len(rates) else None


def _supplies(sys_root: Path) -> _Supplies:
    mains: list[tuple[str, bool]] = []
    adapter = False
    batteries: list[_Battery] = []
    for supply in subdirectories(sys_root / "class" / "power_supply"):
        if read_text(supply / "scope") == "Device":
            continue
        kind = read_text(supply / "type")
        if kind in MAINS_TYPES and (online := read_int(supply / "online")) is not None:
            mains.append((supply.name, online > 0))
            adapter = adapter or kind == "Mains"
        elif kind == "Battery" and read_int(supply / "present") != 0:
            batteries.append(_battery(supply))
    return _Supplies(tuple(mains), adapter, tuple(batteries))


def _battery(supply: Path) -> _Battery:
    status, watts = read_text(supply / "status"), _watts(supply)
    for quantity, rate in (("energy", "power_now"), ("charge", "current_now")):
        now = read_int(supply / f"{quantity}_now")
        full = read_int(supply / f"{quantity}_full") or read_int(supply / f"{quantity}_full_design")
        if now is not None and now >= 0 and full is not None and full > 0:
            flow = read_int(supply / rate)
            speed = None if flow is None else abs(float(flow))
            return _Battery(supply.name, quantity, float(now), float(full), speed, status, watts)
    capacity = read_int(supply / "capacity")
    if capacity is None or capacity < 0:
        return _Battery(supply.name, "", 0.0, 0.0, None, status, watts)
    return _Battery(supply.name, "percent", float(capacity), 100.0, None, status, watts)


def _watts(supply: Path) -> float | None:
    power = read_int(supply / "power_now")
    if power is not None:
        return abs(power) / 1e6
    current, voltage = read_int(supply / "current_now"), read_int(supply / "voltage_now")
    return None if current is None or voltage is None else abs(current) * abs(voltage) / 1e12


def _charge(batteries: tuple[_Battery, ...]) -> float | None:
    """Weighed by size where all tell it in the same unit, else the mean of all that tell."""
    told = [battery for battery in batteries if battery.full > 0]
    if not told:
        return None
    if len({battery.unit for battery in told}) == 1:
        share = sum(battery.now for battery in told) / sum(battery.full for battery in told)
    else:
        share = sum(min(1.0, battery.now / battery.full) for battery in told) / len(told)
    return min(1.0, share)


def _given(batteries: tuple[_Battery, ...]) -> float | None:
    rates = [battery.given for battery in batteries]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known and len(known) == len(rates) else None


def _seconds_left(batteries: tuple[_Battery, ...]) -> float | None:
    rates = [battery.rate for battery in batteries if battery.discharging]
    if not rates or any(rate is None for rate in rates) or len({battery.unit for battery in batteries}) > 1:
        return None
    rate = sum(rate for rate in rates if rate is not None)
    return 3600.0 * sum(battery.now for battery in batteries) / rate if rate > 0 else None
