"""`patchctl signal`: signals of your own, posted for policies to act on."""

from __future__ import annotations

import click

from .common import Settings, json_option, pass_settings, print_body


@click.group()
def signal() -> None:
    """Post signals of your own, which policies may act on, and remove them."""


@signal.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl signal post app.people 3 --unit people --meaning 'people in view'\n"
        "  patchctl signal post app.meeting 1 --unit '0 or 1' --ttl 3600\n\n"
        'A policy names it like any other signal: when = [{ signal = "app.people", above = 0.5 }]'
    )
)
@click.argument("name")
@click.argument("value", type=float)
@click.option("--unit", default="", help="Its unit; 'share' is from 0 to 1, '0 or 1' is one of the two.")
@click.option("--meaning", default="", help="What it is, in a few words.")
@click.option(
    "--ttl", type=float, default=60.0, show_default=True, metavar="SECONDS", help="It is absent so long after this."
)
@json_option
@pass_settings
def post(settings: Settings, name: str, value: float, unit: str, meaning: str, ttl: float, as_json: bool) -> None:
    """Post VALUE as the signal NAME, which begins with 'app.'; post it again before it expires."""
    from pydantic import ValidationError

    try:
        with settings.client() as client:
            body = client.raw.post_signal(name, value, unit=unit, meaning=meaning, ttl_s=ttl)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = {"ttl_s": "--ttl", "value": "VALUE"}.get(str(first["loc"][0]), f"--{first['loc'][0]}")
        raise click.UsageError(f"{option} is {first['input']!r}: {first['msg']}.") from error
    if as_json:
        print_body(body)
        return
    click.echo(f"{name} is {value:g}{f' {unit}' if unit else ''} for {ttl:g} s.")


@signal.command(epilog="\b\nExample:\n  patchctl signal rm app.people")
@click.argument("name")
@json_option
@pass_settings
def rm(settings: Settings, name: str, as_json: bool) -> None:
    """Remove a posted signal before it expires."""
    with settings.client() as client:
        body = client.raw.remove_signal(name)
    if as_json:
        print_body(body)
        return
    click.echo(f"{name} is removed.")
