"""The panels of the report as the data that its script draws: one time axis, times in seconds from its start.

What is sampled shares the rows' own extents; what changes in steps (allocations, rungs) has its own times, with null
where nothing was recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import tzinfo
from typing import Any

from ..api.history_schemas import History, HistoryRow
from .words import offsets

Json = dict[str, Any]
MOST_SERIES = 8  # in a panel
GAP_S = 10.0

# A signal's panel by its name's first word, in the order in which they are told; others follow by their own word.
TITLES = {
    "cpu": "Processor",
    "pressure": "Pressure stall",
    "memory": "Memory",
    "swap": "Swap",
    "power": "Power",
    "battery": "Battery",
    "temperature": "Temperature",
    "thermal": "Heat",
    "gpu": "GPU",
    "disk": "Disk",
    "network": "Network",
    "user": "User",
    "work": "Other work",
    "requests": "Requests waiting",
    "own": "patchd itself",
    "workers": "patchd's workers",
    "app": "Posted by applications",
    "plugin": "From plug-ins",
}
UNITS = {"share": "%", "degrees Celsius": "°C", "0 or 1": "1 is yes"}


def data(history: History, zone: tzinfo | None = None) -> Json:
    """Everything that the script needs."""
    first = history.from_s
    return {
        "from": round(first, 1),
        "to": round(history.to_s, 1),
        "zone": [[round(at - first, 1), offset] for at, offset in offsets(first, history.to_s, zone)],
        "first": [round(row.first_s - first, 1) for row in history.rows],
        "last": [round(row.last_s - first, 1) for row in history.rows],
        "gaps": [[round(gap.from_s - first, 1), round(gap.to_s - first, 1)] for gap in history.gaps],
        "panels": list(panels(history)),
    }


def panels(history: History) -> Iterator[Json]:
    """One after the other, from what was decided to what was seen."""
    for name in ("inference", "training"):
        yield _allocation(history, name)
    yield _rungs(history)
    yield _requests(history)
    yield _latency(history)
    yield from _cascades(history)
    yield _slices(history)
    yield {"id": "events", "title": "Events", "unit": "", "kind": "marks", "empty": "No events in this period."}
    yield from _signals(history)


def constant_signals(history: History) -> dict[str, float]:
    """Signals that never changed: told in the table, not drawn."""
    seen: dict[str, tuple[float, float]] = {}
    for row in history.rows:
        for name, span in row.signals.items():
            low, high = seen.get(name, (span.low, span.high))
            seen[name] = min(low, span.low), max(high, span.high)
    return {name: low for name, (low, high) in seen.items() if low == high}


def busiest(history: History) -> list[str]:
    """Tasks, those with the most requests first."""
    return sorted(history.tasks, key=lambda name: (-history.tasks[name].requests, name))


def _panel(ident: str, title: str, unit: str, kind: str, series: Sequence[Json], empty: str, **more: Any) -> Json:
    return {
        "id": ident,
        "title": title,
        "unit": unit,
        "kind": kind,
        "series": list(series),
        "empty": empty,
        **more,
    }


def _allocation(history: History, name: str) -> Json:
    def of(row: HistoryRow) -> tuple[tuple[float, float, float], ...]:
        told = row.inference if name == "inference" else row.training
        return () if told is None else told.steps

    def steps(place: int) -> Callable[[HistoryRow], Iterable[tuple[float, float]]]:
        return lambda row: ((step[0], step[place]) for step in of(row))

    series = [
        {"name": "in force", **_steps(history, steps(1))},
        {"name": "asked for by the rules", "dash": 1, **_steps(history, steps(2))},
    ]
    present = [each for each in series if each["t"]]
    empty = f"No {name} allocation was decided in this period."
    return _panel(
        name, f"{name.capitalize()} allocation", "0 to 1", "step", present, empty, range=[0, 1], form="number"
    )


def _rungs(history: History) -> Json:
    names = busiest(history)

    def of(name: str) -> Callable[[HistoryRow], Iterable[tuple[float, float]]]:
        return lambda row: row.tasks[name].steps if name in row.tasks else ()

    series = [{"name": name, **_steps(history, of(name))} for name in names[:MOST_SERIES]]
    return _panel(
        "rungs",
        "Resolution in force",
        "pixels a side",
        "step",
        [each for each in series if each["t"]],
        "No task had a rung in force.",
        form="px",
        more=max(0, len(names) - MOST_SERIES),
        ticks=sorted({int(side) for task in history.tasks.values() for side in task.pixels}),
    )


def _steps(history: History, of: Callable[[HistoryRow], Iterable[tuple[float, float]]]) -> Json:
    """Changes row by row as times and values; null from where a row ends and none follows."""
    times: list[float] = []
    values: list[float | None] = []
    until_s: float | None = None
    for row in history.rows:
        steps = list(of(row))
        if until_s is not None and (not steps or row.first_s - until_s > GAP_S or row.first_s < until_s - GAP_S):
            times.append(round(until_s - history.from_s, 1))
            values.append(None)
            until_s = None
        for at_s, value in steps:
            if not values or values[-1] != value:
                times.append(round(at_s - history.from_s, 1))
                values.append(value)
        if steps:
            until_s = row.last_s
    if until_s is not None:
        times.append(round(until_s - history.from_s, 1))
        values.append(None)
    return {"t": times, "v": values}


def _requests(history: History) -> Json:
    names = [name for name in busiest(history) if history.tasks[name].requests]

    def rate(row: HistoryRow, name: str) -> float:
        count = row.tasks[name].requests if name in row.tasks else 0
        return _short(count / max(1.0, row.last_s - row.first_s) * 60)

    series: list[Json] = [
        {"name": name, "v": [rate(row, name) for row in history.rows]} for name in names[:MOST_SERIES]
    ]
    if refused := [row_refused(row) for row in history.rows]:
        per_minute = [
            _short(count / max(1.0, row.last_s - row.first_s) * 60)
            for count, row in zip(refused, history.rows, strict=True)
        ]
        if any(refused):
            series.append({"name": "ended in an error", "v": per_minute, "alert": True})
    return _panel(
        "requests",
        "Requests",
        "per minute",
        "line",
        series,
        "No predictions were asked for in this period.",
        form="number",
        range=[0, None],
        more=max(0, len(names) - MOST_SERIES),
    )


def row_refused(row: HistoryRow) -> int:
    """Requests of all tasks that ended in an error."""
    return sum(sum(task.refused.values()) for task in row.tasks.values())


def _latency(history: History) -> Json:
    names = [name for name in busiest(history) if history.tasks[name].requests]
    series = []
    for name in names[:MOST_SERIES]:
        told = [row.tasks.get(name) for row in history.rows]
        middle = [task.p50_ms if task else None for task in told]
        high = [task.p95_ms if task else None for task in told]
        series.append({"name": name, "v": _shorts(middle), "lo": _shorts(middle), "hi": _shorts(high)})
    return _panel(
        "latency",
        "Latency",
        "ms: median, shaded up to 95 %",
        "line",
        series,
        "No predictions were answered in this period.",
        form="ms",
        range=[0, None],
        read="p95",
        dots=True,
        more=max(0, len(names) - MOST_SERIES),
    )


def _cascades(history: History) -> Iterator[Json]:
    for place, name in enumerate(busiest(history)):
        stages = list(history.tasks[name].stages)
        if not stages:
            continue
        told = [row.tasks[name].stages if name in row.tasks else {} for row in history.rows]
        totals = [sum(each.values()) for each in told]
        series = [
            {
                "name": stage,
                "v": [
                    _short(each.get(stage, 0) / total) if total else None
                    for each, total in zip(told, totals, strict=True)
                ],
            }
            for stage in stages
        ]
        title = f"Who answers in {name}'s cascade"
        yield _panel(
            f"cascade-{place}", title, "% of answers by stage", "stack", series, "", form="share", range=[0, 1]
        )


def _slices(history: History) -> Json:
    jobs = list(dict.fromkeys(each.job for each in history.slices))
    series = [
        {
            "name": job,
            "bars": [
                [
                    round(each.start_s - history.from_s, 1),
                    round(each.end_s - history.from_s, 1),
                    None if each.cost is None else _short(each.cost),
                    None if each.measured_cost is None else _short(each.measured_cost),
                    place,
                ]
                for place, each in enumerate(history.slices)
                if each.job == job
            ],
        }
        for job in jobs
    ]
    return _panel(
        "slices",
        "Training slices",
        "cost as a share of a full step; a tick marks what was measured",
        "bars",
        series,
        "No training in this period.",
        form="number",
        range=[0, None],
        untold=_untold(history),
    )


def _untold(history: History) -> float:
    """Until when slices were left out because there were too many, in seconds from the start; 0 where none were."""
    left_out = history.trained.slices - sum(each.slices for each in history.slices)
    return round(max(0.0, history.slices[0].start_s - history.from_s), 1) if history.slices and left_out else 0.0


def _signals(history: History) -> Iterator[Json]:
    unchanged = constant_signals(history)
    grouped: dict[tuple[str, str], list[str]] = {}
    for name, unit in history.units.items():
        if name not in unchanged:
            grouped.setdefault((name.partition(".")[0], unit), []).append(name)
    order = list(TITLES)

    def place(key: tuple[str, str]) -> tuple[int, str, bool, str]:
        return (order.index(key[0]) if key[0] in TITLES else len(order), key[0], key[1] != "share", key[1])

    for word, unit in sorted(grouped, key=place):
        names = grouped[word, unit]
        for part in range(0, len(names), MOST_SERIES):
            series = [_signal(history, name) for name in names[part : part + MOST_SERIES]]
            bounds: list[float | None] = [0, 1] if unit in ("share", "0 or 1") and word != "pressure" else [None, None]
            if word == "pressure" or unit in ("bytes", "seconds", "tasks per core", "tasks"):
                bounds = [0, None]
            yield _panel(
                f"signal-{word}-{unit}-{part}",
                TITLES.get(word, word.capitalize()),
                UNITS.get(unit, unit),
                "line",
                series,
                "",
                form=unit or "number",
                range=bounds,
            )


def _signal(history: History, name: str) -> Json:
    spans = [row.signals.get(name) for row in history.rows]
    middle = [None if span is None else _short(span.mean) for span in spans]
    low = [None if span is None else _short(span.low) for span in spans]
    high = [None if span is None else _short(span.high) for span in spans]
    if low == high:
        return {"name": name, "v": middle}
    return {"name": name, "v": middle, "lo": low, "hi": high}


def _shorts(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else _short(value) for value in values]


def _short(value: float) -> float:
    """Four digits are more than a picture shows; whole numbers without a point."""
    rounded = float(f"{value:.4g}")
    return int(rounded) if rounded.is_integer() else rounded
