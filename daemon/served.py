"""What was answered for each task: for `/metrics` since the start, for the history since it last asked."""

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
        self._totals: dict[str, int] = {}
        self._lately: dict[str, Served] = {}

    @property
    def total(self) -> int:
        """Answers of all tasks since the start, those that are gone included."""
        return sum(self._totals.values())

    def of(self, task: str) -> int:
        """Answers of a task since the start."""
        return self._totals.get(task, 0)

    def answered(self, task: str, total_ms: float) -> None:
        """One more answer, and what it took from the last byte in."""
        self._totals[task] = self._totals.get(task, 0) + 1
        lately = self._lately.setdefault(task, Served())
        of = class_of(total_ms)
        lately.classes[of] = lately.classes.get(of, 0) + 1
        lately.most_ms = max(lately.most_ms, total_ms)

    def refused(self, task: str, code: str) -> None:
        """A request of an existing task that ended in an error."""
        refused = self._lately.setdefault(task, Served()).refused
        refused[code] = refused.get(code, 0) + 1

    def take(self) -> dict[str, Served]:
        """What was counted since this was last asked."""
        taken, self._lately = self._lately, {}
        return taken
