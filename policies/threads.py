"""How many threads a worker's next piece of work is spread over."""

from __future__ import annotations

import math
from collections.abc import Collection

from .snapshot import Snapshot

SLACK_CORES = 0.25  # short bursts of others, and the coarse clock ticks that processor time is counted in


def free_threads(snapshot: Snapshot | None, most: int, own: Collection[str]) -> int:
    """Threads, from 1 to `most`, that find a processor of their own beside what others use.

    `own` names the daemon's processes whose use the new threads take the place of. The threads of one operator wait
    for each other: one that shares its processor with another program holds up all of them, so that fewer threads are
    faster (docs/benchmarks.md, "Threads beside other work").
    """
    if snapshot is None or snapshot.cpu.busy is None:
        return most
    used = sum(worker.cpu_cores or 0.0 for worker in snapshot.workers if worker.name in own)
    free = snapshot.cpu.cores * (1.0 - snapshot.cpu.busy) + used
    return max(1, min(most, math.floor(free + SLACK_CORES)))


def usable_threads(cores: float) -> int:
    """Usable cores rounded down, at least one: threads beyond a cgroup quota slow everything (ollama#17916)."""
    return max(1, int(cores))
