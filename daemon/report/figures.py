"""What the history of a period adds up to: the numbers that sentences and tables tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..api.history_schemas import AllocationView, History, HistoryRow, SpanView

Seconds = dict[str, float]


@dataclass(frozen=True)
class AllocationFigures:
    """One allocation over the period."""

    seconds: float
    mean: float | None
    at: tuple[tuple[float, float], ...]  # value and seconds, the longest first
    held_by: tuple[tuple[str, float], ...]  # the longest first


@dataclass(frozen=True)
class Figures:
    """The whole period."""

    recorded_s: float
    inference: AllocationFigures
    training: AllocationFigures
    requests: int
    refused: Counter[str]
    signals: dict[str, SpanView]
    last: dict[str, float]
    policies: Seconds


def figures(history: History) -> Figures:
    """Add a period up."""
    policies: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for row in history.rows:
        policies.update(row.policies)
    for task in history.tasks.values():
        refused.update(task.refused)
    return Figures(
        recorded_s=sum(row.last_s - row.first_s for row in history.rows),
        inference=_allocation((row, row.inference) for row in history.rows),
        training=_allocation((row, row.training) for row in history.rows),
        requests=sum(task.requests for task in history.tasks.values()),
        refused=refused,
        signals={name: _overall(name, history.rows) for name in history.units},
        last={name: span.mean for row in history.rows for name, span in row.signals.items()},
        policies=dict(policies.most_common()),
    )


def _allocation(rows: Iterable[tuple[HistoryRow, AllocationView | None]]) -> AllocationFigures:
    at: Counter[float] = Counter()
    held_by: Counter[str] = Counter()
    for row, told in rows:
        if told is None:
            continue
        for since_s, until_s, value in stretches(told, row.last_s):
            at[round(value, 2)] += max(0.0, until_s - since_s)  # type: ignore[assignment]
        held_by.update(told.held_by)
    seconds = sum(at.values())
    return AllocationFigures(
        seconds=seconds,
        mean=sum(value * held for value, held in at.items()) / seconds if seconds else None,
        at=tuple(at.most_common()),
        held_by=tuple(held_by.most_common()),
    )


def stretches(told: AllocationView, until_s: float) -> Iterator[tuple[float, float, float]]:
    """From when to when an allocation had which value in a row."""
    ends = [*(at for at, _, _ in told.steps[1:]), until_s]
    for (since_s, value, _), end_s in zip(told.steps, ends, strict=True):
        yield since_s, end_s, value


def _overall(name: str, rows: Iterable[HistoryRow]) -> SpanView:
    spans = [(row.signals[name], row.last_s - row.first_s) for row in rows if name in row.signals]
    seconds = sum(held for _, held in spans)
    total = sum(span.mean * held for span, held in spans)
    return SpanView(
        low=min(span.low for span, _ in spans),
        mean=total / seconds if seconds else spans[-1][0].mean,
        high=max(span.high for span, _ in spans),
    )
