"""`patchctl examples`: hand over labelled images of this device's user, look at them, and take them back."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click

from ...policies.errors import BadInputError, TooLargeError
from ..media_types import SUFFIXES, media_type
from . import render
from .accuracy import image_files
from .common import Settings, exit_code, json_option, pass_settings, print_body, report
from .patch import read_bytes, write_whole

if TYPE_CHECKING:
    from ..api.example_schemas import ExampleList, ExamplesDeleted

DAY_S = 86_400.0


@click.group()
def examples() -> None:
    """Teach a task with images of your own. They stay on this device; the policy has to allow it ([examples])."""


@examples.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl examples add groceries --label Apple apple1.jpg apple2.jpg\n"
        "  patchctl examples add groceries --label Apple photos/apples/\n\n"
        "A directory stands for all images below it. An image that is here already gets the new label."
    )
)
@click.argument("task")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--label", required=True, metavar="L", help="What the images show: one of the task's labels.")
@click.option("as_json", "--json", is_flag=True, help="Print the API's answers as they came, one line a file.")
@pass_settings
def add(settings: Settings, task: str, files: tuple[Path, ...], label: str, as_json: bool) -> None:
    """Hand over images and what they show. The next training of the task learns from them."""
    found = image_files(files)
    code = taken = 0
    with settings.client() as client:
        for file in found:
            try:
                body = client.raw.add_example(task, label, read_bytes(file))
            except (BadInputError, TooLargeError) as error:
                if label not in client.task(task).spec.labels:
                    raise  # every further image would meet the same
                code = code or exit_code(error)
                report(type(error)(f"{file}: {error.message}", hint=error.hint))
                continue
            taken += 1
            if as_json:
                print_body(body)
    if not as_json:
        click.echo(f"{taken} of {len(found)} images are examples of '{label}' now.")
    if code:
        sys.exit(code)


@examples.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl examples correct groceries --label Apple --request 6921c3a4-12\n"
        "  patchctl examples correct groceries --label Apple photo.jpg\n\n"
        "`patchctl infer` shows the request id of each answer. Images are remembered for ten minutes at most."
    )
)
@click.argument("task")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--label", required=True, metavar="L", help="What was really to be seen.")
@click.option("--request", metavar="ID", help="The request id of the answer that was wrong.")
@json_option
@pass_settings
def correct(settings: Settings, task: str, file: Path | None, label: str, request: str | None, as_json: bool) -> None:
    """Say what an image really shows. It becomes an example."""
    if (file is None) == (request is None):
        raise click.UsageError("Give either FILE or --request.")
    image = None if file is None else read_bytes(file)
    with settings.client() as client:
        body = client.raw.correct(task, label, request=request, image=image)
    if as_json:
        print_body(body)
    else:
        click.echo(f"Noted: '{label}'. The next training of task '{task}' learns from it.")


@examples.command("list", epilog="\b\nExample:\n  patchctl examples list groceries")
@click.argument("task")
@json_option
@pass_settings
def list_(settings: Settings, task: str, as_json: bool) -> None:
    """List your examples of a task; those of all users for administrators."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.examples(task))
        else:
            click.echo(list_text(client.examples(task)))


@examples.command(
    epilog="\b\nExamples:\n  patchctl examples rm groceries ex-6f0d2a7c91be\n  patchctl examples rm groceries --all"
)
@click.argument("task")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that `list` shows.")
@click.option("as_json", "--json", is_flag=True, help="Print the API's answers as they came, one line each.")
@pass_settings
def rm(settings: Settings, task: str, ids: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Delete examples for good. Patches that have learned from them are named: they do not unlearn."""
    from ..api.example_schemas import ExamplesDeleted

    if everything == bool(ids):
        raise click.UsageError("Give either ids or --all.")
    deleted, patches = 0, dict[str, None]()
    with settings.client() as client:
        raw = client.raw
        for body in [raw.remove_examples(task)] if everything else (raw.remove_example(task, each) for each in ids):
            answer = ExamplesDeleted.model_validate_json(body)
            deleted += answer.deleted
            patches.update(dict.fromkeys(answer.patches))
            if as_json:
                print_body(body)
    if not as_json:
        click.echo(deleted_text(ExamplesDeleted(task=task, deleted=deleted, patches=tuple(patches))))


@examples.command(epilog="\b\nExample:\n  patchctl examples export groceries backup")
@click.argument("task")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
@json_option
@pass_settings
def export(settings: Settings, task: str, folder: Path, as_json: bool) -> None:
    """Write your examples as DIR/LABEL/ID.jpg, and DIR/examples.json with what is known of them."""
    with settings.client() as client:
        body = client.raw.examples(task)
        listed = client.examples(task)
        for example in listed.examples:
            image = client.example_image(task, example.id)
            target = folder / quote(example.label, safe=" ,()")
            try:
                target.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInputError(f"{target}: cannot be made: {error.strerror}.") from error
            write_whole(target / f"{example.id}{SUFFIXES.get(media_type(image) or '', '.bin')}", image)
        if listed.examples:
            write_whole(folder / "examples.json", body)
    if as_json:
        print_body(body)
    else:
        click.echo(f"{len(listed.examples)} examples written to {folder}.")


def list_text(listed: ExampleList) -> str:
    """The examples of a task, as text."""
    rows = [
        (
            example.id,
            render.bytes_(example.bytes),
            example.source,
            example.part,
            f"{max(0.0, example.expires_s - time.time()) / DAY_S:.0f} d",
            example.label,
        )
        for example in listed.examples
    ]
    header = ("id", "size", "source", "part", "left", "label")
    told = [
        f"{listed.images} of {listed.most_images} images and {render.bytes_(listed.bytes)} of "
        f"{render.bytes_(listed.most_bytes)} that the policy keeps for task '{listed.task}'."
    ]
    if not listed.used:
        told.append("They are not used for training: the policy gives no consent (consent in [examples]).")
    return f"{render.table(header, rows, right=(1, 4)) or 'No examples.'}\n\n{render.sentences(told)}"


def deleted_text(deleted: ExamplesDeleted) -> str:
    """What was deleted, and what has learned from it."""
    lines = [f"{deleted.deleted} examples of task '{deleted.task}' are deleted."]
    if deleted.patches:
        named = ", ".join(render.short(patch) for patch in deleted.patches)
        lines.append(
            f"Patches trained with examples of this task stay, and may have learned from these: {named}. "
            "Remove them with `patchctl patch rm` if they must not."
        )
    return render.sentences(lines)
