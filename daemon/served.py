"""What was answered for each task: since the start for `/metrics` and the status, and since the history last asked."""

from __future__ import annotations

from dataclasses import dataclass, field

from .history_latency import Classes, class_of


@dataclass(slots=True)
class Served:
    """Requests of one task in some time: how long the answered ones took, and why the others were refused."""

    classes: Classes = field(default_factory=dict)
    most_ms: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)  # by the error's code


class ServedCounts:
    """Counts by task."""

    def __init__(self) -> None:
        self._since_start: dict[str, Served] = {}
        self._lately: dict[str, Served] = {}

    @property
    def total(self) -> int:
        """Answers of all tasks since the start, those that are gone included."""
        return sum(map(self.of, self._since_start))

    def of(self, task: str) -> int:
        """Answers of a task since the start."""
        return sum(self.since_start(task).classes.values())

    def since_start(self, task: str) -> Served:
        """What came for a task since the start; counts that only grow, so that whoever looks twice knows the rest."""
        return self._since_start.get(task, Served())

    def answered(self, task: str, total_ms: float) -> None:
        """One more answer, and what it took from the last byte in."""
        of = class_of(total_ms)
        for counts in self._both(task):
            counts.classes[of] = counts.classes.get(of, 0) + 1
            counts.most_ms = max(counts.most_ms, total_ms)

    def refused(self, task: str, code: str) -> None:
        """A request of an existing task that ended in an error."""
        for counts in self._both(task):
            counts.refused[code] = counts.refused.get(code, 0) + 1

    def _both(self, task: str) -> tuple[Served, Served]:
        return self._since_start.setdefault(task, Served()), self._lately.setdefault(task, Served())

    def tasks(self) -> tuple[str, ...]:
        """Those that were asked since the start, removed ones included."""
        return tuple(self._since_start)

    def take(self) -> dict[str, Served]:
        """What was counted since this was last asked."""
        taken, self._lately = self._lately, {}
        return taken
