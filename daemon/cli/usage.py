"""`patchctl train usage`: what training used, by day and job."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import render
from .common import Settings, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ...policies.training_use import TrainingUse
    from ..api.training_schemas import TrainingUsage


@click.command(
    epilog="\b\nExamples:\n  patchctl train usage\n  patchctl train usage --days 30 --json | jq .use.cpu_seconds"
)
@click.option(
    "--days", type=click.IntRange(1, 400), default=7, show_default=True, help="So many local days, today included."
)
@json_option
@pass_settings
def usage(settings: Settings, days: int, as_json: bool) -> None:
    """Show what training used, by day and job: processor time, images, energy."""
    with settings.client() as client:
        if as_json:
            print_body(client.request("GET", "/v1/training/usage", query={"days": days}))
            return
        click.echo(usage_text(client.training_usage(days), days))


def usage_text(told: TrainingUsage, days: int) -> str:
    """One line a day, with its jobs below it, and what is left of today's limit."""
    rows = []
    for day in told.days:
        rows.append((f"{day.day:%a} {day.day}", *_cells(day.use)))
        rows.extend((f"  {each.job}", *_cells(each.use)) for each in day.jobs)
    if len(told.days) > 1:
        rows.append(("in all", *_cells(told.use)))
    header = ("day, job", "processor", "in slices", "slices", "images", "energy")
    table = render.table(header, rows, right=(1, 2, 3, 4, 5))
    return (table or f"Nothing was trained in the last {days} days.") + "\n" + limit_line(told)


def limit_line(told: TrainingUsage) -> str:
    """What the policy's daily limit leaves of today."""
    used = told.today_cpu_seconds
    if told.max_minutes_per_day is None:
        return f"Today {render.duration(used)} of processor time; the policy sets no daily limit."
    left = max(0.0, told.max_minutes_per_day * 60 - used)
    of = render.duration(told.max_minutes_per_day * 60)
    return f"Today {render.duration(used)} of the policy's {of} of processor time; {render.duration(left)} left."


def energy(use: TrainingUse) -> str:
    """Energy by where it was read; '-' on a machine that tells none."""
    parts = []
    if use.rapl_joules is not None:
        parts.append(joules(use.rapl_joules))
    if use.battery_joules is not None:
        parts.append(f"{joules(use.battery_joules)} of battery")
    return ", ".join(parts) or render.ABSENT


def joules(value: float) -> str:
    """12345 -> '12.3 kJ'."""
    return f"{value:.3g} J" if value < 1000 else f"{value / 1000:.3g} kJ" if value < 1e6 else f"{value / 1e6:.3g} MJ"


def _cells(use: TrainingUse) -> tuple[str, str, str, str, str]:
    return (
        render.duration(use.cpu_seconds),
        render.duration(use.seconds),
        str(use.slices),
        str(use.samples),
        energy(use),
    )
