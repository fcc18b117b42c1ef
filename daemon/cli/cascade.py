"""`patchctl cascade`: what a task's cascade does, calibrating it, and the candidates as a picture."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...client import Client
from . import render
from .accuracy import Classes, image_files
from .common import Settings, check_side, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ...policies.cascade import AcceptRule, Promise
    from ..api.schemas import CalibrationView, CascadeState, CascadeView

POLL_S = 0.5
PLAIN_EVERY_S = 5.0  # at most one plain line so often


class RungName(click.ParamType[tuple[str, int]]):
    """BASE:PX."""

    name = "base:px"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Parse into the base's name and the side."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\w+):(\d+)", str(value))
        if found is None:
            self.fail(f"'{value}' is not of the form BASE:PX, such as lite0:224", param, ctx)
        check_side(int(found[2]), self, param, ctx)
        return found[1], int(found[2])


@click.group()
def cascade() -> None:
    """Send each input to the cheapest model first, and on to a dearer one only where that is not sure."""


@cascade.command(epilog="\b\nExample:\n  patchctl cascade show imagenet")
@click.argument("task")
@json_option
@pass_settings
def show(settings: Settings, task: str, as_json: bool) -> None:
    """Show the stages, who answers how much at what cost, and the promise with its evidence."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.cascade(task))
        else:
            click.echo(cascade_text(client.cascade(task)))


