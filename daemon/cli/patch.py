"""`patchctl patch`: list, show, export, import, roll back and remove patches."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...policies.errors import BadInputError
from . import render
from .common import Settings, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ...policies.task import ExportReport, PatchKind, PatchMetadata, TrainingRecord
    from ..api.schemas import PatchView

PATCH = "patch"
FORMATS = (PATCH, "safetensors", "onnx", "openvino", "adapter")


@click.group()
def patch() -> None:
    """List, show, export, import, roll back and remove patches. ID may be any unique beginning of a patch's id."""


@patch.command("list", epilog="\b\nExample:\n  patchctl patch list --task digits")
@click.option("--task", metavar="T", help="Only the patches of this task.")
@json_option
@pass_settings
def list_(settings: Settings, task: str | None, as_json: bool) -> None:
    """List the stored patches. * marks those in force."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.patches(task))
            return
        rows = [
            (
                "*" if view.in_force else "",
                render.short(view.id),
                view.metadata.task,
                view.metadata.base,
                f"{view.metadata.resolution} px",
                str(view.metadata.parameters),
                render.percent(view.share, 2),
                render.percent(_accuracy(view), 1),
                "+".join(view.metadata.kinds),
            )
            for view in client.patches(task).patches
        ]
        header = ("", "id", "task", "base", "input", "params", "of base", "acc", "kinds")
        click.echo(render.table(header, rows, right=(4, 5, 6, 7)) or "No patches.")


@patch.command(epilog="\b\nExample:\n  patchctl patch show 4be1")
@click.argument("patch_id", metavar="ID")
@json_option
@pass_settings
def show(settings: Settings, patch_id: str, as_json: bool) -> None:
    """Show a patch. What it changes, how it was trained, how good it is."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.patch(patch_id))
            return
        click.echo(patch_text(client.patch(patch_id)))


@patch.command(
    epilog="\b\nExamples:\n  patchctl patch export 4be1 -o digits-96.safetensors\n"
    "  patchctl patch export 4be1 --format onnx -o digits-96.onnx"
)
@click.argument("patch_id", metavar="ID")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE", help="Where to."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default=PATCH,
    show_default=True,
    help="patch: the patch file, for another patchd. safetensors, onnx, openvino: the whole model with the patch "
    "folded in, for use without patchd. adapter: the patch's tensors as PEFT reads them. See docs/patches.md.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@json_option
@pass_settings
def export(settings: Settings, patch_id: str, output: Path, form: str, force: bool, as_json: bool) -> None:
    """Write a patch, or the model that it makes of its base, to a file."""
    from ...policies.task import ExportFormat

    if output.exists() and not force:
        raise BadInputError(f"{output} is there already.", hint="Name another file, or overwrite it with --force.")
    with settings.client() as client:
        if form == PATCH:
            data, view = client.patch_file(patch_id), None
        else:
            view = client.export_patch(patch_id, ExportFormat(form))
            data = client.export_file(view.name)
    write_whole(output, data)
    if as_json:
        report = None if view is None else view.report.model_dump()
        click.echo(json.dumps({"file": str(output), "bytes": len(data), "report": report}))
        return
    click.echo(f"{output}: {render.bytes_(len(data))} written.")
    if view is not None:
        click.echo(report_text(view.report), nl=False)


def report_text(report: ExportReport) -> str:
    """What was folded, and what was not, with the reasons; empty for a form that folds nothing."""
    lines = [f"Folded into their neighbours: {len(report.folded)} layers."] if report.folded else []
    reasons: dict[str, list[str]] = {}
    for part in report.kept:
        reasons.setdefault(part.why, []).append(part.path)
    for why, paths in reasons.items():
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        lines.append(f"Not folded: {paths[0]}{more}: {why}.")
    return "".join(f"{line}\n" for line in lines)


@patch.command("import", epilog="\b\nExample:\n  patchctl patch import digits-96.safetensors")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@pass_settings
def import_(settings: Settings, file: Path, as_json: bool) -> None:
    """Store a patch file. Refused unless it fits the base and the task that it names."""
    data = read_bytes(file)
    with settings.client() as client:
        if as_json:
            print_body(client.raw.import_patch(data))
            return
        view = client.import_patch(data)
        click.echo(f"Patch {render.short(view.id)} of task '{view.metadata.task}' stored.")


