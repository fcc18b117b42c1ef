"""What the screen remembers of the last looks: values of signals, and what was served between them."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ....policies.signals import signals
from ...history_latency import quantile

if TYPE_CHECKING:
    from ...api.schemas import Status, TaskServing

EVERY_S = 0.7  # values are kept no more often, so that the columns of a line are equally long
KEPT = 240  # looks; at one a second, more than the widest terminal shows
LATELY_S = 10.0  # rates and quantiles are of so long


@dataclass(frozen=True)
class Lately:
    """What a task answered in the last seconds."""

    rate: float  # answers per second
    p50_ms: float | None
    p95_ms: float | None
    stages: tuple[tuple[str, float], ...]  # of its cascade: name, share of the answers; lately, else since it was made
    refused: int


@dataclass
class Recent:
    """A short memory; a daemon that was started anew begins a new one."""

    signals: dict[str, deque[float | None]] = field(default_factory=dict)
    allocations: dict[str, deque[float | None]] = field(default_factory=dict)
    _looks: deque[tuple[float, Mapping[str, TaskServing]]] = field(default_factory=deque)
    _daemon: tuple[int, float] | None = None
    _kept_s: float = -math.inf

    def see(self, state: Status) -> None:
        """Take in one look."""
        if self._daemon != (state.pid, state.started_s):
            self._daemon = (state.pid, state.started_s)
            self._looks.clear()
            self._kept_s = -math.inf
        self._looks.append((state.now_s, {each.task: each for each in state.serving}))
        while len(self._looks) > 2 and self._looks[1][0] <= state.now_s - LATELY_S:
            self._looks.popleft()
        if state.now_s - self._kept_s < EVERY_S:
            return  # an event has brought this look forward
        self._kept_s = state.now_s
        if state.snapshot is not None:
            _append(self.signals, signals(state.snapshot))
        if state.decision is not None:
            _append(
                self.allocations,
                {"inference": state.decision.inference.value, "training": state.decision.training.value},
            )

    def miss(self) -> None:
        """A look at a daemon that did not answer: a blank in every line."""
        _append(self.signals, {})
        _append(self.allocations, {})

    def lately(self, task: str) -> Lately:
        """What a task answered in the last seconds."""
        if not self._looks:
            return Lately(0.0, None, None, (), 0)
        first_s, then = self._looks[0]
        last_s, now = self._looks[-1]
        if task not in now:
            return Lately(0.0, None, None, (), 0)
        before = then.get(task)
        times = Counter(now[task].times)
        refused = sum(now[task].refused.values())
        if before is not None:
            times.subtract(before.times)
            refused -= sum(before.refused.values())
        times = +times
        seconds = last_s - first_s
        return Lately(
            rate=times.total() / seconds if seconds > 0 else 0.0,
            p50_ms=quantile(times, 0.5, now[task].most_ms),
            p95_ms=quantile(times, 0.95, now[task].most_ms),
            stages=_shares(now[task], before),
            refused=max(0, refused),
        )


def _shares(now: TaskServing, before: TaskServing | None) -> tuple[tuple[str, float], ...]:
    counts = {each.stage: each.answers for each in now.stages}
    if before is not None:
        more = {each.stage: counts.get(each.stage, 0) - each.answers for each in before.stages}
        if more.keys() == counts.keys() and all(count >= 0 for count in more.values()) and any(more.values()):
            counts = more
    whole = sum(counts.values())
    return tuple((stage, count / whole) for stage, count in counts.items()) if whole else ()


def _append(kept: dict[str, deque[float | None]], seen: Mapping[str, float]) -> None:
    length = max(map(len, kept.values()), default=0)
    for name in seen:
        if name not in kept:
            kept[name] = deque([None] * length, maxlen=KEPT)
    for name, values in kept.items():
        values.append(seen.get(name))
