"""Tables of `patchctl replay`: one column a policy, so that policies stand side by side within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from . import render

if TYPE_CHECKING:
    from ...policies.replay import ReplayResult
    from ...policies.trace import Trace

Row = tuple[str, ...]
NAME_COLUMNS, VALUE_COLUMNS = 26, 14
_RATES = {"given": "the given rate", "trace": "the trace's own rate", "assumed": "1/s, as nothing tells their rate"}


def moment(t: float) -> str:
    """3750 -> '1:02:30', from the start of the trace."""
    hours, rest = divmod(int(t), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def library_text(traces: Sequence[Trace]) -> str:
    """The traces that ship with patchd."""
    rows = [(each.name, render.duration(each.duration_s), each.header.story) for each in traces]
    return render.table(("name", "lasts", "story"), rows, right=(1,))


def changes_text(result: ReplayResult) -> str:
    """Each change of a decision, with its moment."""
    rows = [
        (moment(change.t), f"{change.inference:.2f}", f"{change.training:.2f}", " ".join(change.changed))
        for change in result.changes
    ]
    title = click.style(f"{result.trace} under '{result.policy}'", bold=True, underline=True)
    return title + "\n" + render.table(("at", "inference", "training", "what changed"), rows, right=(0, 1, 2))


def comparison_text(results: Sequence[ReplayResult], resolutions: Sequence[int]) -> str:
    """What each policy did over the trace, as many policies side by side as the terminal has room for."""
    first = results[0]
    whole = f"{first.trace}, {render.duration(first.duration_s)}"
    if first.from_s:
        whole += f" from {moment(first.from_s)} on"
    wide = max(1, (render.width() - NAME_COLUMNS) // (VALUE_COLUMNS + 2))
    lines = [whole]
    for at in range(0, len(results), wide):
        lines.append(_table(results[at : at + wide]))
    lines += _footnotes(results, resolutions)
    return "\n".join(lines)


def _table(results: Sequence[ReplayResult]) -> str:
    rows: list[Row] = [
        ("inference allocation", *(f"{r.mean_inference:.2f}" for r in results)),
        ("training allocation", *(f"{r.mean_training:.2f}" for r in results)),
    ]
    for index, task in enumerate(results[0].tasks):
        if len(results[0].tasks) > 1:
            rows.append((f"task {task.task}", *("" for _ in results)))
        mine = [r.tasks[index] for r in results]
        sides = sorted({side for each in mine for side in each.seconds_at}, reverse=True)
        rows += [
            (f"  predictions at {side} px", *(_count(each.predictions_at.get(side, 0.0)) for each in mine))
            for side in sides
        ]
        rows.append(("  changes of resolution", *(str(each.changes) for each in mine)))
        rows.append(("  shortest between two", *(_duration(each.shortest_s) for each in mine)))
        rows.append(("  over budget", *(_duration(each.over_budget_s) for each in mine)))
    rows.append(_cost_row(results))
    rows.append(("training ran", *(_duration(r.training.seconds) for r in results)))
    rows.append(("  processor time", *(_duration(r.training.processor_s) for r in results)))
    rows.append(("  steps", *(_count(r.training.steps) for r in results)))
    rows.append(("  in full steps' worth", *(_count(r.training.full_steps) for r in results)))
    rows.append(("  slices", *(_count(r.training.slices) for r in results)))
    rows.append(("  over budget", *(_duration(r.training.over_budget_s) for r in results)))
    for key in sorted({key for r in results for key in r.training.waits}):
        rows.append(
            (f"  waited for {key}"[:NAME_COLUMNS], *(_duration(r.training.waits.get(key, 0.0)) for r in results))
        )
    if any(r.energy.inference_joules is not None for r in results):
        rows.append(("energy of predictions", *(_joules(r.energy.inference_joules) for r in results)))
    if any(r.energy.training_joules is not None for r in results):
        rows.append(("energy of training", *(_joules(r.energy.training_joules) for r in results)))
    rows += _rule_rows(results)
    header = (
        "",
        *(r.policy if len(r.policy) <= VALUE_COLUMNS else r.policy[: VALUE_COLUMNS - 1] + "~" for r in results),
    )
    return render.table(header, rows, right=range(1, len(header)))


def _cost_row(results: Sequence[ReplayResult]) -> Row:
    if results[0].inference.processor_s is not None:
        return ("processor time for them", *(_duration(r.inference.processor_s) for r in results))
    return ("relative cost of them *", *(_count(r.inference.relative) for r in results))


def _rule_rows(results: Sequence[ReplayResult]) -> list[Row]:
    names = sorted({name for r in results for name in r.rules})
    rows: list[Row] = [("rules, times and share", *("" for _ in results))] if names else []
    for name in names:
        cells = []
        for r in results:
            rule = r.rules.get(name)
            cells.append(
                render.ABSENT if rule is None else f"{rule.times}x {render.percent(rule.seconds / r.duration_s):>5}"
            )
        shown = name if len(name) <= NAME_COLUMNS - 2 else name[: NAME_COLUMNS - 3] + "~"
        rows.append((f"  {shown}", *cells))
    return rows


def _footnotes(results: Sequence[ReplayResult], resolutions: Sequence[int]) -> list[str]:
    first = results[0]
    notes = []
    if first.inference.processor_s is None:
        notes.append(
            f"* in predictions at {max(resolutions)} px, each costing by its pixels; --measured takes the costs and "
            "tasks of the daemon instead."
        )
    for source in dict.fromkeys(task.rate_from for task in first.tasks):
        of = [task.task for task in first.tasks if task.rate_from == source]
        whose = "" if len(of) == len(first.tasks) else f" of {', '.join(of)}"
        notes.append(f"Predictions{whose}: at {_RATES[source]}.")
    if first.energy.watts_per_core is not None:
        whence = (
            "given" if first.energy.source == "given" else "the slope of the trace's power over its processors in use"
        )
        notes.append(f"Energy: a busy processor takes {first.energy.watts_per_core:.2g} W, {whence}.")
    if first.energy.why:
        notes.append(f"Energy: {first.energy.why}.")
    notes += dict.fromkeys(f"{note}." for result in results for note in result.notes)
    return [line for note in notes for line in render.wrap(note, render.width())]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return render.ABSENT
    return "0 s" if seconds == 0 else render.duration(seconds)


def _joules(joules: float | None) -> str:
    if joules is None:
        return render.ABSENT
    if joules >= 3600:
        return f"{joules / 3600:.3g} Wh" if joules < 3.6e6 else f"{_count(joules / 3600)} Wh"
    return f"{joules:.3g} J"


def _count(value: float) -> str:
    """12345.6 -> '12 346'."""
    return f"{value:,.0f}".replace(",", " ")
