"""What the monitor saw at one moment, and the flat, named signals that policies speak of.

Absent is `None`, never zero: a machine without a battery has `power.battery_charge is None`, and the signal
`battery.charge` does not exist for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from .added_signals import is_added, whose


class Frozen(BaseModel):
    """Base of every record that crosses a boundary: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Cpu(Frozen):
    """Processor use. Fractions are of the processors this daemon may use (affinity, then the cgroup quota)."""

    count: int = Field(ge=1, description="processors in the affinity mask of the daemon")
    limit_cores: float | None = Field(None, description="cgroup quota in cores; None without a quota")
    busy: float | None = Field(None, ge=0, le=1, description="share in use by everything, 0 to 1")
    busy_own: float | None = Field(None, ge=0, le=1, description="share in use by patchd and its workers, 0 to 1")
    load1: float | None = Field(None, ge=0, description="load average over one minute, in tasks")
    load5: float | None = Field(None, ge=0, description="load average over five minutes, in tasks")
    load15: float | None = Field(None, ge=0, description="load average over fifteen minutes, in tasks")

    @property
    def cores(self) -> float:
        """The processors that count: the quota where there is one, else the affinity mask."""
        return float(self.count) if self.limit_cores is None else min(float(self.count), self.limit_cores)


class Memory(Frozen):
    """Memory in bytes; under a cgroup limit `total` and `available` are the limit's, with reclaimable cache free."""

    total_bytes: int = Field(gt=0)
    available_bytes: int = Field(ge=0)
    limited_by: str = Field("machine", description="machine, cgroup-v1 or cgroup-v2")
    swap_total_bytes: int | None = Field(None, ge=0)
    swap_used_bytes: int | None = Field(None, ge=0)


class Stall(Frozen):
    """One resource's pressure stall information, as shares of wall time from 0 to 1 (kernel: PSI, in percent)."""

    some_avg10: float = Field(ge=0, le=1)
    some_avg60: float = Field(ge=0, le=1)
    full_avg10: float | None = Field(None, ge=0, le=1)
    full_avg60: float | None = Field(None, ge=0, le=1)


class Pressure(Frozen):
    """Pressure stall information of processor, memory and input/output."""

    cpu: Stall | None = None
    memory: Stall | None = None
    io: Stall | None = None


class Power(Frozen):
    """Power supply. A machine without a battery and without a mains adapter to read has all three absent."""

    on_mains: bool | None = None
    battery_charge: float | None = Field(None, ge=0, le=1, description="charge of all batteries together, 0 to 1")
    battery_seconds_left: float | None = Field(None, ge=0, description="until empty, while discharging")


class Sensor(Frozen):
    """One temperature sensor."""

    name: str
    celsius: float
    critical_celsius: float | None = None


class User(Frozen):
    """Whoever sits at the device, as far as it tells."""

    idle_s: float | None = Field(None, ge=0, description="seconds since a terminal, keyboard or mouse was used")


class Disk(Frozen):
    """The file system that holds the state directory."""

    total_bytes: int = Field(gt=0)
    free_bytes: int = Field(ge=0)


class WorkerUse(Frozen):
    """What one of the daemon's own processes uses."""

    name: str
    pid: int
    cpu_cores: float | None = Field(None, ge=0, description="processor use in cores; absent at the first sample")
    resident_bytes: int = Field(ge=0)


class AddedReading(Frozen):
    """One signal that an application has posted or a plug-in has given."""

    name: str
    value: float = Field(allow_inf_nan=False)
    unit: str = ""
    meaning: str = ""
    source: str = Field("", description="who gave it")
    taken_s: float = Field(ge=0, description="Unix time at which it was given")


class Snapshot(Frozen):
    """What the monitor saw at `time_s` (Unix time, seconds)."""

    time_s: float
    source: str = Field("device", description="'device', or 'trace:NAME' while a trace is replayed")
    cpu: Cpu
    memory: Memory | None = None
    pressure: Pressure = Pressure()
    power: Power = Power()
    temperatures: tuple[Sensor, ...] = ()
    disk: Disk | None = None
    user: User = User()
    workers: tuple[WorkerUse, ...] = ()
    added: tuple[AddedReading, ...] = Field((), description="what applications post and plug-ins give")


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
