"""`patchctl base`: list, show and remove base versions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import render
from .common import Settings, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ..api.schemas import BaseUse, BaseView


@click.group()
def base() -> None:
    """List, show and remove bases: the packaged ones, and the versions that tasks trained together made of them."""


@base.command("list", epilog="\b\nExample:\n  patchctl base list")
@json_option
@pass_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List the packaged bases and their versions, with the tasks that answer on each."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.bases())
            return
        rows = [
            (
                view.name,
                "packaged" if view.bytes is None else render.bytes_(view.bytes),
                ", ".join(use.task for use in view.used_by) or render.ABSENT,
                ", ".join(use.task for use in view.ready) or render.ABSENT,
                render.ABSENT if view.metadata is None else render.clock(view.metadata.created_s),
            )
            for view in client.bases().bases
        ]
        click.echo(render.table(("base", "file", "used by", "could move here", "created"), rows, right=(1,)))


@base.command(epilog="\b\nExample:\n  patchctl base show lite0@3fa9c01d")
@click.argument("name")
@json_option
@pass_settings
def show(settings: Settings, name: str, as_json: bool) -> None:
    """Show a base. What it was made of, by which tasks, and who uses it."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.base(name))
            return
        click.echo(base_text(client.base(name)))


@base.command(epilog="\b\nExample:\n  patchctl base rm lite0@3fa9c01d")
@click.argument("name")
@json_option
@pass_settings
def rm(settings: Settings, name: str, as_json: bool) -> None:
    """Delete a base version that nobody uses, with the patches made for it."""
    with settings.client() as client:
        body = client.raw.remove_base(name)
        if as_json:
            print_body(body)
        else:
            click.echo(f"Base version {name} deleted.")


def base_text(view: BaseView) -> str:
    """A base, as text."""
    pairs = [("base", view.name), ("packaged", view.packaged)]
    if (made := view.metadata) is not None:
        pairs += [
            ("made of", f"{made.parent}, sha256 {render.short(made.parent_hash)}"),
            ("by tasks", ", ".join(made.tasks)),
            ("in job", made.job_id),
            ("created", render.clock(made.created_s)),
            ("differs in", f"{made.parameters} parameters"),
            ("file", f"{render.bytes_(view.bytes or 0)}, sha256 {render.short(view.sha256 or '')}"),
            ("network", f"sha256 {render.short(made.hash)}"),
        ]
    pairs += [
        ("used by", _uses(view.used_by)),
        ("could move here", _uses(view.ready)),
        ("jobs", ", ".join(view.jobs) or "none"),
    ]
    return render.fields(pairs)


def _uses(uses: tuple[BaseUse, ...]) -> str:
    told = [f"{use.task} ({', '.join(map(str, use.resolutions)) or 'no'} px)" for use in uses]
    return ", ".join(told) or "none"
