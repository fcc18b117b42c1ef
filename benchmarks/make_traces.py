"""Writes the traces that ship with patchd: days of devices that were thought out, not recorded (docs/traces.md).

What happens is drawn with a fixed seed; what the device shows of it follows from `trace_physics`. The program gives the
same files each time, and a test holds the shipped ones against it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from patchd.policies.trace import DaemonWork, TaskWork, TraceMachine
from patchd.policies.trace_writing import TraceWriter, new_header
from trace_physics import GIB, Build, Device, Load

HOUR = 3600.0
SUMMER, WINTER = timezone(timedelta(hours=2)), timezone(timedelta(hours=1))
Moment = tuple[Load, float | None]  # what goes on, and predictions asked for a second


@dataclass(frozen=True)
class Scene:
    """One trace: a device, a stretch of time, and what goes on in it."""

    name: str
    story: str
    start: datetime
    hours: float
    period_s: int
    build: Build
    charge: float | None
    ambient_celsius: float
    task: str | None
    seed: int
    play: Callable[[random.Random], Callable[[float], Moment]]

    def text(self) -> str:
        """The trace file."""
        header = new_header(
            self.name,
            self.story,
            float(self.period_s),
            start=self.start,
            machine=TraceMachine(
                name=self.name, cores=self.build.cores, memory_bytes=round(self.build.memory_gib * GIB)
            ),
            written_by="benchmarks/make_traces.py",
        )
        writer = TraceWriter(header)
        lines = [writer.header_line()]
        device = Device(self.build, self.charge, self.ambient_celsius)
        goes_on = self.play(random.Random(self.seed))
        steps = round(self.hours * HOUR)
        asked: list[float] = []
        for second in range(steps):
            load, rate = goes_on(float(second))
            device.step(load)
            asked.append(rate or 0.0)
            if second % self.period_s == 0:
                line = writer.line(
                    float(second), device.seen(), self._work(asked), last=second + self.period_s >= steps
                )
                asked.clear()
                if line is not None:
                    lines.append(line)
        return "\n".join(lines) + "\n"

    def _work(self, asked: list[float]) -> DaemonWork | None:
        if self.task is None:
            return None
        return DaemonWork(tasks={self.task: TaskWork(per_second=round(math.fsum(asked) / len(asked), 1))})


def swinging(chance: random.Random, low: float, high: float, hold_s: float) -> Callable[[float], float]:
    """A level that is drawn anew every `hold_s` or so."""
    level, until = chance.uniform(low, high), 0.0

    def at(t: float) -> float:
        nonlocal level, until
        if t >= until:
            level, until = chance.uniform(low, high), t + chance.uniform(0.5, 1.5) * hold_s
        return level

    return at


def spells(
    chance: random.Random, hours: float, per_hour: Callable[[float], float], last_s: tuple[float, float]
) -> list[tuple[float, float]]:
    """Starts and ends of what comes by chance, never two at once; `per_hour` is how many by the hour of the scene."""
    found: list[tuple[float, float]] = []
    t, most = 0.0, max(per_hour(hour / 4) for hour in range(round(hours * 4) + 1))
    while True:
        t += chance.expovariate(most / HOUR)
        if t >= hours * HOUR:
            return found
        if chance.random() < per_hour(t / HOUR) / most:
            end = t + chance.uniform(*last_s)
            found.append((t, end))
            t = end


def within(found: list[tuple[float, float]]) -> Callable[[float], tuple[float, float] | None]:
    """Which of the spells, in order of time, holds at a moment; asked with moments that grow."""
    at = 0

    def holds(t: float) -> tuple[float, float] | None:
        nonlocal at
        while at < len(found) and found[at][1] <= t:
            at += 1
        return found[at] if at < len(found) and found[at][0] <= t else None

    return holds


def laptop(chance: random.Random) -> Callable[[float], Moment]:
    """Mains from 8 to 10, a meeting to 11:30, the desk with builds to 14:30, a train."""
    typing, reading = swinging(chance, 0.3, 1.4, 40), swinging(chance, 0.2, 0.6, 90)
    builds = within(spells(chance, 8, lambda hour: 3.0 if 3.5 <= hour < 6.5 else 0.6 if hour < 2 else 0.0, (150, 500)))

    def at(t: float) -> Moment:
        hour, build = t / HOUR, builds(t)
        meeting, train = 2 <= hour < 3.5, hour >= 6.5
        tasks = (reading if meeting else typing)(t) + (0.5 if train else 0.0) + (4.5 if build else 0.0)
        return Load(
            tasks=tasks,
            own=0.05,
            memory_gib=5.2 + (3.1 if build else 0.0) + (0.8 if train else 0.0),
            stalls_io=0.12 if build else 0.0,
            on_mains=not meeting and not train,
            ambient_celsius=25.0 if train else 22.0,
            other_watts=6.0,  # the display
        ), None

    return at


def robot(chance: random.Random) -> Callable[[float], Moment]:
    """Missions of some minutes, each with a drive, a search for the pallet and a drive; a stop at the dock."""
    missions = within(spells(chance, 8, lambda hour: 0.0 if 4 <= hour < 4.7 else 9.0, (200, 420)))
    mapping = swinging(chance, 1.6, 2.6, 20)

    def at(t: float) -> Moment:
        docked = 4 <= t / HOUR < 4.7
        mission = None if docked else missions(t)
        if mission is None:
            return Load(tasks=0.4, own=0.05, memory_gib=3.1, on_mains=docked, ambient_celsius=18, other_watts=4), 0.0
        share = (t - mission[0]) / (mission[1] - mission[0])
        searching = 0.4 <= share < 0.6
        load = Load(
            tasks=mapping(t) + (2.2 if searching else 0.0),
            own=0.9 if searching else 0.4,
            memory_gib=4.4 if searching else 3.8,
            on_mains=False,
            ambient_celsius=18,
            other_watts=15.0 if searching else 62.0,
            waiting=2 if searching else 0,
        )
        return load, 10.0 if searching else 4.0

    return at


def kiosk(chance: random.Random) -> Callable[[float], Moment]:
    """A day with sun on the case from eleven to six; visitors by the hour."""
    many = (0, 0, 0, 0, 0, 1, 6, 14, 18, 14, 12, 16, 20, 18, 14, 14, 18, 24, 22, 14, 8, 5, 2, 1)
    visits = within(spells(chance, 24, lambda hour: many[int(hour) % 24], (35, 130)))
    film = swinging(chance, 0.5, 1.1, 600)
    last = 0.0

    def at(t: float) -> Moment:
        nonlocal last
        hour, visit = t / HOUR, visits(t)
        sun = max(0.0, math.sin(math.pi * (hour - 11) / 7)) if 11 <= hour <= 18 else 0.0
        air = 27.0 + 8.0 * math.sin(math.pi * (hour - 9.5) / 12)
        if visit is not None:
            last = t
        awake = 5.5 <= hour < 23.5
        load = Load(
            tasks=(film(t) if awake else 0.1) + (1.4 if visit else 0.0),
            own=0.5 if visit else 0.02,
            memory_gib=1.9 if visit else 1.5,
            ambient_celsius=air + 16.0 * sun,
            idle_s=t - last,
            waiting=1 if visit else 0,
        )
        return load, 2.0 if visit else 0.0

    return at


def builds(chance: random.Random) -> Callable[[float], Moment]:
    """Commits by the hour, each building for some minutes on all processors, and a long build by night."""
    pushes = spells(chance, 24, lambda hour: 4.0 if 9 <= hour < 18 else 0.6 if 7 <= hour < 22 else 0.05, (120, 640))
    night = (2.0 * HOUR, 3.2 * HOUR)
    found = sorted([spell for spell in pushes if spell[1] < night[0] or spell[0] > night[1]] + [night])
    building = within(found)
    width = swinging(chance, 6.0, 13.0, 45)
    used = 60.0

    def at(t: float) -> Moment:
        nonlocal used
        build = building(t)
        if build is None:
            used = max(60.0, used - 0.02) if 4 <= t / HOUR < 5 else used  # old builds are thrown away by night
            return Load(tasks=0.15, own=0.05, memory_gib=4.0, used_disk_gib=used), 0.2
        share = (t - build[0]) / (build[1] - build[0])
        linking = share > 0.85  # few processes, much memory
        used = min(195.0, used + 0.006)
        load = Load(
            tasks=2.0 if linking else width(t),
            own=0.1,
            memory_gib=29.0 if linking else 14.0 + 6.0 * share,
            stalls_memory=0.2 if linking else 0.0,
            stalls_io=0.25 if share < 0.1 or linking else 0.02,
            used_disk_gib=used,
            waiting=0,
        )
        return load, 0.2

    return at


SCENES = (
    Scene(
        name="laptop-day",
        story="Eight hours of a laptop: on mains until ten, a meeting on battery, builds at the desk, a train ride "
        "that ends nearly empty.",
        start=datetime(2026, 3, 2, 8, 0, tzinfo=WINTER),
        hours=8,
        period_s=30,
        build=Build(4, 16, 5.0, 4.5, 1.9, 40, 92, battery_wh=27.5, charger_watts=45),
        charge=0.95,
        ambient_celsius=22,
        task=None,
        seed=1,
        play=laptop,
    ),
    Scene(
        name="robot-shift",
        story="A robot's early shift in a cold store: missions in which it drives, searches for a pallet and looks ten "
        "times a second, forty minutes at the dock, and a battery that is low at the end.",
        start=datetime(2026, 11, 9, 6, 0, tzinfo=WINTER),
        hours=8,
        period_s=30,
        build=Build(6, 8, 6.0, 2.2, 2.1, 60, 85, battery_wh=175, charger_watts=150),
        charge=0.98,
        ambient_celsius=18,
        task="pallets",
        seed=2,
        play=robot,
    ),
    Scene(
        name="kiosk-summer",
        story="A ticket kiosk on a hot Saturday: visitors by the hour, films in between, and sun on its case from "
        "eleven to six, in which the processor gets too hot.",
        start=datetime(2026, 7, 18, 0, 0, tzinfo=SUMMER),
        hours=24,
        period_s=60,
        build=Build(4, 4, 2.8, 1.7, 6.6, 240, 84),
        charge=None,
        ambient_celsius=24,
        task="tickets",
        seed=3,
        play=kiosk,
    ),
    Scene(
        name="ci-bursts",
        story="A day of a build server: pushes by the hour, each on all processors for some minutes and short of "
        "memory while it links, and a long build by night.",
        start=datetime(2026, 9, 15, 0, 0, tzinfo=SUMMER),
        hours=24,
        period_s=30,
        build=Build(8, 32, 25.0, 9.0, 0.45, 30, 95, disk_gib=200),
        charge=None,
        ambient_celsius=21,
        task="diagrams",
        seed=4,
        play=builds,
    ),
)


def main() -> None:
    """Write the traces."""
    folder = Path(__file__).parents[1] / "policies" / "traces"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, default=folder, metavar="DIR", help=f"[default: {folder}]")
    into = parser.parse_args().into
    for scene in SCENES:
        text = scene.text()
        (into / f"{scene.name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{scene.name}: {len(text.encode())} bytes, {text.count(chr(10)) - 1} moments")


if __name__ == "__main__":
    main()
