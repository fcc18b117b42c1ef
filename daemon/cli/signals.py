"""`patchctl signals`: what the monitor reads, where, how long ago, and why the rest is absent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...policies.errors import NotFoundError
from . import render
from .common import Settings, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ...policies.signal_readings import SignalReading
    from ..api.signal_schemas import ConsumerList, SignalList


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl signals                       all of them\n"
        "  patchctl signals memory battery        only those of memory and of the battery\n"
        "  patchctl signals --busiest             which other programs use the processors\n"
        "  patchctl signals --json | jq -r '.signals[] | select(.value == null) | .name'\n\n"
        "These are the names that the conditions of a policy speak of. Not every machine has all: a condition on a "
        "signal that is absent never holds."
    )
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--busiest", is_flag=True, help="Watch for a second which other programs use most of the processors.")
@json_option
@pass_settings
def signals(settings: Settings, names: tuple[str, ...], busiest: bool, as_json: bool) -> None:
    """Show the device's signals: value, unit, age, source, or why they are absent.

    A NAME is a signal's, or the first words of several: 'pressure.own', 'cpu'.
    """
    if busiest and names:
        raise click.UsageError("--busiest tells of programs, not of signals; leave the names out.")
    with settings.client() as client:
        body = client.raw.consumers() if busiest else client.raw.signals()
    if as_json and not names:
        print_body(body)
        return
    from ..api.signal_schemas import ConsumerList, SignalList

    if busiest:
        click.echo(busiest_text(ConsumerList.model_validate_json(body)))
        return
    told = SignalList.model_validate_json(body)
    wanted = told.model_copy(update={"signals": _named(told.signals, names)})
    click.echo(wanted.model_dump_json() if as_json else signals_text(wanted))


def _named(told: tuple[SignalReading, ...], names: tuple[str, ...]) -> tuple[SignalReading, ...]:
    """Those that are asked for, all without names. Raises NotFoundError for a name that nothing has."""
    for name in names:
        if not any(_is(each, name) for each in told):
            words = ", ".join(dict.fromkeys(each.name.partition(".")[0] for each in told))
            raise NotFoundError(f"There is no signal '{name}'.", hint=f"They begin with {words}.")
    return tuple(each for each in told if not names or any(_is(each, name) for name in names))


def _is(reading: SignalReading, name: str) -> bool:
    return reading.name == name or reading.name.startswith(f"{name}.")


def signals_text(told: SignalList) -> str:
    """A table of those there are, and one of those that are absent."""
    present = [each for each in told.signals if each.value is not None]
    absent = [each for each in told.signals if each.value is None]
    parts = []
    if told.source != "device":
        parts.append(f"In place of the device: {told.source}.")
    if present:
        rows = [
            (each.name, value_text(each.value or 0.0, each.unit), render.duration(each.age_s or 0.0), _told(each))
            for each in present
        ]
        parts.append(render.table(("signal", "value", "age", "what it is, and where it is read"), rows, right=(1, 2)))
    if absent:
        gone = [(each.name, each.absent_because or "") for each in absent]
        parts.append(render.heading("Absent"))
        parts.append(render.table(("signal", "because"), gone))
    return "\n".join(parts)


def busiest_text(told: ConsumerList) -> str:
    """A table of programs, the busiest first."""
    rows = [(each.name, f"{each.cpu_cores:.2f}", str(each.processes)) for each in told.consumers]
    table = render.table(("program", "cores", "processes"), rows, right=(1, 2))
    return table or "No other program uses the processors now."


def value_text(value: float, unit: str) -> str:
    """A signal's value as people write it."""
    if unit == "0 or 1":
        return "true" if value >= 0.5 else "false"
    if unit == "share":
        return f"{value:.3f}"
    if unit == "bytes":
        return render.bytes_(value)
    if unit == "seconds":
        return render.duration(value)
    if unit == "degrees Celsius":
        return f"{value:.1f} °C"
    short = {"tasks per core": "", "watts": "W"}.get(unit, unit)
    return f"{value:.4g} {short}".rstrip()


def _told(reading: SignalReading) -> str:
    where = f" ({reading.source})" if reading.source else ""
    return f"{reading.meaning}{where}"
