"""A simulated device: heat, battery, load averages and stalls as they follow from what its programs do.

Each quantity moves as a first-order lag, which is what a heat sink, the kernel's load average (an exponential mean over
a minute) and its pressure stall information (over ten seconds and a minute) do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from patchd.policies.snapshot import Cpu, Disk, Memory, Power, Pressure, Requests, Sensor, Snapshot, Stall, User

GIB = 1 << 30
TAPER_FROM = 0.8  # a lithium battery is charged ever more slowly above this share


@dataclass(frozen=True)
class Build:
    """What a device is built of."""

    cores: int
    memory_gib: float
    idle_watts: float
    core_watts: float  # of a busy processor, beyond idling
    kelvin_per_watt: float  # how much warmer the processor gets than its surroundings
    heat_s: float  # time constant of the heat sink
    trip_celsius: float  # from here the kernel slows the processors down
    battery_wh: float = 0.0
    charger_watts: float = 0.0
    disk_gib: float = 0.0


@dataclass
class Load:
    """What programs do in a moment."""

    tasks: float = 0.0  # that want a processor, other than patchd's
    own: float = 0.0  # the same of patchd
    memory_gib: float = 1.0
    stalls_memory: float = 0.0  # share of the time that some task waits for memory
    stalls_io: float = 0.0
    on_mains: bool = True
    ambient_celsius: float = 22.0
    other_watts: float = 0.0  # that the battery feeds beside the computer: motors, lamps
    used_disk_gib: float = 0.0
    idle_s: float | None = None
    waiting: int | None = None


class Device:
    """Moves a device on, second by second."""

    def __init__(self, build: Build, charge: float | None, ambient_celsius: float) -> None:
        self._build = build
        self._charge = charge
        self._celsius = ambient_celsius + build.kelvin_per_watt * build.idle_watts
        self._load = Load()
        self._load1 = 0.2
        self._slowed, self._busy, self._watts, self._drawn = 1.0, 0.0, build.idle_watts, 0.0
        self._stalls = dict.fromkeys([(name, span_s) for name in ("cpu", "memory", "io") for span_s in (10, 60)], 0.0)

    def step(self, load: Load, dt_s: float = 1.0) -> None:
        """Go on for `dt_s` seconds under a load."""
        build, self._load = self._build, load
        wanted = load.tasks + load.own
        self._slowed = min(1.0, max(0.4, 1.0 - (self._celsius - build.trip_celsius) / 15.0))
        self._busy = min(1.0, wanted / build.cores / self._slowed)
        self._watts = build.idle_watts + build.core_watts * self._busy * build.cores * self._slowed
        settled = load.ambient_celsius + build.kelvin_per_watt * self._watts
        self._celsius += (settled - self._celsius) * _moved(dt_s, build.heat_s)
        self._load1 += (wanted - self._load1) * _moved(dt_s, 60.0)
        crowded = max(0.0, min(1.0, (wanted / self._slowed - build.cores) / build.cores))
        for (name, span_s), mean in self._stalls.items():
            waited = crowded if name == "cpu" else load.stalls_memory if name == "memory" else load.stalls_io
            self._stalls[name, span_s] = mean + (waited - mean) * _moved(dt_s, span_s)
        if self._charge is not None:
            taper = min(1.0, (1.0 - self._charge) / (1.0 - TAPER_FROM))
            self._drawn = -build.charger_watts * taper if load.on_mains else self._watts + load.other_watts
            self._charge = min(1.0, max(0.0, self._charge - self._drawn * dt_s / 3600 / build.battery_wh))

    def seen(self) -> Snapshot:
        """What the monitor sees now."""
        build, load = self._build, self._load
        wanted = load.tasks + load.own
        total = round(build.memory_gib * GIB)
        return Snapshot(
            time_s=0.0,
            cpu=Cpu(
                count=build.cores,
                busy=round(self._busy, 2),
                busy_own=round(self._busy * load.own / wanted, 2) if wanted else 0.0,
                load1=round(self._load1, 1),
                frequency=round(self._slowed, 2),
                throttled=self._slowed < 1.0,
            ),
            memory=Memory(total_bytes=total, available_bytes=max(0, total - round(load.memory_gib * 10) * GIB // 10)),
            pressure=Pressure(**{name: self._stall(name) for name in ("cpu", "memory", "io")}),
            power=self._power(),
            temperatures=(Sensor(name="soc", celsius=round(self._celsius), passive_celsius=build.trip_celsius),),
            disk=self._disk(),
            user=User(idle_s=None if load.idle_s is None else round(load.idle_s, -2)),
            requests=None if load.waiting is None else Requests(waiting=load.waiting),
        )

    def _stall(self, name: str) -> Stall:
        short, long = (round(self._stalls[name, span_s], 2) for span_s in (10, 60))
        return Stall(some_avg10=short, some_avg60=long)

    def _power(self) -> Power:
        watts = round(self._watts, 1)
        if self._charge is None:
            return Power(on_mains=True, watts=watts, watts_of="input")
        left_s = None if self._load.on_mains else self._charge * self._build.battery_wh / self._drawn * 3600
        return Power(
            on_mains=self._load.on_mains,
            battery_charge=round(self._charge, 3),
            battery_watts=round(self._drawn),
            battery_seconds_left=None if left_s is None else round(left_s / 600) * 600,
            watts=watts,
            watts_of="input",
        )

    def _disk(self) -> Disk | None:
        if not self._build.disk_gib:
            return None
        free = int(max(0.0, self._build.disk_gib - self._load.used_disk_gib))
        return Disk(total_bytes=round(self._build.disk_gib * GIB), free_bytes=free * GIB)


@cache
def _moved(dt_s: float, span_s: float) -> float:
    """How much of the way to where it settles a first-order lag goes in `dt_s`."""
    return 1 - math.exp(-dt_s / span_s)
