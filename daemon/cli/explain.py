"""`patchctl explain`: why patchd does what it does, or did, in plain sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import render
from .common import Moment, Settings, json_option, pass_settings, print_body
from .signals import value_text
from .status import policy_line

if TYPE_CHECKING:
    from ...policies.explain import Section
    from ..api.explain_schemas import Explain


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl explain                          why things are as they are now\n"
        "  patchctl explain --task groceries         of one task alone\n"
        "  patchctl explain --request 3f2a9c10-7     what became of a prediction\n"
        "  patchctl explain --at 14:05               ... at five past two today\n"
        "  patchctl explain --at 2026-11-30T14:05    ... on that day\n"
        "  patchctl explain --at -10m                ... ten minutes ago\n"
        "  patchctl explain --json | jq '.rules[] | select(.matches).rule'\n\n"
        "A prediction's answer carries its request id, and `patchctl infer` prints it. docs/explain.md tells how to\n"
        "read an explanation, and what its JSON holds."
    ),
)
@click.option("--decision", metavar="ID", help="Explain this decision.")
@click.option("--request", metavar="ID", help="Explain what became of this prediction, and the decision it obeyed.")
@click.option("--at", "at_s", type=Moment(), metavar="TIME", help="Explain the decision in force at a moment.")
@click.option("--task", metavar="TASK", help="Of this task alone.")
@json_option
@pass_settings
def explain(
    settings: Settings,
    decision: str | None,
    request: str | None,
    at_s: float | None,
    task: str | None,
    as_json: bool,
) -> None:
    """Tell why the allocations, resolutions and the training plan are what they are, or were."""
    if sum(given is not None for given in (decision, request, at_s)) > 1:
        raise click.UsageError("--decision, --request and --at exclude each other.")
    if request is not None and task is not None:
        raise click.UsageError("--request and --task exclude each other: a prediction belongs to one task.")
    with settings.client() as client:
        if as_json:
            query = {"decision": decision, "request": request, "at": at_s, "task": task}
            print_body(client.request("GET", "/v1/explain", query=query))
            return
        click.echo(explain_text(client.explain(decision=decision, request=request, at_s=at_s, task=task)))


def explain_text(answer: Explain) -> str:
    """An explanation as text: what it is of, then section by section."""
    pairs = []
    if answer.decision is not None:
        pairs.append(("decision", f"{answer.decision.id}, taken {render.clock(answer.decision.time_s)}"))
    if answer.policy is not None:
        pairs.append(("policy", policy_line(answer.policy)))
    pairs.append(("as of", answer.as_of))
    parts = [render.fields(pairs)]
    for section in answer.sections:
        table = _signals(answer) if section.key == "signals" and answer.signals else None
        parts.append(_section(section, table))
    return "\n".join(parts)


def _section(section: Section, table: str | None) -> str:
    """A section under its heading; a table may stand in place of its items."""
    items = section.items if table is None else ()
    told = render.sentences((*section.sentences, *(f"  {item}" for item in items)))
    return "\n".join(part for part in (render.heading(section.heading), table, told) if part)


def _signals(answer: Explain) -> str:
    """The signals that there are; `patchctl signals` tells more of each."""
    rows = [
        (each.name, value_text(each.value, each.unit), render.duration(each.age_s or 0.0), each.source or "")
        for each in answer.signals
        if each.value is not None
    ]
    return render.table(("signal", "value", "age", "where it is read"), rows, right=(1, 2))
