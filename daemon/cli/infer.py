"""`patchctl infer`: classify images, and measure top-1 over a list of them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...client import Client
from ...policies.errors import BadInputError, BusyError, TooLargeError, WorkerCrashedError
from . import render
from .accuracy import Classes, Tally, image_files
from .common import Settings, Side, exit_code, pass_settings, print_body, report
from .patch import read_bytes

if TYPE_CHECKING:
    from ..api.schemas import InferAnswer

BUSY_ATTEMPTS = 6  # a list of images is patient: others' requests have priority over a measurement


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl infer --task imagenet photo.jpg\n"
        "  patchctl infer --task imagenet --resolution 96 --top 3 photo.jpg\n"
        "  patchctl infer --task imagenet --base lite2 --resolution 260 photo.jpg\n"
        "  patchctl infer --task digits --expect 7 seven.png      exit code 1 if it is taken for another\n"
        "  patchctl infer --task groceries --top1-from-dirs grocery/test\n"
        "  patchctl infer --task imagenet --top1-from-dirs --label-map index.tsv test\n\n"
        "A directory stands for all images below it (.jpg, .jpeg, .png, .webp, .bmp). A label map is a file of "
        "tab-separated lines, each with a label or its index in one column and other names of it in the others."
    )
)
@click.option("--task", required=True, metavar="T", help="The task to ask.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
@click.option("--top", "top_k", type=click.IntRange(1, 1000), default=5, show_default=True, help="Labels to show.")
@click.option("--resolution", type=Side(), metavar="PX", help="Use this rung, whatever the daemon would choose.")
@click.option("--base", metavar="B", help="Use a rung of this base of the task.  [default: its own]")
@click.option("--no-cascade", is_flag=True, help="Have one rung answer, as if the task had no cascade.")
@click.option(
    "--priority", type=click.IntRange(1, 3), default=2, show_default=True, help="1 goes before 2, and 2 before 3."
)
@click.option("--expect", metavar="LABEL", help="The label that every file should get; exit code 1 if one does not.")
@click.option("--top1-from-dirs", is_flag=True, help="Top-1 over files whose directory is named as their label.")
@click.option("--label-map", type=click.Path(path_type=Path), metavar="FILE", help="Other names of the labels.")
@click.option(
    "as_json",
    "--json",
    is_flag=True,
    help="Print the API's answers as they came, one line a file; with --top1-from-dirs, the summary.",
)
@pass_settings
def infer(
    settings: Settings,
    task: str,
    files: tuple[Path, ...],
    top_k: int,
    resolution: int | None,
    base: str | None,
    no_cascade: bool,
    priority: int,
    expect: str | None,
    top1_from_dirs: bool,
    label_map: Path | None,
    as_json: bool,
) -> None:
    """Classify images; show the labels, the rung used, where the time went, and why."""
    if expect is not None and top1_from_dirs:
        raise click.UsageError("--expect and --top1-from-dirs exclude each other.")
    if label_map is not None and not (expect or top1_from_dirs):
        raise click.UsageError("--label-map needs --expect or --top1-from-dirs.")
    found = image_files(files)
    asked = _Asked(task, top_k, resolution, base, not no_cascade, priority)
    with settings.client() as client:
        if top1_from_dirs:
            _top1(client, asked, found, label_map, as_json)
            return
        wanted: int | None = None
        if expect is not None:
            wanted = Classes(task, client.task(task).spec.labels, label_map).index(expect, "The expected label")
        code = _each(client, asked, found, wanted, as_json)
    if code:
        sys.exit(code)


@dataclass(frozen=True)
class _Asked:
    """What is asked of each image."""

    task: str
    top_k: int
    resolution: int | None
    base: str | None
    cascade: bool
    priority: int

    def body(self, client: Client, file: Path) -> bytes:
        """The answer for a file, as it came."""
        data = read_bytes(file)
        return client.raw.infer(
            self.task,
            data,
            top_k=self.top_k,
            resolution=self.resolution,
            base=self.base,
            cascade=self.cascade,
            priority=self.priority,
        )


def _each(client: Client, asked: _Asked, files: list[Path], wanted: int | None, as_json: bool) -> int:
    """Print the answer to each file; the exit code of the first failure, or 1 for an answer not expected."""
    from ..api.schemas import InferAnswer

    code = hits = 0
    for file in files:
        try:
            body = asked.body(client, file)
        except (BadInputError, TooLargeError, BusyError, WorkerCrashedError) as error:
            code = code or exit_code(error)
            report(type(error)(f"{file}: {error.message}", hint=error.hint, retry_after_s=error.retry_after_s))
            continue
        answer = InferAnswer.model_validate_json(body)
        right = None if wanted is None else answer.predictions[0].index == wanted
        hits += bool(right)
        if right is False:
            code = code or 1
        if as_json:
            print_body(body)
        else:
            click.echo(answer_text(file, answer, right))
    if wanted is not None and not as_json and len(files) > 1:
        click.echo(f"\n{hits} of {len(files)} as expected.")
    return code


def answer_text(file: Path, answer: InferAnswer, right: bool | None = None) -> str:
    """One answer, as text."""
    mark = (
        ""
        if right is None
        else click.style("  as expected", fg="green")
        if right
        else click.style("  NOT as expected", fg="red")
    )
    at = answer.timing
    size = max(len(prediction.label) for prediction in answer.predictions)
    steps = [
        ("waited", at.queue_ms),
        ("worker start", at.start_worker_ms),
        ("decode", at.decode_ms),
        ("preprocess", at.preprocess_ms),
        ("patch", at.bind_ms),
        ("network", at.network_ms),
    ]
    shown = ", ".join(f"{name} {render.milliseconds(took)}" for name, took in steps if took >= 0.005)
    patch = f"patch {render.short(answer.patch_id)}" if answer.patch_id else "the base as it is"
    lines = [
        click.style(str(file), bold=True) + mark,
        *(f"  {p.label.ljust(size)}  {p.probability * 100:5.1f} %" for p in answer.predictions),
        render.fields(
            [
                (
                    "  rung",
                    f"{answer.base} at {answer.resolution} px, {patch}, allocation {answer.allocation:.2f}",
                ),
                *_passed(answer),
                ("  time", f"{render.milliseconds(at.total_ms)}: {shown}"),
                ("  why", answer.why),
                ("  request", answer.request_id),
            ]
        ),
    ]
    return "\n".join(lines)


def _passed(answer: InferAnswer) -> list[tuple[str, str]]:
    passed = answer.cascade
    if passed is None:
        return []
    sure = f"stage {passed.stage + 1} of {passed.stages}, confidence {passed.confidence:.3f}"
    return [("  cascade", f"{sure}, known cost {render.milliseconds(passed.cost_ms)}")]


def _top1(client: Client, asked: _Asked, files: list[Path], label_map: Path | None, as_json: bool) -> None:
    task = asked.task
    labels = client.task(task).spec.labels
    classes = Classes(task, labels, label_map)
    listed = [(file, classes.index(file.absolute().parent.name, f"{file}: the directory's name")) for file in files]
    tally = Tally()
    interrupted: KeyboardInterrupt | None = None
    try:
        with _progress(listed) as watched:
            for file, index in watched:
                _count(client, replace(asked, top_k=1), file, labels[index], index, tally)
    except KeyboardInterrupt as stop:
        interrupted = stop
        click.echo(f"\nInterrupted after {tally.images + tally.failed} of {len(listed)} images.", err=True)
    click.echo(json.dumps(tally.as_dict(task)) if as_json else tally.text(task))
    if interrupted is not None:
        raise interrupted
    if tally.failed:
        raise BadInputError(f"{tally.failed} of {len(listed)} images could not be classified.")


def _count(client: Client, asked: _Asked, file: Path, label: str, index: int, tally: Tally) -> None:
    from ..api.schemas import InferAnswer

    for attempt in range(BUSY_ATTEMPTS):
        try:
            answer = InferAnswer.model_validate_json(asked.body(client, file))
        except (BusyError, WorkerCrashedError) as error:
            if attempt == BUSY_ATTEMPTS - 1:
                raise
            time.sleep(error.retry_after_s or 1.0)
        except (BadInputError, TooLargeError) as error:
            tally.failed += 1
            report(type(error)(f"{file}: {error.message}", hint=error.hint))
            return
        else:
            tally.add(label, answer.predictions[0].index == index, answer.resolution, answer.timing.total_ms)
            return


@contextmanager
def _progress(listed: list[tuple[Path, int]]) -> Iterator[Iterable[tuple[Path, int]]]:
    """A bar on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield listed
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield progress.track(listed)
