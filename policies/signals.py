"""The flat, named signals that policies speak of: one table, each with its unit, its meaning and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from .added_signals import is_added, whose
from .snapshot import Memory, Snapshot

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


def _per_core(count: float | None, s: Snapshot) -> float | None:
    return None if count is None else count / s.cpu.cores


def _share(part: int | None, whole: int | None) -> float | None:
    return None if part is None or not whole else min(1.0, part / whole)


def _stall(resource: str, field: str) -> Callable[[Snapshot], float | None]:
    def read(s: Snapshot) -> float | None:
        stall = getattr(s.pressure, resource)
        return None if stall is None else getattr(stall, field)

    return read


def _own_stall(resource: str, field: str) -> Callable[[Snapshot], float | None]:
    def read(s: Snapshot) -> float | None:
        stall = None if s.pressure.own is None else getattr(s.pressure.own, resource)
        return None if stall is None else getattr(stall, field)

    return read


def _of_memory(field: Callable[[Memory], float | None]) -> Callable[[Snapshot], float | None]:
    return lambda s: None if s.memory is None else field(s.memory)


def _bool(value: bool | None) -> float | None:
    return None if value is None else float(value)


def _own_memory(s: Snapshot) -> float | None:
    return float(sum(use.resident_bytes for use in s.workers)) if s.workers else None


def _headroom(s: Snapshot) -> float | None:
    return min((room for t in s.temperatures if (room := t.headroom) is not None), default=None)


def _gpu_busy(s: Snapshot) -> float | None:
    return max((gpu.busy for gpu in s.gpus if gpu.busy is not None), default=None)


def _gpu_memory_free(s: Snapshot) -> float | None:
    shares = (_share(gpu.memory_free_bytes, gpu.memory_total_bytes) for gpu in s.gpus)
    return min((share for share in shares if share is not None), default=None)


def _gpu_watts(s: Snapshot) -> float | None:
    watts = [gpu.watts for gpu in s.gpus if gpu.watts is not None]
    return sum(watts) if watts else None


_CPU = (
    SignalSpec("cpu.busy", "share", "processors in use by everything", lambda s: s.cpu.busy),
    SignalSpec("cpu.busy_other", "share", "processors in use by other programs than patchd", _busy_other),
    SignalSpec("cpu.busy_own", "share", "processors in use by patchd and its workers", lambda s: s.cpu.busy_own),
    SignalSpec(
        "cpu.load1",
        "tasks per core",
        "load average over one minute, per usable core",
        lambda s: _per_core(s.cpu.load1, s),
    ),
    SignalSpec(
        "cpu.runnable",
        "tasks per core",
        "tasks that run or wait for a processor, per usable core",
        lambda s: _per_core(s.cpu.runnable, s),
    ),
    SignalSpec("cpu.steal", "share", "processor time that a hypervisor gave to other machines", lambda s: s.cpu.steal),
    SignalSpec("cpu.frequency", "share", "clock of the processors, of the highest there is", lambda s: s.cpu.frequency),
    SignalSpec(
        "cpu.frequency_limit",
        "share",
        "highest clock that is allowed now, of the highest there is",
        lambda s: s.cpu.frequency_limit,
    ),
    SignalSpec(
        "cpu.throttled",
        SWITCH,
        "1 while heat or want of power slows the processors",
        lambda s: _bool(s.cpu.throttled),
    ),
)

_MEMORY = (
    SignalSpec(
        "memory.available",
        "share",
        "memory available, of the total or of the cgroup limit",
        _of_memory(lambda m: m.available_bytes / m.total_bytes),
    ),
    SignalSpec("memory.available_bytes", "bytes", "memory available", _of_memory(lambda m: float(m.available_bytes))),
    SignalSpec(
        "memory.swap_used",
        "share",
        "swap in use",
        _of_memory(lambda m: _share(m.swap_used_bytes, m.swap_total_bytes)),
    ),
    SignalSpec(
        "memory.limit_bytes",
        "bytes",
        "limit of the cgroup with least room",
        _of_memory(lambda m: None if m.limit_bytes is None else float(m.limit_bytes)),
    ),
    SignalSpec(
        "memory.limit_used",
        "share",
        "what is used of that limit, reclaimable page cache aside",
        _of_memory(lambda m: _share(m.limit_used_bytes, m.limit_bytes)),
    ),
    SignalSpec("memory.own_bytes", "bytes", "resident memory of patchd and its workers", _own_memory),
)

_PRESSURE = (
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
        "pressure.memory.acute",
        SWITCH,
        "1 for 5 s after the kernel told of tasks that lose time to a shortage of memory",
        lambda s: _bool(s.pressure.memory_acute),
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
    SignalSpec(
        "pressure.own.cpu.some",
        "share",
        "the same of tasks in patchd's own cgroup: some waited for a processor",
        _own_stall("cpu", "some_avg10"),
    ),
    SignalSpec(
        "pressure.own.memory.some",
        "share",
        "some task in patchd's own cgroup waited for memory",
        _own_stall("memory", "some_avg10"),
    ),
    SignalSpec(
        "pressure.own.memory.full",
        "share",
        "all tasks in patchd's own cgroup waited for memory",
        _own_stall("memory", "full_avg10"),
    ),
    SignalSpec(
        "pressure.own.io.some",
        "share",
        "some task in patchd's own cgroup waited for input/output",
        _own_stall("io", "some_avg10"),
    ),
    SignalSpec(
        "pressure.own.io.full",
        "share",
        "all tasks in patchd's own cgroup waited for input/output",
        _own_stall("io", "full_avg10"),
    ),
)

_POWER = (
    SignalSpec("power.on_mains", SWITCH, "1 on mains, 0 on battery", lambda s: _bool(s.power.on_mains)),
    SignalSpec("power.watts", "watts", "power that the machine takes, as far as it is told", lambda s: s.power.watts),
    SignalSpec("battery.charge", "share", "charge of all batteries", lambda s: s.power.battery_charge),
    SignalSpec(
        "battery.seconds_left", "seconds", "time until the battery is empty", lambda s: s.power.battery_seconds_left
    ),
    SignalSpec(
        "battery.watts",
        "watts",
        "power that the batteries give, below 0 while they are charged",
        lambda s: s.power.battery_watts,
    ),
    SignalSpec(
        "temperature.max",
        "degrees Celsius",
        "hottest sensor",
        lambda s: max((t.celsius for t in s.temperatures), default=None),
    ),
    SignalSpec(
        "temperature.headroom",
        "degrees Celsius",
        "up to the nearest passive, hot or critical trip point",
        _headroom,
    ),
)

_REST = (
    SignalSpec(
        "disk.free_bytes",
        "bytes",
        "free space of the state directory's file system",
        lambda s: None if s.disk is None else float(s.disk.free_bytes),
    ),
    SignalSpec(
        "disk.free",
        "share",
        "free space of the state directory's file system, of all of it",
        lambda s: None if s.disk is None else _share(s.disk.free_bytes, s.disk.total_bytes),
    ),
    SignalSpec(
        "disk.wear",
        "share",
        "life of the state directory's disk that is used",
        lambda s: None if s.disk is None else s.disk.wear,
    ),
    SignalSpec("user.idle_s", "seconds", "time since a terminal, keyboard or mouse was used", lambda s: s.user.idle_s),
    SignalSpec(
        "user.sessions",
        "sessions",
        "sessions of users that logind knows of, login screens too",
        lambda s: None if s.user.sessions is None else float(s.user.sessions),
    ),
    SignalSpec(
        "user.session_idle",
        SWITCH,
        "1 while all sessions say that they are idle",
        lambda s: _bool(s.user.session_idle),
    ),
    SignalSpec("gpu.busy", "share", "time in which the busiest graphics processor computed", _gpu_busy),
    SignalSpec("gpu.memory_free", "share", "free memory of the graphics processor with least", _gpu_memory_free),
    SignalSpec(
        "gpu.celsius",
        "degrees Celsius",
        "hottest graphics processor",
        lambda s: max((g.celsius for g in s.gpus if g.celsius is not None), default=None),
    ),
    SignalSpec("gpu.watts", "watts", "power of all graphics processors", _gpu_watts),
    SignalSpec(
        "network.metered",
        SWITCH,
        "1 while traffic of the default connection is paid for or limited",
        lambda s: _bool(s.network.metered),
    ),
    SignalSpec(
        "requests.waiting",
        "requests",
        "predictions that wait or are being answered",
        lambda s: None if s.requests is None else float(s.requests.waiting),
    ),
)

SIGNALS: Mapping[str, SignalSpec] = {spec.name: spec for spec in (*_CPU, *_MEMORY, *_PRESSURE, *_POWER, *_REST)}


def signals(snapshot: Snapshot, names: Collection[str] | None = None) -> dict[str, float]:
    """The signals that this snapshot has, of `names` where they are given; absent ones are left out."""
    wanted = SIGNALS if names is None else names
    values = ((name, SIGNALS[name].read(snapshot)) for name in wanted if name in SIGNALS)
    present = {name: value for name, value in values if value is not None}
    added = (reading for reading in snapshot.added if names is None or reading.name in names)
    return present | {reading.name: reading.value for reading in added}


def signal_spec(name: str, snapshot: Snapshot | None = None) -> SignalSpec | None:
    """What a signal is; one that others add has the unit that `snapshot` tells. None where there can be no such."""
    if name in SIGNALS or not is_added(name):
        return SIGNALS.get(name)
    told = next((reading for reading in (snapshot.added if snapshot else ()) if reading.name == name), None)
    unit, meaning = ("", "") if told is None else (told.unit, told.meaning)
    return SignalSpec(name, unit, meaning or whose(name), lambda s: signals(s).get(name))
