"""Feeding a trace to the running daemon, and showing what changes while it plays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...client import Client
from ...policies.errors import NotFoundError
from . import render
from .follow import plan_words

if TYPE_CHECKING:
    from ...policies.decision import Decision
    from ..api.schemas import Event

_ENDED, _CHANGED = "trace.ended", "decision.changed"


def play(client: Client, name: str, text: str, speed: float, wait: bool) -> None:
    """Start the trace `name`; with `wait`, show every changed decision until it has ended.

    Ctrl-C while waiting gives the monitor back to the device.
    """
    from ..api.schemas import TraceReplay

    before = max((event.id for event in client.events(limit=1).events), default=0)
    state = client.start_trace(TraceReplay(name=name, speed=speed, jsonl=text))
    took = render.duration((state.duration_s or 0.0) / speed)
    click.echo(f"The trace {name} takes the place of the device for {took}.")
    if not wait:
        click.echo("Watch it with `patchctl top`, end it with `patchctl replay --stop`.")
        return
    try:
        _show_changes(client, before)
    except KeyboardInterrupt:
        client.stop_trace()
        click.echo("\nThe trace was stopped; the device's own signals count again.", err=True)
        raise


def _show_changes(client: Client, since: int) -> None:
    started_s: float | None = None
    for event in client.follow_events(since):
        started_s = event.time_s if started_s is None else started_s
        if event.kind == _CHANGED:
            click.echo(_change_text(client, event, event.time_s - started_s))
        elif event.kind == _ENDED:
            click.echo(f"{_offset(event.time_s - started_s)}  {event.message}")
            return


def _change_text(client: Client, event: Event, offset_s: float) -> str:
    try:
        decision = client.decision(str(event.data.get("decision")))
    except NotFoundError:  # trimmed from the state meanwhile: the event still says what changed
        return f"{_offset(offset_s)}  {event.message}"
    return f"{_offset(offset_s)}  {decision_line(decision)}\n{_indented(event.message)}"


def decision_line(decision: Decision) -> str:
    """A decision in one line: allocations and the rung of each task."""
    rungs = ", ".join(f"{rung.task} {rung.resolution} px" for rung in decision.rungs)
    plan = plan_words(decision.plan.plan)
    line = f"inference {decision.inference.value:.2f}, training {decision.training.value:.2f} ({plan})"
    return line + (f", {rungs}" if rungs else "")


def _offset(seconds: float) -> str:
    return click.style(f"{seconds:7.1f} s", bold=True)


def _indented(text: str) -> str:
    return "\n".join(" " * 11 + line for line in render.wrap(text, render.width() - 11))
