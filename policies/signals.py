"""The flat, named signals that policies speak of: one table, each with its unit, its meaning and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .added_signals import is_added, whose
from .snapshot import Snapshot

SWITCH = "0 or 1"  # the unit of signals that are true or false


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """A named number that rules may refer to; `read` returns None where the machine lacks it."""

    name: str
    unit: str
    meaning: str
    read: Callable[[Snapshot], float | None]


def _busy_other(s: Snapshot) -> float | None:
    if s.cpu.busy is None:
        return None
    return max(0.0, s.cpu.busy - (s.cpu.busy_own or 0.0))


def _stall(resource: str, field: str) -> Callable[[Snapshot], float | None]:
    def read(s: Snapshot) -> float | None:
        stall = getattr(s.pressure, resource)
        return None if stall is None else getattr(stall, field)

    return read


def _bool(value: bool | None) -> float | None:
    return None if value is None else float(value)


SIGNALS: Mapping[str, SignalSpec] = {
    spec.name: spec
    for spec in (
        SignalSpec("cpu.busy", "share", "processors in use by everything", lambda s: s.cpu.busy),
        SignalSpec("cpu.busy_other", "share", "processors in use by other programs than patchd", _busy_other),
        SignalSpec("cpu.busy_own", "share", "processors in use by patchd and its workers", lambda s: s.cpu.busy_own),
        SignalSpec(
            "cpu.load1",
            "tasks per core",
            "load average over one minute, per usable core",
            lambda s: None if s.cpu.load1 is None else s.cpu.load1 / s.cpu.cores,
        ),
        SignalSpec(
            "memory.available",
            "share",
            "memory available, of the total or of the cgroup limit",
            lambda s: None if s.memory is None else s.memory.available_bytes / s.memory.total_bytes,
        ),
        SignalSpec(
            "memory.available_bytes",
            "bytes",
            "memory available",
            lambda s: None if s.memory is None else float(s.memory.available_bytes),
        ),
        SignalSpec(
            "pressure.cpu.some",
            "share",
            "time some task waited for a processor, over 10 s",
            _stall("cpu", "some_avg10"),
        ),
        SignalSpec(
            "pressure.memory.some",
            "share",
            "time some task waited for memory, over 10 s",
            _stall("memory", "some_avg10"),
        ),
        SignalSpec(
            "pressure.memory.full",
            "share",
            "time all tasks waited for memory, over 10 s",
            _stall("memory", "full_avg10"),
        ),
        SignalSpec(
            "pressure.io.some", "share", "time some task waited for input/output, over 10 s", _stall("io", "some_avg10")
        ),
        SignalSpec(
            "pressure.io.full", "share", "time all tasks waited for input/output, over 10 s", _stall("io", "full_avg10")
        ),
        SignalSpec("power.on_mains", SWITCH, "1 on mains, 0 on battery", lambda s: _bool(s.power.on_mains)),
        SignalSpec("battery.charge", "share", "charge of all batteries", lambda s: s.power.battery_charge),
        SignalSpec(
            "battery.seconds_left", "seconds", "time until the battery is empty", lambda s: s.power.battery_seconds_left
        ),
        SignalSpec(
            "temperature.max",
            "degrees Celsius",
            "hottest sensor",
            lambda s: max((t.celsius for t in s.temperatures), default=None),
        ),
        SignalSpec(
            "disk.free_bytes",
            "bytes",
            "free space of the state directory's file system",
            lambda s: None if s.disk is None else float(s.disk.free_bytes),
        ),
        SignalSpec(
            "user.idle_s", "seconds", "time since a terminal, keyboard or mouse was used", lambda s: s.user.idle_s
        ),
    )
}


def signals(snapshot: Snapshot) -> dict[str, float]:
    """The signals that this snapshot has, by name; absent ones are left out."""
    values = ((name, spec.read(snapshot)) for name, spec in SIGNALS.items())
    present = {name: value for name, value in values if value is not None}
    return present | {reading.name: reading.value for reading in snapshot.added}


def signal_spec(name: str, snapshot: Snapshot | None = None) -> SignalSpec | None:
    """What a signal is; one that others add has the unit that `snapshot` tells. None where there can be no such."""
    if name in SIGNALS or not is_added(name):
        return SIGNALS.get(name)
    told = next((reading for reading in (snapshot.added if snapshot else ()) if reading.name == name), None)
    unit, meaning = ("", "") if told is None else (told.unit, told.meaning)
    return SignalSpec(name, unit, meaning or whose(name), lambda s: signals(s).get(name))
