"""The tables under the charts, as HTML that is read and sorted with or without the script."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import tzinfo
from functools import partial
from html import escape

from ..api.history_schemas import History, HistoryRow
from .figures import Figures, stretches
from .panels import busiest, row_refused
from .summary import cause
from .words import ABSENT, duration, in_unit, listed, milliseconds, moment, number, percent, thousands

MOST_STRETCHES = 60  # rows of the table by time


@dataclass(frozen=True)
class Cell:
    """What is shown, and what it is sorted by where that is something else; both are text from anybody."""

    text: str
    value: float | None = None
    right: bool = False

    @property
    def html(self) -> str:
        sort = "" if self.value is None else f' data-v="{self.value:.12g}"'
        return f"<td{sort}{' class=n' if self.right else ''}>{escape(self.text)}</td>"


def _n(text: str, value: float | None) -> Cell:
    return Cell(text, value, right=True)


Clock = Callable[[float], str]


def _at(time_s: float, clock: Clock) -> Cell:
    return Cell(clock(time_s), time_s)


Line = tuple[Mapping[str, str], Sequence[Cell]]  # attributes of the row, and its cells


def table(ident: str, title: str, columns: Sequence[str], lines: Sequence[Line], empty: str, note: str = "") -> str:
    """A section with a table, or with a sentence where there is nothing to tell."""
    head = f'<section class=table id="{ident}"><h2>{escape(title)}</h2>'
    if note:
        head += f"<p class=note>{escape(note)}</p>"
    if not lines:
        return f"{head}<p class=empty>{escape(empty)}</p></section>"
    right = [bool(lines) and cell.right for cell in lines[0][1]]
    headers = "".join(
        f"<th scope=col{' class=n' if is_right else ''}>{escape(column)}</th>"
        for column, is_right in zip(columns, right, strict=True)
    )
    body = "".join(map(_line, lines))
    label = f' tabindex=0 role=region aria-label="{escape(title)}"'
    return (
        f"{head}<div class=scroll{label}><table><thead><tr>{headers}</tr></thead>\n<tbody>{body}</tbody></table></div>"
        "</section>"
    )


def _line(line: Line) -> str:
    attributes, cells = line
    told = "".join(f' {name}="{escape(value)}"' for name, value in attributes.items())
    return f"<tr{told}>{''.join(cell.html for cell in cells)}</tr>\n"


def tables(history: History, told: Figures, zone: tzinfo | None = None) -> Iterator[str]:
    """All of them, in the order of the charts."""
    of_one_year = moment(history.from_s, zone)[:4] == moment(history.to_s, zone)[:4]
    clock = partial(moment, zone=zone, year=not of_one_year)
    yield _by_time(history, clock)
    yield _allocations(told)
    yield _tasks(history)
    yield _stages(history)
    yield _slices(history, clock)
    yield _events(history, clock)
    yield _signals(history, told)


def _by_time(history: History, clock: Clock) -> str:
    lines: list[Line] = [({}, cells) for cells in _stretches(history, clock)]
    columns = ("from", "for", "inference", "training", "requests", "refused", "95 % within", "trained")
    note = (
        "Allocations on average, with the least and the most where they changed; “95 % within” is the slowest task's."
    )
    return table("by-time", "By time", columns, lines, "Nothing was recorded in this period.", note)


def _stretches(history: History, clock: Clock) -> Iterator[Sequence[Cell]]:
    if not history.rows:
        return
    span_s = max(60.0, (history.to_s - history.from_s) / MOST_STRETCHES)
    wanted = (60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400)
    step_s = next((step for step in wanted if step >= span_s), wanted[-1])
    grouped: dict[float, list[HistoryRow]] = {}
    for row in history.rows:
        grouped.setdefault(row.first_s // step_s, []).append(row)
    for rows in grouped.values():
        first_s, last_s = rows[0].first_s, max(row.last_s for row in rows)
        requests = sum(task.requests for row in rows for task in row.tasks.values())
        refused = sum(row_refused(row) for row in rows)
        slow = max((task.p95_ms or 0.0 for row in rows for task in row.tasks.values()), default=0.0)
        trained_s = sum(max(0.0, min(last_s, each.end_s) - max(first_s, each.start_s)) for each in history.slices)
        yield (
            _at(first_s, clock),
            _n(duration(last_s - first_s), last_s - first_s),
            _mean(rows, "inference"),
            _mean(rows, "training"),
            _n(thousands(requests), requests),
            _n(thousands(refused), refused),
            _n(milliseconds(slow or None), slow),
            _n(duration(trained_s) if trained_s else ABSENT, trained_s),
        )


def _mean(rows: Sequence[HistoryRow], name: str) -> Cell:
    told = [(row, view) for row in rows if (view := row.inference if name == "inference" else row.training)]
    parts = [part for row, view in told for part in stretches(view, row.last_s)]
    seconds = sum(end - start for start, end, _ in parts)
    if not seconds:
        return _n(ABSENT, -1)
    mean = sum((end - start) * value for start, end, value in parts) / seconds
    low, high = min(view.value.low for _, view in told), max(view.value.high for _, view in told)
    between = "" if low == high else f" ({number(low)} to {number(high)})"
    return _n(f"{number(mean, 2)}{between}", mean)


def _allocations(told: Figures) -> str:
    lines: list[Line] = []
    for name, figures in (("inference", told.inference), ("training", told.training)):
        for value, seconds in sorted(figures.at, reverse=True):
            share = seconds / figures.seconds if figures.seconds else 0.0
            lines.append(({}, (Cell(name), Cell(f"at {number(value)}", value), *_time(seconds, share))))
        for why, seconds in figures.held_by:
            share = seconds / figures.seconds if figures.seconds else 0.0
            lines.append(({}, (Cell(name), Cell(f"held down by {cause(why)}"), *_time(seconds, share))))
    columns = ("allocation", "value or cause", "time", "share")
    return table("allocations", "Time at each allocation", columns, lines, "No allocation was decided in this period.")


def _time(seconds: float, share: float) -> tuple[Cell, Cell]:
    return _n(duration(seconds), seconds), _n(percent(share), share)


def _tasks(history: History) -> str:
    lines: list[Line] = []
    for name in busiest(history):
        task = history.tasks[name]
        seconds = sum(task.pixels.values())
        rungs = sorted(task.pixels.items(), key=lambda each: -each[1])
        resolutions = ", ".join(f"{side} px {percent(held / seconds)}" for side, held in rungs if seconds)
        refused = listed([f"{count} {code}" for code, count in task.refused.items()]) if task.refused else ABSENT
        lines.append(
            (
                {},
                (
                    Cell(name),
                    _n(thousands(task.requests), task.requests),
                    _n(milliseconds(task.p50_ms), task.p50_ms or -1),
                    _n(milliseconds(task.p95_ms), task.p95_ms or -1),
                    _n(milliseconds(task.most_ms), task.most_ms or -1),
                    Cell(refused, sum(task.refused.values())),
                    Cell(resolutions or ABSENT),
                ),
            )
        )
    columns = ("task", "answered", "median", "95 %", "longest", "errors", "time at each resolution")
    note = "Latency from the last byte of a request to its answer. Quantiles are within 4.5 %."
    return table("tasks", "Tasks", columns, lines, "There was no task in this period.", note)


def _stages(history: History) -> str:
    lines: list[Line] = []
    for name, task in history.tasks.items():
        total = sum(task.stages.values())
        for stage, answers in task.stages.items():
            place, _, rung = stage.partition(" ")
            cells = (Cell(name), _n(place, float(place)), Cell(rung), _n(thousands(answers), answers))
            lines.append(({}, (*cells, _n(percent(answers / total), answers / total))))
    columns = ("task", "stage", "rung", "answers", "share")
    return table("stages", "Cascades", columns, lines, "No prediction passed a cascade in this period.")


def _slices(history: History, clock: Clock) -> str:
    lines: list[Line] = [
        (
            {"data-i": str(place)},
            (
                _at(each.start_s, clock),
                _n(duration(each.end_s - each.start_s), each.end_s - each.start_s),
                Cell(each.job),
                Cell(each.task),
                _n(ABSENT if each.resolution is None else f"{each.resolution} px", each.resolution or -1),
                Cell(each.plan),
                _n(number(each.cost), -1 if each.cost is None else each.cost),
                _n(number(each.measured_cost), -1 if each.measured_cost is None else each.measured_cost),
                _n(duration(each.cpu_seconds), each.cpu_seconds),
                _n(thousands(each.samples), each.samples),
            ),
        )
        for place, each in enumerate(history.slices)
    ]
    columns = ("from", "for", "job", "task", "input", "plan", "cost", "measured", "processor", "images")
    note = "Cost is the share of a full fine-tuning step: predicted for the plan, and measured."
    told = sum(each.slices for each in history.slices)
    if told > len(history.slices):
        note += f" The {thousands(told)} slices are told {len(history.slices)} stretches long, neighbours together."
    if told < history.trained.slices:
        note += f" {thousands(history.trained.slices - told)} earlier ones are left out."
    return table("slices", "Training slices", columns, lines, "No training in this period.", note if lines else "")


def _events(history: History, clock: Clock) -> str:
    lines: list[Line] = [
        (
            {"data-t": f"{event.time_s - history.from_s:.1f}", "data-l": event.level},
            (
                _at(event.time_s, clock),
                Cell(event.level, {"info": 0.0, "warning": 1.0, "error": 2.0}[event.level]),
                Cell(event.kind),
                Cell(event.message),
            ),
        )
        for event in reversed(history.events)
    ]
    total = sum(history.events_by_kind.values())
    note = ""
    if total > len(history.events):
        left = total - len(history.events)
        kinds = listed([f"{kind} ({thousands(count)})" for kind, count in list(history.events_by_kind.items())[:3]])
        note = f"{thousands(left)} earlier ones of level info are left out; the most frequent kinds: {kinds}."
    return table("events", "Events", ("at", "level", "kind", "message"), lines, "No events in this period.", note)


def _signals(history: History, told: Figures) -> str:
    def show(value: float, unit: str) -> Cell:
        return _n(in_unit(value, unit), value)

    lines: list[Line] = [
        (
            {},
            (
                Cell(name),
                show(span.low, history.units[name]),
                show(span.mean, history.units[name]),
                show(span.high, history.units[name]),
                show(told.last[name], history.units[name]),
            ),
        )
        for name, span in told.signals.items()
    ]
    columns = ("signal", "least", "mean", "most", "last")
    return table("signals", "Signals", columns, lines, "No signal was seen in this period.")
