"""Random policies, ladders and traces for a search: plain data, so that a case can be made smaller and printed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patchd.policies.decision import Ladder, Rung
from patchd.policies.snapshot import Cpu, Disk, Memory, Power, Pressure, Sensor, Snapshot, Stall, User

GB = 1e9
# Signals that a trace can set, each with the range in which thresholds and values lie; None is a switch.
RANGES: dict[str, tuple[float, float] | None] = {
    "cpu.busy_other": (0.0, 1.0),
    "pressure.cpu.some": (0.0, 1.0),
    "pressure.memory.some": (0.0, 1.0),
    "memory.available": (0.0, 1.0),
    "battery.charge": (0.0, 1.0),
    "power.on_mains": None,
    "temperature.max": (20.0, 110.0),
    "disk.free_bytes": (0.0, 4 * GB),
    "user.idle_s": (0.0, 600.0),
}
Values = dict[str, float]  # by signal; one that is left out is absent
# Noise of constant mean: the value, from -1 to 1, at a sample; `length` is that of a burst or a period, in samples.
NOISE: dict[str, Callable[[random.Random, int, int], float]] = {
    "independent": lambda chance, _index, _length: chance.uniform(-1, 1),
    "alternating": lambda _chance, index, length: 1.0 if index // length % 2 else -1.0,
    "bursts": lambda chance, _index, length: 1.0 if chance.random() < 1 / (1 + length) else -1 / length,
    "sawtooth": lambda _chance, index, length: 2 * (index % (length + 1)) / length - 1,
    "spikes": lambda _chance, index, length: 1.0 if index % (2 * length) == 0 else -1 / (2 * length),
}


@dataclass(frozen=True)
class Case:
    """One policy on one ladder over one trace, all of it as plain data."""

    policy: Mapping[str, Any]
    rungs: tuple[Mapping[str, Any], ...]
    samples: tuple[tuple[float, Values, float | None], ...]  # seconds, signals, slowness of predictions
    memory_bytes: int | None

    @property
    def toml(self) -> str:
        """The policy file."""
        return "\n".join(_lines(self.policy)) + "\n"

    @property
    def ladder(self) -> Ladder:
        """The rungs as the decision takes them."""
        return Ladder(task="t", rungs=tuple(Rung(**rung) for rung in self.rungs))

    def snapshots(self) -> list[tuple[Snapshot, Values, float | None]]:
        """The trace as the decision takes it, with the plain values."""
        return [(_snapshot(seconds, values), values, slow) for seconds, values, slow in self.samples]


def _lines(policy: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, table in policy.items():
        for entry in table if isinstance(table, list) else [table]:
            lines.append(f"[[{name}]]" if isinstance(table, list) else f"[{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in entry.items()]
    return lines


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def _snapshot(seconds: float, values: Values) -> Snapshot:
    def stall(name: str) -> Stall | None:
        return Stall(some_avg10=values[name], some_avg60=0.0) if name in values else None

    total = 8 * int(GB)
    free, hot, mains = values.get("disk.free_bytes"), values.get("temperature.max"), values.get("power.on_mains")
    available = values.get("memory.available")
    return Snapshot(
        time_s=1e6 + seconds,
        cpu=Cpu(count=4, busy=values.get("cpu.busy_other"), busy_own=0.0),
        memory=None if available is None else Memory(total_bytes=total, available_bytes=round(available * total)),
        pressure=Pressure(cpu=stall("pressure.cpu.some"), memory=stall("pressure.memory.some")),
        power=Power(on_mains=None if mains is None else mains >= 0.5, battery_charge=values.get("battery.charge")),
        temperatures=() if hot is None else (Sensor(name="s", celsius=hot),),
        disk=None if free is None else Disk(total_bytes=int(10 * GB), free_bytes=int(free)),
        user=User(idle_s=values.get("user.idle_s")),
    )


def random_case(chance: random.Random, samples: int) -> Case:
    """A case of up to `samples` samples."""
    present = [name for name in RANGES if chance.random() < 0.8]
    return Case(_policy(chance), _rungs(chance), _trace(chance, present, samples), _memory(chance))


def _memory(chance: random.Random) -> int | None:
    return chance.choice((None, 0, round(chance.uniform(1e7, 2e9))))


def _tenth(chance: random.Random) -> float:
    return chance.randint(0, 10) / 10


def _policy(chance: random.Random) -> dict[str, Any]:
    inference: dict[str, Any] = {
        "allocation": chance.choice((1.0, 1.0, 0.7, _tenth(chance))),
        "raise_after_s": chance.choice((0.0, 0.5, 3.0, 10.0, 20.0)),
        "rise_per_s": chance.choice((0.01, 0.05, 0.2, 1.0)),
        "feedback": chance.random() < 0.5,
    }
    if chance.random() < 0.3:
        inference["max_resolution"] = chance.choice((64, 128, 192, 256))
    if chance.random() < 0.2:
        inference["min_resolution"] = chance.choice((32, 48, 64))
    training: dict[str, Any] = {
        "allocation": _tenth(chance),
        "max_fraction": chance.choice((0.0, 0.0, 0.3, 1.0)),
        "raise_after_s": chance.choice((0.0, 10.0)),
        "order": chance.choice(("auto", "patch_first", "downwards", "sparse")),
    }
    if chance.random() < 0.2:
        training["only_on_mains"] = True
    if chance.random() < 0.2:
        training["idle_for_s"] = 120.0
    if chance.random() < 0.2:
        training["max_celsius"] = 80.0
    rules = [_rule(chance, f"r{index}") for index in range(chance.randint(0, 6))]
    made: dict[str, Any] = {"policy": {"name": "random"}, "inference": inference, "training": training, "rule": rules}
    if chance.random() < 0.3:
        made["task.t"] = {"inference": _tenth(chance), "max_resolution": chance.choice((64, 128, 288))}
    return made


def _rule(chance: random.Random, name: str) -> dict[str, Any]:
    rule: dict[str, Any] = {"name": name, "when": [_condition(chance) for _ in range(chance.choice((1, 1, 1, 2, 3)))]}
    if chance.random() < 0.8:
        rule["inference"] = _level(chance)
    if "inference" not in rule or chance.random() < 0.6:
        rule["training"] = False if chance.random() < 0.15 else _level(chance)
    if chance.random() < 0.15:
        rule["max_resolution"] = chance.choice((64, 96, 160, 224))
    if chance.random() < 0.1:
        rule["memory_bytes"] = round(chance.uniform(0, 1e9))
    if chance.random() < 0.1:
        rule["cascade"] = {"enabled": False}
    return rule


def _level(chance: random.Random) -> Any:
    """An allocation, fixed or as a curve over a signal."""
    if chance.random() < 0.8:
        return _tenth(chance)
    signal = chance.choice([name for name, bounds in RANGES.items() if bounds is not None])
    low, high = RANGES[signal] or (0.0, 1.0)
    places = sorted(chance.sample(range(11), chance.randint(2, 4)))
    return {"over": signal, "points": [[low + (high - low) * place / 10, _tenth(chance)] for place in places]}


def _condition(chance: random.Random) -> dict[str, Any]:
    signal = chance.choice((*["cpu.busy_other"] * 8, *RANGES))  # rules on one signal meet more often
    made: dict[str, Any] = {"signal": signal}
    bounds = RANGES[signal]
    if bounds is None:
        made["is"] = chance.random() < 0.5
    else:
        low, high = bounds
        enter = low + (high - low) * _tenth(chance)
        band = (high - low) * chance.choice((0.0, 0.0, 0.05, 0.2))
        if chance.random() < 0.5:
            made |= {"above": enter, "leave_below": max(low, enter - band)}
        else:
            made |= {"below": enter, "leave_above": min(high, enter + band)}
    for key in ("for_s", "leave_for_s"):
        if chance.random() < 0.3:
            made[key] = chance.choice((0.5, 1.0, 3.0, 10.0))
    return made


def _rungs(chance: random.Random) -> tuple[dict[str, Any], ...]:
    sides = sorted(chance.sample(range(32, 289, 32), chance.choice((1, 3, 4, 5, 6))))
    priced, scored = chance.random(), chance.random() < 0.5
    rungs = []
    for side in sides:
        rung: dict[str, Any] = {"resolution": side}
        if chance.random() < priced:
            usual = 2e-4 * side**2
            rung["cost_ms"] = round(usual * chance.uniform(0.7, 1.4), 3)
        if scored:
            rung["accuracy"] = round(min(1.0, 0.5 + side / 600 + chance.uniform(-0.1, 0.1)), 3)
        rungs.append(rung)
    return tuple(rungs)


def _trace(
    chance: random.Random, present: Sequence[str], samples: int
) -> tuple[tuple[float, Values, float | None], ...]:
    gap = chance.choice((0.5, 1.0, 1.0, 1.0, None))  # None: whenever the daemon happens to look
    shapes = {name: _shape(chance, RANGES[name]) for name in present}
    slow = _shape(chance, (0.5, 6.0))
    seconds, made = 0.0, []
    for index in range(samples):
        values = {name: shape(index) for name, shape in shapes.items() if chance.random() < 0.995}
        made.append((round(seconds, 3), values, slow(index) if chance.random() < 0.7 else None))
        seconds += chance.uniform(0.1, 5.0) if gap is None else gap
    return tuple(made)


def _shape(chance: random.Random, bounds: tuple[float, float] | None) -> Callable[[int], float]:
    """What a signal does over the trace: noise around one mean, steps, or a mean that walks."""
    low, high = bounds or (0.0, 1.0)
    mean, width = chance.uniform(low, high), (high - low) * chance.choice((0.0, 0.05, 0.3, 0.6, 1.0))
    kind, length = chance.choice((*NOISE, "steps", "walk")), chance.randint(1, 30)
    levels = [chance.uniform(low, high) for _ in range(8)]
    walked = [mean]

    def at(index: int) -> float:
        if kind == "steps":
            value = levels[index // (2 * length) % len(levels)]
        elif kind == "walk":
            walked.append(walked[-1] + width * chance.uniform(-0.2, 0.2))
            value = walked[-1]
        else:
            value = mean + width * NOISE[kind](chance, index, length)
        value = min(high, max(low, value))
        return float(value >= 0.5) if bounds is None else value

    return at