@cascade.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl cascade calibrate groceries                   on the test part of its data set\n"
        "  patchctl cascade calibrate imagenet --label-map index.tsv sample/test\n"
        "                                                         folders name the classes\n"
        "  patchctl cascade calibrate imagenet --unlabelled photos\n"
        "                                                         promises agreement with the reference\n"
        "  patchctl cascade calibrate imagenet --from-requests    on what audits have gathered\n"
        "  patchctl cascade calibrate imagenet --again --epsilon 0.02 --reference lite2:260\n"
        "                                                         on the inputs of the last time\n\n"
        "Half of the images, or as many as the promise needs, are kept apart from the search to certify what it found. "
        "The images must not be those that patches were trained on. Ctrl-C ends only the watching."
    )
)
@click.argument("task")
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--unlabelled", is_flag=True, help="The images have no labels; the promise is on agreement.")
@click.option(
    "--label-map", type=click.Path(path_type=Path), metavar="FILE", help="Names of folders to labels, by tabs."
)
@click.option("--from-requests", is_flag=True, help="Use what audits have gathered; no image is needed.")
@click.option("--again", is_flag=True, help="Plan on the inputs of the last time; nothing is run.")
@click.option("--reference", type=RungName(), help="The rung to be compared with.  [default: the task's finest]")
@click.option("--epsilon", type=click.FloatRange(0, 0.5, True, True), help="Largest loss.  [default: the policy's]")
@click.option(
    "--delta", type=click.FloatRange(0, 0.5, True, True), help="Risk of the promise.  [default: the policy's]"
)
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@json_option
@pass_settings
def calibrate(
    settings: Settings,
    task: str,
    images: tuple[Path, ...],
    unlabelled: bool,
    label_map: Path | None,
    from_requests: bool,
    again: bool,
    reference: tuple[str, int] | None,
    epsilon: float | None,
    delta: float | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Search a cascade and certify what it loses at most. Predictions go on meanwhile."""
    if sum((bool(images), from_requests, again)) > 1:
        raise click.UsageError("Give only one of IMAGES, --from-requests and --again.")
    if not images and (unlabelled or label_map):
        raise click.UsageError("--unlabelled and --label-map speak of IMAGES; name some.")
    if unlabelled and label_map:
        raise click.UsageError("--unlabelled and --label-map exclude each other.")
    from ..api.schemas import CalibrateCreate

    with settings.client() as client:
        given = _given(client, task, images, unlabelled, label_map)
        body = CalibrateCreate(
            images=given,
            from_requests=from_requests,
            again=again,
            reference=reference,
            epsilon=epsilon,
            delta=delta,
        )
        view = client.calibrate(task, body)
        if not detach:
            view = _follow(client, task)
        click.echo(view.model_dump_json() if as_json else cascade_text(view))
        if view.calibration is not None and view.calibration.state in ("failed", "cancelled"):
            sys.exit(1)


@cascade.command()
@click.argument("task")
@pass_settings
def cancel(settings: Settings, task: str) -> None:
    """End a calibration that runs. The cascade that was there stays."""
    with settings.client() as client:
        client.cancel_calibration(task)
    click.echo(f"The calibration of task {task} is ended.")


@cascade.command(epilog="\b\nExample:\n  patchctl cascade plot imagenet -o cascade.svg -o cascade.png")
@click.argument("task")
@click.option(
    "-o",
    "--output",
    "outputs",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    metavar="FILE",
    help="A .png or .svg file to write; may be given several times.",
)
@click.option("--force", is_flag=True, help="Overwrite a file that is there.")
@pass_settings
def plot(settings: Settings, task: str, outputs: tuple[Path, ...], force: bool) -> None:
    """Draw loss against cost: all candidates, the frontier, the reference and the cascade that was chosen."""
    from .cascade_plot import check_outputs, draw

    check_outputs(outputs, force)
    with settings.client() as client:
        view, points = client.cascade(task), client.cascade_points(task)
    draw(view, points, outputs)
    for output in outputs:
        click.echo(f"Wrote {output}.")


def _given(
    client: Client, task: str, images: tuple[Path, ...], unlabelled: bool, label_map: Path | None
) -> tuple[dict[str, Any], ...]:
    """The images below the paths, with the class that their folder names."""
    files = [file.absolute() for file in image_files(images)]
    if unlabelled or not files:
        return tuple({"file": str(file)} for file in files)
    classes = Classes(task, client.task(task).spec.labels, label_map)
    return tuple(
        {"file": str(file), "label": classes.index(file.parent.name, f"{file}: the directory's name")} for file in files
    )


def _follow(client: Client, task: str) -> CascadeView:
    """Show the progress on stderr until the calibration has ended; Ctrl-C stops the watching only."""
    try:
        return _follow_live(client, task) if sys.stderr.isatty() else _follow_plain(client, task)
    except KeyboardInterrupt:
        click.echo(
            f"\nNo longer watching; the calibration goes on. See `patchctl cascade show {task}`, "
            f"end it with `patchctl cascade cancel {task}`.",
            err=True,
        )
        raise


def _running(view: CascadeView) -> CalibrationView | None:
    return view.calibration if view.calibration is not None and view.calibration.state == "running" else None


def _follow_plain(client: Client, task: str) -> CascadeView:
    told_s = 0.0
    while (at := _running(view := client.cascade(task))) is not None:
        if at.images and time.monotonic() - told_s >= PLAIN_EVERY_S:
            told_s = time.monotonic()
            click.echo(f"{at.done} of {at.images} images", err=True)
        time.sleep(POLL_S)
    return view


def _follow_live(client: Client, task: str) -> CascadeView:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("images", total=None)
        while (at := _running(view := client.cascade(task))) is not None:
            bars.update(bar, completed=at.done, total=at.images or None)
            time.sleep(POLL_S)
    return view


def cascade_text(view: CascadeView) -> str:
    """A cascade, as text."""
    parts: list[str] = []
    if view.calibration is not None and view.calibration.state != "done":
        parts.append(_calibration_text(view.calibration))
    state = view.state
    if state is None:
        parts.append(
            f"Task {view.task} has no cascade. Make one: patchctl cascade calibrate {view.task}"
            if not parts
            else f"Task {view.task} has no cascade yet."
        )
        return "\n".join(parts)
    found = state.cascade
    answers = sum(count.answers for count in view.counts)
    rows = [
        (
            str(place + 1),
            str(stage.rung),
            rule_words(stage.rule),
            f"{stage.share:.1%}",
            f"{count.answers / answers:.1%}" if answers and count is not None else render.ABSENT,
            render.milliseconds(stage.cost_ms),
            render.milliseconds(count.spent_ms / count.answers)
            if count is not None and count.answers
            else render.ABSENT,
        )
        for place, (stage, count) in enumerate(
            zip(found.stages, view.counts or (None,) * len(found.stages), strict=True)
        )
    ]
    header = ("", "rung", "takes an answer", "share", "measured", "adds", "spent, mean")
    spent = sum(count.spent_ms for count in view.counts) / answers if answers else None
    parts += [
        click.style(f"Cascade of {view.task}", bold=True, underline=True),
        render.table(header, rows, right=(3, 4, 5, 6)),
        "",
        render.fields(
            [
                ("standing", _standing(view, state)),
                (
                    "cost",
                    f"{render.milliseconds(found.cost_ms)} expected for an image, decoding included; the reference "
                    f"{found.reference} alone {render.milliseconds(found.reference_cost_ms)} "
                    f"({found.reference_cost_ms / found.cost_ms:.2f} times)",
                ),
                (
                    "measured",
                    f"{render.milliseconds(spent)} a prediction, mean of {answers}"
                    if spent is not None
                    else "no prediction yet",
                ),
                ("promise", promise_words(found.promise)),
                ("calibrated", f"{render.clock(found.made_s)} on {state.calibrated_on}: {state.samples} inputs"),
                (
                    "audits",
                    f"{state.drift.audits} answers were given again by the reference, {state.drift.disagreed} differ; "
                    f"{view.audit_rows} inputs are kept as numbers",
                ),
            ]
        ),
    ]
    return "\n".join(parts)


def _calibration_text(at: CalibrationView) -> str:
    if at.state == "failed":
        return click.style("Calibration failed", fg="red") + f": {at.error}"
    if at.state == "cancelled":
        return f"The last calibration, on {at.what}, was cancelled."
    done = f", {at.done} of {at.images} images" if at.images else ""
    return f"Calibrating on {at.what}{done}."


def _standing(view: CascadeView, state: CascadeState) -> str:
    if not view.enabled:
        return "switched off: the policy has cascade.enabled = false"
    return f"{'in force' if state.in_force else 'not in force'}: {state.reason}"


def rule_words(rule: AcceptRule) -> str:
    """When a stage's answer is taken, in words."""
    if rule.kind == "always":
        return "always"
    if rule.kind == "agreement":
        assert rule.earlier is not None
        sure = f", margin from {rule.threshold:.3f}" if rule.threshold > 0 else ""
        return f"same as stage {rule.earlier + 1}{sure}"
    return "never" if rule.threshold > 1 else f"{rule.kind} from {rule.threshold:.3f}"


def promise_words(promise: Promise) -> str:
    """A promise and its evidence, or why there is none, in words."""
    seen = (
        f"on {promise.samples} inputs kept apart it lost {promise.loss:.2%} and differed in "
        f"{promise.disagreement:.2%}, p = {promise.p_value:.2g}"
    )
    if promise.missing:
        return f"none: {promise.missing} more inputs are needed for a loss of at most {promise.epsilon:.1%}"
    if not promise.holds:
        return f"none at a loss of at most {promise.epsilon:.1%}: {seen}"
    what = "accuracy lost against the reference" if promise.basis == "labels" else "answers unlike the reference's"
    return f"at most {promise.epsilon:.1%} of {what}, with probability {1 - promise.delta:.0%}; {seen}"
