"""`patchctl task`: add, list, show and remove tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...client.daemon_methods import WORK_TIMEOUT_S
from ...policies.errors import BadInputError
from . import render
from .common import BaseSides, Settings, Sides, Words, json_option, pass_settings, print_body, refusal

if TYPE_CHECKING:
    from ...policies.decision import Rung
    from ..api.schemas import TaskView


CHANGES = ("flip", "shift", "crop", "colour")  # as in `Change`, which is dear to import


@click.group()
def task() -> None:
    """Add, list, show and remove tasks: what a patched network is used for."""


@task.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl task add digits --data sklearn:digits --resolutions 128,96,64 --crop 1.0\n"
        "  patchctl task add groceries --data ./grocery --augment flip,crop,colour\n"
        "  patchctl task add groceries --data ./grocery --also lite1:240 --also lite2:260,224\n\n"
        "A data set is 'sklearn:digits', or a directory of train/CLASS/*.jpg and test/CLASS/*.jpg."
    )
)
@click.argument("name")
@click.option("--data", metavar="D", help="The data set: 'sklearn:digits' or a directory.")
@click.option("--base", default="lite0", show_default=True, help="The base network: lite0, lite1 or lite2.")
@click.option("--resolutions", type=Sides(), metavar="PX,PX", help="The rungs, pixels.  [default: 224,192,160,128,96]")
@click.option(
    "--also",
    "others",
    type=BaseSides(),
    multiple=True,
    metavar="B:PX,PX",
    help="Rungs of another base, for cascades; give it once for each base.",
)
@click.option(
    "--crop",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.875,
    show_default=True,
    help="Side of the centre crop over the image's short side.",
)
@click.option(
    "--augment",
    type=Words(CHANGES),
    default=(),
    metavar="C,C",
    help=f"Change training images, anew in every epoch: any of {', '.join(CHANGES)}.  [default: none]",
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
    others: tuple[tuple[str, tuple[int, ...]], ...],
    crop: float,
    augment: tuple[str, ...],
    labels: tuple[str, ...],
    as_json: bool,
) -> None:
    """Add the task NAME (lower case, digits, - and _). Its labels come from the data set unless given."""
    from pydantic import ValidationError

    from ...policies.task import BaseRungs, Change, Preprocessing
    from ..api.schemas import TaskCreate

    if data is None and len(labels) < 2:
        raise click.UsageError("A task needs --data, or at least two --label.")
    source = data_source(data)
    try:
        body = TaskCreate(
            name=name,
            data=source,
            base=base,
            others=tuple(BaseRungs(base=other, resolutions=sides) for other, sides in others),
            labels=labels,
            preprocessing=Preprocessing(crop_fraction=crop),
            augmentation=tuple(Change(each) for each in augment),
        )
    except ValidationError as error:
        if error.errors()[0]["loc"] != ("name",):
            raise refusal(error) from error
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
        rungs = "; ".join(
            f"{'rungs' if base == view.spec.base else base} at {', '.join(map(str, sides))} px"
            for base, sides in view.spec.bases.items()
        )
        click.echo(f"Task '{view.spec.name}' added: {len(view.spec.labels)} labels, {rungs}.")


@task.command("list", epilog="\b\nExample:\n  patchctl task list")
@json_option
@pass_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List the tasks."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.tasks())
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
    """Show a task with its rungs: each one's measured cost and accuracy."""

    with settings.client() as client:
        if as_json:
            print_body(client.raw.task(name))
            return
        click.echo(task_text(client.task(name)))


@task.command(epilog="\b\nExample:\n  patchctl task rm digits")
@click.argument("name")
@json_option
@pass_settings
def rm(settings: Settings, name: str, as_json: bool) -> None:
    """Remove a task with its patches and jobs."""

    with settings.client() as client:
        body = client.raw.remove_task(name)
        if as_json:
            print_body(body)
        else:
            click.echo(f"Task '{name}' removed.")


@task.command(
    epilog="\b\nExample:\n  patchctl task move digits --to lite0@3fa9c01d\n  patchctl task move digits --to lite0"
)
@click.argument("name")
@click.option("--to", required=True, metavar="B", help="A version of the task's base, or the packaged base.")
@json_option
@pass_settings
def move(settings: Settings, name: str, to: str, as_json: bool) -> None:
    """Have a task answer on another version of its base. Refused unless it has patches for it."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.move_task(name, to))
            return
        view = client.move_task(name, to)
        sides = ", ".join(str(rung.resolution) for rung in view.pool if rung.base == to)
        click.echo(f"Task '{name}' answers on {to} at {sides} px.")


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
                ("other bases", ", ".join(other.base for other in spec.others) or "none"),
                ("data", spec.data or render.ABSENT),
                ("labels", shown),
                ("crop", f"{spec.preprocessing.crop_fraction:g} of the short side"),
                ("augmentation", ", ".join(spec.augmentation) or "none"),
                ("created", render.clock(view.created_s)),
                ("predictions", str(view.predictions)),
            ]
        )
    ]
    if view.ladder is None:
        parts.append(f"\nNo rung can answer yet: train with `patchctl train submit --task {spec.name} --follow`.")
    else:
        parts += [render.heading("Ladder"), _rungs_table(view.ladder.rungs)]
    if spec.others:
        parts += [render.heading("Rungs of other bases, for cascades"), _others_table(view)]
    return "\n".join(parts)


def _rungs_table(rungs: tuple[Rung, ...]) -> str:
    """The ladder: rungs of the task's own base that can answer."""
    header = ("input", "patch", "cost", "accuracy", "on images")
    return render.table(header, [_cells(rung) for rung in rungs], right=(0, 2, 3, 4))


def _others_table(view: TaskView) -> str:
    """Every rung of the other bases, those without a patch included."""
    ready = {(rung.base, rung.resolution): rung for rung in view.pool}
    rows = []
    for other in view.spec.others:
        for side in sorted(other.resolutions):
            rung = ready.get((other.base, side))
            absent = (f"{side} px", "none yet", render.ABSENT, render.ABSENT, render.ABSENT)
            rows.append((other.base, *(absent if rung is None else _cells(rung))))
    return render.table(("base", "input", "patch", "cost", "accuracy", "on images"), rows, right=(1, 3, 4, 5))


def _cells(rung: Rung) -> tuple[str, str, str, str, str]:
    return (
        f"{rung.resolution} px",
        render.short(rung.patch_id) if rung.patch_id else "base",
        render.milliseconds(rung.cost_ms),
        render.percent(rung.accuracy, 1),
        str(rung.accuracy_samples or render.ABSENT),
    )
