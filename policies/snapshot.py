"""What the monitor saw at one moment, as records. The named signals in it are those of `signals.py`.

Absent is `None`, never zero: a machine without a battery has `power.battery_charge is None`, and the signal
`battery.charge` does not exist for it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Base of every record that crosses a boundary: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Cpu(Frozen):
    """Processor use. Fractions are of the processors this daemon may use (affinity, then the cgroup quota)."""

    count: int = Field(ge=1, description="processors in the affinity mask of the daemon")
    limit_cores: float | None = Field(None, description="cgroup quota in cores; None without a quota")
    busy: float | None = Field(None, ge=0, le=1, description="share in use by everything, 0 to 1")
    busy_own: float | None = Field(None, ge=0, le=1, description="share in use by patchd and its workers, 0 to 1")
    load1: float | None = Field(None, ge=0, description="load average over one minute, in tasks")
    load5: float | None = Field(None, ge=0, description="load average over five minutes, in tasks")
    load15: float | None = Field(None, ge=0, description="load average over fifteen minutes, in tasks")
    steal: float | None = Field(None, ge=0, le=1, description="share that a hypervisor gave to other machines, 0 to 1")
    runnable: int | None = Field(None, ge=0, description="tasks that run or wait for a processor, this one aside")
    frequency: float | None = Field(None, ge=0, le=1, description="clock, of the highest there is, 0 to 1")
    frequency_limit: float | None = Field(
        None, ge=0, le=1, description="highest clock allowed, of the highest there is"
    )
    throttled: bool | None = Field(None, description="whether heat or want of power slows the processors")

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
    limit_bytes: int | None = Field(None, gt=0, description="of the control group with least room; None without one")
    limit_used_bytes: int | None = Field(None, ge=0, description="what counts against it, reclaimable cache aside")


class Stall(Frozen):
    """One resource's pressure stall information, as shares of wall time from 0 to 1 (kernel: PSI, in percent)."""

    some_avg10: float = Field(ge=0, le=1)
    some_avg60: float = Field(ge=0, le=1)
    full_avg10: float | None = Field(None, ge=0, le=1)
    full_avg60: float | None = Field(None, ge=0, le=1)


class Stalls(Frozen):
    """Pressure stall information of processor, memory and input/output."""

    cpu: Stall | None = None
    memory: Stall | None = None
    io: Stall | None = None


class Pressure(Stalls):
    """Pressure on the whole machine, and on the control group that this daemon runs in."""

    own: Stalls | None = None
    memory_acute: bool | None = Field(
        None, description="whether a trigger told in the last seconds that tasks lose time to a shortage of memory"
    )


class Power(Frozen):
    """Power supply. A machine without a battery and without a mains adapter to read has all three absent."""

    on_mains: bool | None = None
    battery_charge: float | None = Field(None, ge=0, le=1, description="charge of all batteries together, 0 to 1")
    battery_seconds_left: float | None = Field(None, ge=0, description="until empty, while discharging")
    battery_watts: float | None = Field(None, description="what the batteries give; below 0 while they are charged")
    watts: float | None = Field(None, ge=0, description="what the machine takes, as far as `watts_of` covers it")
    watts_of: Literal["rapl", "input", "battery"] | None = Field(
        None, description="rapl: processors and memory; input: a sensor at the board's supply; battery: all it feeds"
    )


class Sensor(Frozen):
    """One temperature sensor."""

    name: str
    celsius: float
    passive_celsius: float | None = Field(None, description="the kernel slows the machine down from here")
    hot_celsius: float | None = Field(None, description="the kernel warns from here")
    critical_celsius: float | None = Field(None, description="the machine is switched off from here")

    @property
    def headroom(self) -> float | None:
        """Degrees up to the nearest of the three; below 0 above it. None where the sensor has none."""
        limits = (self.passive_celsius, self.hot_celsius, self.critical_celsius)
        return min((limit - self.celsius for limit in limits if limit is not None), default=None)


class User(Frozen):
    """Whoever sits at the device, as far as it tells."""

    idle_s: float | None = Field(None, ge=0, description="seconds since a terminal, keyboard or mouse was used")
    sessions: int | None = Field(None, ge=0, description="sessions that logind knows of")
    session_idle: bool | None = Field(None, description="whether they all say that they are idle")


class Disk(Frozen):
    """The file system that holds the state directory."""

    total_bytes: int = Field(gt=0)
    free_bytes: int = Field(ge=0)
    wear: float | None = Field(None, ge=0, le=1, description="share of the disk's life that is used, 0 to 1")


class Gpu(Frozen):
    """One graphics processor."""

    name: str
    busy: float | None = Field(None, ge=0, le=1, description="share of time in which it computed, 0 to 1")
    memory_total_bytes: int | None = Field(None, ge=0)
    memory_free_bytes: int | None = Field(None, ge=0)
    celsius: float | None = None
    watts: float | None = Field(None, ge=0)


class Network(Frozen):
    """The connection by default, as far as somebody tells."""

    metered: bool | None = Field(None, description="whether traffic is paid for or limited")


class Requests(Frozen):
    """What applications ask of this daemon."""

    waiting: int = Field(ge=0, description="predictions that wait or are being answered")


class Consumer(Frozen):
    """What other programs of one name take of the processors."""

    name: str
    cpu_cores: float = Field(ge=0, description="processor use of all of them, in cores")
    processes: int = Field(ge=1)


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
    gpus: tuple[Gpu, ...] = ()
    network: Network = Network()
    requests: Requests | None = None
    consumers: tuple[Consumer, ...] = Field((), description="the busiest other programs, while they are busy")
    workers: tuple[WorkerUse, ...] = ()
    added: tuple[AddedReading, ...] = Field((), description="what applications post and plug-ins give")
    read_s: dict[str, float] = Field(
        default_factory=dict,
        description="Unix time of the reading, by a signal's name or its first word, where that was not time_s",
    )
    traced: tuple[str, ...] = Field((), description="the sections that a trace gave while one is replayed")