@patch.command(epilog="\b\nExample:\n  patchctl patch rollback digits --resolution 96")
@click.argument("task", metavar="TASK")
@click.option("--base", metavar="B", help="Rungs of this base.  [default: the task's own]")
@click.option("--resolution", type=int, metavar="PX", help="This rung alone.  [default: all that had one before]")
@json_option
@pass_settings
def rollback(settings: Settings, task: str, base: str | None, resolution: int | None, as_json: bool) -> None:
    """Put the patch that was in force before in force again.

    A rung whose first patch took the place of the base as it is goes back to that. What is taken back stays stored.
    """
    with settings.client() as client:
        done = client.roll_back(task, base, resolution)
        if as_json:
            print_body(done.model_dump_json().encode())
            return
        for rung in done.rungs:
            now = "the base as it is" if rung.patch_id is None else f"patch {render.short(rung.patch_id)}"
            out = "" if rung.taken_back is None else f", not patch {render.short(rung.taken_back)}"
            click.echo(f"{rung.base} at {rung.resolution} px: {now} answers again{out}.")


@patch.command(epilog="\b\nExample:\n  patchctl patch rm 4be1")
@click.argument("patch_id", metavar="ID")
@json_option
@pass_settings
def rm(settings: Settings, patch_id: str, as_json: bool) -> None:
    """Delete a patch."""
    with settings.client() as client:
        body = client.raw.remove_patch(patch_id)
        if as_json:
            print_body(body)
        else:
            click.echo(f"Patch {patch_id} deleted.")


def read_bytes(file: Path) -> bytes:
    """The file's content. Raises BadInputError naming the file."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadInputError(f"{file}: cannot be read: {error.strerror}.") from error


def write_whole(file: Path, data: bytes) -> None:
    """Write a file completely or not at all. Raises BadInputError naming the file."""
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(temporary).chmod(0o644)
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise BadInputError(f"{file}: cannot be written: {error.strerror}.") from error


def patch_text(view: PatchView) -> str:
    """A patch, as text."""
    meta = view.metadata
    pairs = [
        ("patch", view.id),
        ("task", meta.task),
        ("input", f"{meta.resolution} px"),
        ("in force", "yes" if view.in_force else "no"),
        ("kinds", ", ".join(meta.kinds)),
        ("parameters", f"{meta.parameters} ({render.percent(view.share, 2)} of the base's {meta.base_parameters})"),
        *(_kind_row(kind, count, meta) for kind, count in meta.parameters_by_kind.items()),
        ("file", render.bytes_(view.bytes)),
        ("base", f"{meta.base}, sha256 {render.short(meta.base_hash)}"),
        ("labels", str(len(meta.labels))),
        ("created", render.clock(meta.created_s)),
    ]
    if record := meta.training:
        loss = "" if record.final_loss is None else f", final loss {record.final_loss:.3f}"
        pairs += [
            (
                "trained",
                f"{record.epochs} epochs, {record.steps} steps, {record.train_samples} images{_of_users(record)}, "
                f"batch {record.batch_size}, rate {record.learning_rate:g}, seed {record.seed}{loss}",
            ),
            ("took", f"{render.duration(record.seconds)} in job {record.job_id}"),
            ("validation", render.accuracy(record.validation)),
            ("test", render.accuracy(record.test)),
        ]
    return render.fields(pairs)


def _of_users(record: TrainingRecord) -> str:
    return f" ({record.examples} of them handed over by applications)" if record.examples else ""


def _kind_row(kind: PatchKind, count: int, meta: PatchMetadata) -> tuple[str, str]:
    """What one kind adds, and the options that it was given."""
    options = meta.options.get(kind)
    given = {} if options is None else options.model_dump(exclude_none=True)
    shown = ", ".join(f"{key} {value}" for key, value in given.items())
    share = render.percent(count / meta.base_parameters, 2)
    return f"  {kind}", f"{count} ({share} of the base)" + (f"; {shown}" if shown else "")


def _accuracy(view: PatchView) -> float | None:
    record = view.metadata.training
    if record is None:
        return None
    return (record.test or record.validation).accuracy
