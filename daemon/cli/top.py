"""`patchctl top`: a live screen of what patchd sees and decides."""

from __future__ import annotations

import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from ...client import Client
from ...policies.errors import BadInputError, UnavailableError
from . import render
from .common import Settings, pass_settings
from .events import event_line
from .follow import FINAL, progress_line
from .status import device_line, rungs_table

if TYPE_CHECKING:
    from ...policies.decision import AllocationDecision, Decision
    from ..api.schemas import Event, JobView, Status

REFRESH_S = 1.0  # the daemon's own sampling period
_BAR = 20


@click.command(epilog="\b\nExample:\n  patchctl top        q or Ctrl-C ends it")
@pass_settings
def top(settings: Settings) -> None:
    """Watch the daemon live. Device, allocations and their reasons, rungs, training, events."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInputError(
            "`patchctl top` needs a terminal.", hint="Use `patchctl status` or `patchctl events --follow`."
        )
    with settings.client() as client:
        first = screen(client)
        _watch(client, first)


def _watch(client: Client, first: str) -> None:
    from rich.live import Live
    from rich.text import Text

    with _keys() as quit_within, Live(Text.from_ansi(first), screen=True, auto_refresh=False) as live:
        while not quit_within(REFRESH_S):
            try:
                shown = screen(client)
            except UnavailableError as error:
                shown = str(error)
            live.update(Text.from_ansi(shown), refresh=True)


@contextmanager
def _keys() -> Iterator[_Quit]:
    """Reads single keys; the terminal is as before at the end."""
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _Quit()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


class _Quit:
    """Whether q or Ctrl-C was pressed within some seconds."""

    def __call__(self, seconds: float) -> bool:
        try:
            readable, _, _ = select.select([sys.stdin], [], [], seconds)
            return bool(readable) and sys.stdin.read(1) in ("q", "Q", "")
        except KeyboardInterrupt:
            return True


def screen(client: Client) -> str:
    """One screenful, from four requests."""
    state = client.status()
    jobs = [job for job in client.jobs().jobs if job.state.value not in FINAL]
    recent = client.events(limit=30).events
    return screen_text(state, jobs, recent, shutil.get_terminal_size((80, 24)))


def screen_text(state: Status, jobs: list[JobView], recent: tuple[Event, ...], size: tuple[int, int]) -> str:
    """The screen as text: at most `size` (columns, lines); the events fill what is left."""
    columns, lines = size
    seen = device_line(state.snapshot) if state.snapshot else "not sampled yet"
    up = render.duration(state.now_s - state.started_s)
    head = f"patchd {state.version}  policy {state.policy.name}  up {up}  {state.requests_total} requests"
    body = [head + time.strftime("  %H:%M:%S").rjust(max(0, columns - len(head))), seen]
    if state.trace:
        body.append(click.style(f"trace {state.trace} is replayed in place of the device", fg="yellow"))
    if state.policy.error:
        body.append(click.style(f"policy refused: {state.policy.error}", fg="red"))
    if state.decision:
        body += _decision_lines(state.decision)
    for job in jobs:
        body.append(f"{job.id} {job.spec.task}: {progress_line(job)}")
    body = [click.unstyle(line)[:columns] if len(click.unstyle(line)) > columns else line for line in body]
    left = lines - len(body) - 2
    if left > 0 and recent:
        body += ["", *(click.unstyle(event_line(event))[:columns] for event in recent[-left:])]
    return "\n".join(body[:lines])


def _decision_lines(decision: Decision) -> list[str]:
    lines = [
        "",
        *_allocation("inference", decision.inference),
        *_allocation("training", decision.training),
        " " * 11 + decision.plan.text,
    ]
    return lines + (["", *rungs_table(decision.rungs).splitlines()] if decision.rungs else [])


def _allocation(name: str, decision: AllocationDecision) -> list[str]:
    filled = round(decision.value * _BAR)
    held = "" if decision.value == decision.target else f"  rules ask for {decision.target:.2f}"
    bar = f"{name.ljust(10)} [{'#' * filled}{'.' * (_BAR - filled)}] {decision.value:.2f}{held}"
    return [bar, *(" " * 11 + reason.text for reason in decision.reasons[:1])]
