"""`patchctl events`: what has happened, and what happens now."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from . import render
from .common import Settings, pass_settings, print_body

if TYPE_CHECKING:
    from ..api.schemas import Event

LEVELS = ("info", "warning", "error")
PAST = 100
PAST_WHEN_FOLLOWING = 10
MOST_SEARCHED = 10_000  # the API's own limit: filters look through so many past events
_COLOURS = {"warning": "yellow", "error": "red"}


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl events --limit 20\n"
        "  patchctl events --follow --kind decision\n"
        "  patchctl events --level warning --json\n\n"
        "A KIND also stands for the kinds below it: 'job' is job.queued, job.done and so on."
    )
)
@click.option("--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option("--since", type=click.IntRange(0), metavar="ID", help="Only events after this one.")
@click.option("--limit", type=click.IntRange(1), help="At most so many past ones.  [default: 100; 10 with --follow]")
@click.option("--level", type=click.Choice(LEVELS), help="Only this level and graver ones.")
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind; may be given several times.")
@click.option(
    "as_json", "--json", is_flag=True, help="Print the API's answer as it came; with --follow, one line an event."
)
@pass_settings
def events(
    settings: Settings,
    follow: bool,
    since: int | None,
    limit: int | None,
    level: str | None,
    kinds: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show events: decisions, jobs, workers, policies, errors."""
    with settings.client() as client:
        if as_json and not (follow or level or kinds):
            print_body(client.request("GET", "/v1/events", query={"since": since, "limit": limit}))
            return
        wanted_number = limit or (PAST_WHEN_FOLLOWING if follow else PAST)
        searched = client.events(since, MOST_SEARCHED if level or kinds else wanted_number).events
        last = max((event.id for event in searched), default=since)
        past = [event for event in searched if wanted(event, level, kinds)][-wanted_number:]
        if as_json and not follow:
            click.echo(json.dumps({"events": [event.model_dump(mode="json") for event in past]}))
            return
        for event in past:
            _print(event, as_json)
        if follow:
            for event in client.follow_events(last):
                if wanted(event, level, kinds):
                    _print(event, as_json)


def _print(event: Event, as_json: bool) -> None:
    click.echo(event.model_dump_json() if as_json else event_line(event))


def wanted(event: Event, level: str | None, kinds: tuple[str, ...]) -> bool:
    """Whether an event passes the filters."""
    if level is not None and LEVELS.index(event.level) < LEVELS.index(level):
        return False
    return not kinds or any(event.kind == kind or event.kind.startswith(kind + ".") for kind in kinds)


def event_line(event: Event) -> str:
    """One event in one line."""
    level = click.style(event.level.ljust(7), fg=_COLOURS.get(event.level))
    return f"{render.clock(event.time_s)}  {level}  {event.kind.ljust(18)}  {event.message}"
