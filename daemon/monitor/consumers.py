"""The programs that use most of the processors, patchd's own aside; told apart by name.

Looking at every process takes milliseconds, so it is done when somebody asks or something keeps the processors busy.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path

from ...policies.snapshot import Consumer
from .files import subdirectories
from .processes import read_times

EVERY_S = 15.0  # while something is busy
MOST = 3
BETWEEN_S = 1.0  # between the two looks that one question takes
LEAST_CORES = 0.005  # whoever uses less is not worth a name


class ConsumerReader:
    """Remembers the processor time of each process at the last look."""

    def __init__(self, proc_root: Path) -> None:
        self._proc = proc_root
        self._seen: dict[tuple[int, float], float] = {}
        self._looked_s: float | None = None

    def look(self, own: Collection[int]) -> tuple[Consumer, ...]:
        """The busiest since the last look; nobody at the first. `own` are left out, with their children."""
        now_s = time.monotonic()
        elapsed = None if self._looked_s is None else now_s - self._looked_s
        before, self._seen, self._looked_s = self._seen, {}, now_s
        used: dict[str, float] = {}
        counts: dict[str, int] = {}
        for directory in subdirectories(self._proc):
            if not (directory.name.isascii() and directory.name.isdecimal()):
                continue
            pid, times = int(directory.name), read_times(directory)
            if times is None:
                continue
            self._seen[pid, times.started] = times.cpu_s
            if elapsed is None or pid in own or times.parent in own:
                continue
            # One that has begun since has used all its time since.
            passed = times.cpu_s - before.get((pid, times.started), 0.0)
            used[times.name] = used.get(times.name, 0.0) + max(0.0, passed)
            counts[times.name] = counts.get(times.name, 0) + 1
        if not elapsed:
            return ()
        told = (
            Consumer(name=name, cpu_cores=seconds / elapsed, processes=counts[name]) for name, seconds in used.items()
        )
        busiest = sorted(told, key=lambda each: each.cpu_cores, reverse=True)[:MOST]
        return tuple(each for each in busiest if each.cpu_cores >= LEAST_CORES)

    def ask(self, own: Collection[int]) -> tuple[Consumer, ...]:
        """The busiest of the next second. Sleeps: not for the event loop."""
        self.look(own)
        time.sleep(BETWEEN_S)
        return self.look(own)
