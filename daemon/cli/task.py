"""`patchctl task`: add, list, show and remove tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...policies.errors import BadInputError
from ..client import WORK_TIMEOUT_S
from . import render
from .common import Settings, Sides, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ..api.schemas import TaskView


@click.group()
def task() -> None:
    """Add, list, show and remove tasks: what a patched network is used for."""


@task.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl task add digits --data sklearn:digits --resolutions 128,96,64 --crop 1.0\n"
        "  patchctl task add groceries --data ./grocery\n\n"
        "A data set is 'sklearn:digits', or a directory of train/CLASS/*.jpg and test/CLASS/*.jpg."
    )
)
@click.argument("name")
@click.option("--data", metavar="D", help="The data set: 'sklearn:digits' or a directory.")
@click.option("--base", default="lite0", show_default=True, help="The base network: lite0, lite1 or lite2.")
@click.option("--resolutions", type=Sides(), metavar="PX,PX", help="The rungs, pixels.  [default: 224,192,160,128,96]")
@click.option(
    "--crop",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.875,
    show_default=True,
    help="Side of the centre crop over the image's short side.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="L", help="A label; give it once for each.  [default: the data's]"
)
@json_option
@pass_settings
def add(
    settings: Settings,
    name: str,
    data: str | None,
    base: str,
    resolutions: tuple[int, ...] | None,
    crop: float,
    labels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add the task NAME (lower case, digits, - and _). Its labels come from the data set unless given."""
    from pydantic import ValidationError

    from ...policies.task import Preprocessing
    from ..api.schemas import TaskCreate

    if data is None and len(labels) < 2:
        raise click.UsageError("A task needs --data, or at least two --label.")
    preprocessing = Preprocessing(crop_fraction=crop)
    source = data_source(data)
    try:
        body = TaskCreate(name=name, data=source, base=base, labels=labels, preprocessing=preprocessing)
    except ValidationError as error:
        raise BadInputError(
            f"'{name}' is no task name.", hint="Use 1 to 64 lower-case letters, digits, - and _, the first no sign."
        ) from error
    if resolutions is not None:
        body = body.model_copy(update={"resolutions": resolutions})
    with settings.client() as client:
        if as_json:
            sent = body.model_dump_json().encode()
            print_body(client.request("POST", "/v1/tasks", body=sent, timeout_s=WORK_TIMEOUT_S))
            return
        view = client.add_task(body)
        sides = ", ".join(str(side) for side in view.spec.resolutions)
        click.echo(f"Task '{view.spec.name}' added: {len(view.spec.labels)} labels, rungs at {sides} px.")


@task.command("list", epilog="\b\nExample:\n  patchctl task list")
@json_option
@pass_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List the tasks."""
    with settings.client() as client:
        if as_json:
            print_body(client.request("GET", "/v1/tasks"))
            return
        rows = [
            (
                view.spec.name,
                view.spec.base,
                str(len(view.spec.labels)),
                ",".join(str(side) for side in view.spec.resolutions),
                str(len(view.ladder.rungs) if view.ladder else 0),
                str(view.predictions),
                view.spec.data or ("built in" if view.spec.builtin else render.ABSENT),
            )
            for view in client.tasks().tasks
        ]
        header = ("task", "base", "labels", "resolutions", "ready", "predictions", "data")
        click.echo(render.table(header, rows, right=(2, 4, 5)) or "No tasks.")


@task.command(epilog="\b\nExample:\n  patchctl task show imagenet")
@click.argument("name")
@json_option
@pass_settings
def show(settings: Settings, name: str, as_json: bool) -> None:
    """Show a task with its ladder: each rung's measured cost and accuracy."""
    from urllib.parse import quote

    with settings.client() as client:
        if as_json:
            print_body(client.request("GET", f"/v1/tasks/{quote(name, safe='')}"))
            return
        click.echo(task_text(client.task(name)))


@task.command(epilog="\b\nExample:\n  patchctl task rm digits")
@click.argument("name")
@json_option
@pass_settings
def rm(settings: Settings, name: str, as_json: bool) -> None:
    """Remove a task with its patches and jobs."""
    from urllib.parse import quote

    with settings.client() as client:
        body = client.request("DELETE", f"/v1/tasks/{quote(name, safe='')}")
        if as_json:
            print_body(body)
        else:
            click.echo(f"Task '{name}' removed.")


def data_source(data: str | None) -> str | None:
    """A directory as an absolute path, for the daemon has another working directory; a named set as it is."""
    if data is None or (":" in data and not Path(data).exists()):
        return data
    if not Path(data).is_dir():
        raise BadInputError(f"The data set {data} is no directory.", hint="Give a directory, or 'sklearn:digits'.")
    return os.fspath(Path(data).absolute())


def task_text(view: TaskView) -> str:
    """A task with its ladder, as text."""
    spec = view.spec
    shown = ", ".join(spec.labels[:12]) + (f", ... ({len(spec.labels)} in all)" if len(spec.labels) > 12 else "")
    parts = [
        render.fields(
            [
                ("task", spec.name + (" (built in)" if spec.builtin else "")),
                ("base", spec.base),
                ("data", spec.data or render.ABSENT),
                ("labels", shown),
                ("crop", f"{spec.preprocessing.crop_fraction:g} of the short side"),
                ("created", render.clock(view.created_s)),
                ("predictions", str(view.predictions)),
            ]
        )
    ]
    if view.ladder is None:
        parts.append(f"\nNo rung can answer yet: train with `patchctl train submit --task {spec.name} --follow`.")
    else:
        rows = [
            (
                f"{rung.resolution} px",
                render.short(rung.patch_id) if rung.patch_id else "base",
                render.milliseconds(rung.cost_ms),
                render.percent(rung.accuracy, 1),
                str(rung.accuracy_samples or render.ABSENT),
            )
            for rung in view.ladder.rungs
        ]
        parts += [
            render.heading("Ladder"),
            render.table(("input", "patch", "cost", "accuracy", "on images"), rows, right=(0, 2, 3, 4)),
        ]
    return "\n".join(parts)
