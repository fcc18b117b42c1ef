"""One row of the history: what was seen in a stretch of time, added up so that rows add up too.

A row knows how long each value stood, so that means are those of time however often the device is sampled. Allocations
and rungs are steps: their changes are kept as such, at most `MOST_STEPS` to a row, beside how long each stood.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .history_latency import Classes

MOST_STEPS = 12  # of an allocation or a rung in a row: one in 5 s of a minute
DIGITS = 5  # significant ones that are kept

Step = list[float]  # the moment (Unix time, seconds) and the values from then on


@dataclass(slots=True)
class Span:
    """The least, the most and the mean over time of one number."""

    low: float = math.inf
    high: float = -math.inf
    total: float = 0.0  # of value times seconds
    seconds: float = 0.0

    def see(self, value: float) -> None:
        """The number has this value at a moment."""
        self.low, self.high = min(self.low, value), max(self.high, value)

    def hold(self, value: float, seconds: float) -> None:
        """The number had this value for so long."""
        self.total += value * seconds
        self.seconds += seconds

    def join(self, other: Span) -> None:
        """What `other` saw as well."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.total += other.total
        self.seconds += other.seconds

    @property
    def mean(self) -> float:
        """Over time; of a number that was seen for no time yet, the middle of what was seen."""
        return self.total / self.seconds if self.seconds > 0 else (self.low + self.high) / 2


@dataclass(slots=True)
class Allocated:
    """One allocation: its value, the changes of value and target, and what held it down for how many seconds."""

    value: Span = field(default_factory=Span)
    steps: list[Step] = field(default_factory=list)  # moment, value, target
    held_by: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class TaskRow:
    """One task: how long which rung was in force, and the requests."""

    pixels: dict[int, float] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)  # moment, pixels
    classes: Classes = field(default_factory=dict)
    most_ms: float = 0.0
    refused: dict[str, int] = field(default_factory=dict)
    stages: dict[str, int] = field(default_factory=dict)  # answers by stage of the cascade

    def join(self, other: TaskRow) -> None:
        """Add up all but the steps."""
        sum_up(self.pixels, other.pixels)
        sum_up(self.classes, other.classes)
        self.most_ms = max(self.most_ms, other.most_ms)
        sum_up(self.refused, other.refused)
        sum_up(self.stages, other.stages)


@dataclass(slots=True)
class Row:
    """All of it, from `first_s` to `last_s`."""

    first_s: float
    last_s: float
    signals: dict[str, Span] = field(default_factory=dict)
    inference: Allocated = field(default_factory=Allocated)
    training: Allocated = field(default_factory=Allocated)
    tasks: dict[str, TaskRow] = field(default_factory=dict)
    policies: dict[str, float] = field(default_factory=dict)  # seconds in force

    def join(self, other: Row) -> None:
        """Add what another row holds."""
        self.first_s, self.last_s = min(self.first_s, other.first_s), max(self.last_s, other.last_s)
        for name, span in other.signals.items():
            self.signals.setdefault(name, Span()).join(span)
        for own, its in ((self.inference, other.inference), (self.training, other.training)):
            own.value.join(its.value)
            own.steps = thinned([*own.steps, *its.steps], self.first_s, self.last_s)
            sum_up(own.held_by, its.held_by)
        for name, theirs in other.tasks.items():
            task = self.tasks.setdefault(name, TaskRow())
            task.join(theirs)
            task.steps = thinned([*task.steps, *theirs.steps], self.first_s, self.last_s)
        sum_up(self.policies, other.policies)


def sum_up(own: dict[Any, Any], more: dict[Any, Any]) -> None:
    """Add numbers key by key."""
    for key, value in more.items():
        own[key] = own.get(key, 0) + value


def stepped(steps: list[Step], at_s: float, *values: float) -> None:
    """Note a change, if it is one."""
    if not steps or steps[-1][1:] != list(values):
        steps.append([at_s, *values])


def thinned(steps: Sequence[Step], first_s: float, last_s: float) -> list[Step]:
    """The changes among `steps`, the last of each slot where there are more than a row keeps."""
    changes: list[Step] = []
    for step in sorted(steps, key=lambda one: one[0]):
        stepped(changes, *step)
    if len(changes) <= MOST_STEPS:
        return changes
    slot_s = max(1e-3, (last_s - first_s) / (MOST_STEPS - 1))
    slots: dict[int, Step] = {}
    for step in changes[1:]:
        slots[int((step[0] - first_s) / slot_s)] = step
    kept = [changes[0]]
    for step in slots.values():
        stepped(kept, *step)
    return kept


def encoded(row: Row) -> bytes:
    """A row as it is stored: compact JSON, compressed."""
    return zlib.compress(json.dumps(_plain(asdict(row)), separators=(",", ":")).encode(), 6)


def decoded(stored: bytes) -> Row:
    """The row that was stored."""
    read = json.loads(zlib.decompress(stored))
    return Row(
        first_s=read["first_s"],
        last_s=read["last_s"],
        signals={name: _span(span) for name, span in read["signals"].items()},
        inference=_allocated(read["inference"]),
        training=_allocated(read["training"]),
        tasks={name: _task(task) for name, task in read["tasks"].items()},
        policies=read["policies"],
    )


def _allocated(read: dict[str, Any]) -> Allocated:
    return Allocated(value=_span(read["value"]), steps=read["steps"], held_by=read["held_by"])


def _span(read: dict[str, Any]) -> Span:
    """JSON has no infinity: a bound that is null belongs to what was never seen."""
    return Span() if read["low"] is None else Span(**read)


def _task(read: dict[str, Any]) -> TaskRow:
    numbered = {key: {int(name): value for name, value in read[key].items()} for key in ("pixels", "classes")}
    return TaskRow(**{**read, **numbered})


def _plain(value: Any, key: str = "") -> Any:
    """JSON's own types; moments to the tenth of a second, other numbers to some digits."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return round(value, 1) if key.endswith("_s") else float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {str(name): _plain(each, str(name)) for name, each in value.items()}
    if isinstance(value, list):
        if key == "steps":
            return [[round(step[0], 1), *(_plain(each) for each in step[1:])] for step in value]
        return [_plain(each) for each in value]
    return value


def contiguous(rows: Iterable[Row], gap_s: float, slot_s: float) -> Iterable[Row]:
    """Rows, in order of time, joined within slots of the clock, never across a gap."""
    open_row: Row | None = None
    for row in rows:
        apart = open_row is not None and (
            abs(row.first_s - open_row.last_s) > gap_s or row.first_s // slot_s != open_row.first_s // slot_s
        )
        if open_row is not None and apart:
            yield open_row
            open_row = None
        if open_row is None:
            open_row = row
        else:
            open_row.join(row)
    if open_row is not None:
        yield open_row
