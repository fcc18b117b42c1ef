"""A device's life made up for tests of the history: samples and decisions as the daemon's loop hands them on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchd.daemon.api.history_schemas import TrainingSlice
from patchd.daemon.api.schemas import Event, StageCount
from patchd.daemon.history import HistoryRecorder
from patchd.daemon.history_store import HistoryStore
from patchd.daemon.served import ServedCounts
from patchd.daemon.store import Store
from patchd.policies.decision import (
    AllocationDecision,
    Decision,
    Reason,
    ReasonKind,
    RungDecision,
    TrainingDecision,
    TrainingPlan,
)
from patchd.policies.snapshot import Cpu, Memory, Power, Pressure, Sensor, Snapshot, Stall
from patchd.policies.training_times import Bar, Hindrance, TrainingTimes

GIB = 1 << 30


def snapshot(at_s: float, busy: float = 0.2, charge: float | None = None, celsius: float | None = None) -> Snapshot:
    """What the monitor would see of a machine with two cores."""
    return Snapshot(
        time_s=at_s,
        cpu=Cpu(count=2, busy=busy, busy_own=busy / 4, load1=2 * busy),
        memory=Memory(total_bytes=8 * GIB, available_bytes=int(8 * GIB * (1 - 0.6 * busy))),
        pressure=Pressure(cpu=Stall(some_avg10=busy**3, some_avg60=busy**3)),
        power=Power() if charge is None else Power(on_mains=charge >= 1, battery_charge=charge),
        temperatures=() if celsius is None else (Sensor(name="package", celsius=celsius),),
    )


def decision(
    at_s: float,
    inference: float = 1.0,
    training: float = 0.5,
    *,
    target: float | None = None,
    rule: str | None = None,
    pixels: dict[str, int] | None = None,
    policy: str = "balanced",
    bar: Bar | None = None,
) -> Decision:
    """What the decision loop would decide; `rule` holds inference down."""
    reasons = () if rule is None else (Reason(kind=ReasonKind.RULE, rule=rule, text=f"{rule} matches"),)
    return Decision(
        id=f"d-{at_s:.0f}",
        time_s=at_s,
        policy=policy,
        source="device",
        inference=AllocationDecision(value=inference, target=inference if target is None else target, reasons=reasons),
        training=AllocationDecision(value=training, target=training, reasons=()),
        rungs=tuple(
            RungDecision(task=task, resolution=side, patch_id=None, budget_ms=5.0, candidates=(), text="")
            for task, side in (pixels or {}).items()
        ),
        plan=TrainingDecision(plan=TrainingPlan(paused=training == 0), candidates=(), text=""),
        times=TrainingTimes(hindrances=() if bar is None else (Hindrance(key=bar, text="not now"),)),
    )


class Device:
    """A recorder over a real state, on a clock that tests move: `now_s` is Unix time, `wake_s` the monotonic clock."""

    def __init__(self, store: Store, now_s: float) -> None:
        self.store, self.now_s, self.wake_s = store, now_s, 1000.0
        self.served = ServedCounts()
        self.counts: dict[str, list[tuple[str, StageCount]]] = {}
        self.recorder = HistoryRecorder(HistoryStore(store), self.served.take, lambda: self.counts, lambda: self.wake_s)

    def wait(self, seconds: float) -> None:
        self.now_s, self.wake_s = self.now_s + seconds, self.wake_s + seconds

    def see(self, decided: Decision | None = None, **seen: float) -> None:
        self.recorder.sample(snapshot(self.now_s, **seen), decided or decision(self.now_s))


@contextmanager
def device(state: Path, now_s: float) -> Iterator[Device]:
    """A device whose history goes into a state directory; its disk does not wait."""
    store = Store(state)
    store.database.execute("PRAGMA synchronous=OFF")
    made = Device(store, now_s)
    yield made
    store.close()


def live(made: Device, hours: float, *, tasks: tuple[str, ...] = ("imagenet", "digits"), every_s: float = 20.0) -> None:
    """Some hours with everything in them: load, a falling battery, heat, requests, a cascade, training, a gap."""
    rungs = (224, 192, 160, 128, 96)
    stages = {task: [0, 0, 0] for task in tasks[:1]}
    began_s, last_level = made.now_s, -1
    end_s = began_s + hours * 3600
    number = made.store.last_event_id()
    while made.now_s < end_s:
        phase = (made.now_s - began_s) / (hours * 3600)
        if 0.60 < phase < 0.63:  # nobody was there
            made.recorder.close()
            made.wait(0.035 * hours * 3600)
            continue
        busy = min(1.0, max(0.02, 0.35 + 0.3 * math.sin(19 * phase) + 0.3 * math.sin(157 * phase)))
        charge = 1.0 if phase < 0.15 else max(0.05, 1.15 - phase)
        level = 0 if charge > 0.8 and busy < 0.7 else 1 if charge > 0.5 and busy < 0.85 else 2 + (charge < 0.3)
        values = (1.0, 0.7, 0.4, 0.15)
        rule = (None, "busy", "low-battery", "almost-empty")[level]
        decided = decision(
            made.now_s,
            values[level],
            (0.5, 0.3, 0.0, 0.0)[level],
            rule=rule,
            pixels={task: rungs[min(4, level + place)] for place, task in enumerate(tasks)},
            bar=Bar.ONLY_ON_MAINS if level == 3 else None,
        )
        made.recorder.sample(snapshot(made.now_s, busy, charge, 45 + 30 * busy), decided)
        if level != last_level:
            number += 1
            made.store.put_event(
                Event(
                    id=number,
                    time_s=made.now_s,
                    level=("info", "info", "warning", "error")[level],
                    kind="decision.changed",
                    message=f"inference allocation is {values[level]:g} now: {rule or 'no rule restricts it'}",
                    data={},
                )
            )
            last_level = level
        for place, task in enumerate(tasks):
            for request in range(int(6 * busy) // (place + 1)):
                made.served.answered(task, (4 + 9 * busy**2) * (1 + 0.2 * place) * (1 + 0.05 * request))
            if busy > 0.9:
                made.served.refused(task, "busy")
        for task, counts in stages.items():
            for stage, share in enumerate((5, 2, 1)):
                counts[stage] += share
            made.counts[task] = [
                (f"{stage + 1} lite0 at {side} px", StageCount(answers=counts[stage]))
                for stage, side in enumerate((96, 160, 224))
            ]
        if level < 2 and int(made.now_s - began_s) % 1200 < 700:
            plan = ("head only, base frozen", "patch everywhere, base frozen")[level == 0]
            made.recorder.keep(
                TrainingSlice(
                    start_s=made.now_s - every_s,
                    end_s=made.now_s,
                    job=f"job-{int(phase * 3)}",
                    task=tasks[-1],
                    resolution=rungs[int(phase * 15) % 5],
                    plan=plan,
                    cost=(0.12, 0.49)[level == 0],
                    measured_cost=(0.13, 0.52)[level == 0],
                    cpu_seconds=0.9 * every_s,
                    steps=60,
                    samples=1920,
                )
            )
        made.wait(every_s)
    made.recorder.close()
