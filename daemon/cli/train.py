"""`patchctl train`: submit, list, show, follow, pause, resume and cancel training jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from ...client.training_methods import JobAction
from ...policies.task import KindOptions, Measure, Options, PatchKind, Precision, Teacher
from . import render
from .common import Settings, Sides, Words, json_option, pass_settings, print_body, refusal
from .curves import curve_text
from .plans import plans_text
from .usage import energy, usage

if TYPE_CHECKING:
    from ...policies.task import MemberProgress, RungResult
    from ..api.schemas import JobView

KINDS = tuple(kind.value for kind in PatchKind if kind is not PatchKind.BASE_FRACTION)  # the allocation decides that


class KindOption(click.ParamType[tuple[str, str, str]]):
    """KIND.KEY=VALUE."""

    name = "kind.key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str, str]:
        """The three parts, the first one being a patch kind."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\w+)\.(\w+)=(.+)", str(value))
        if found is None:
            self.fail(f"'{value}' is not of the form KIND.KEY=VALUE", param, ctx)
        if found.group(1) not in KINDS:
            self.fail(f"'{found.group(1)}' is not one of {', '.join(KINDS)}", param, ctx)
        return found.group(1), found.group(2), found.group(3)


def _options(given: tuple[tuple[str, str, str], ...]) -> Options:
    """The options kind by kind. Raises pydantic's ValidationError."""
    merged: dict[str, dict[str, str]] = {}
    for kind, key, value in given:
        merged.setdefault(kind, {})[key] = value
    return {PatchKind(kind): KindOptions.model_validate(values) for kind, values in merged.items()}


@click.group()
def train() -> None:
    """Train patches in the background, whenever the device can spare it."""


@train.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl train submit --task digits --follow\n"
        "  patchctl train submit --task digits --kinds head --resolutions 128,96 --epochs 2\n"
        "  patchctl train submit --task groceries --base lite2\n"
        "  patchctl train submit --tasks digits,groceries --resolutions 96\n"
        "  patchctl train submit --task digits --kinds gate,added_layer,head --option gate.where='blocks.1*' \\\n"
        "    --option added_layer.rank=4\n"
        "  patchctl train submit --task groceries --teacher ensemble\n"
        "  patchctl train submit --task imagenet --kinds scale_bias --unlabelled ./photographs --lr 2e-4\n\n"
        "With --follow, Ctrl-C ends only the following; the job goes on."
    )
)
@click.option("--task", metavar="T", help="The task to train for.")
@click.option(
    "--tasks",
    metavar="T,T",
    help="Train these tasks at once, each its own patch, all of them the base, which becomes a new version.",
)
@click.option("--base", metavar="B", help="Train rungs of this base or base version.  [default: the task's own]")
@click.option(
    "--kinds",
    type=Words(KINDS),
    default=("scale_bias", "head"),
    metavar="K,K",
    help=f"Patch kinds, of {', '.join(KINDS)}.  [default: scale_bias,head]",
)
@click.option(
    "--option",
    "options",
    type=KindOption(),
    multiple=True,
    metavar="KIND.KEY=VALUE",
    help="Where a kind acts or how large it is, as docs/patches.md lists; may be given several times.",
)
@click.option(
    "--resolutions", type=Sides(), metavar="PX,PX", help="The rungs to train, pixels.  [default: all of the base]"
)
@click.option("--epochs", type=click.IntRange(1, 1000), default=4, show_default=True, help="Passes over the data.")
@click.option("--batch-size", type=click.IntRange(2, 512), default=32, show_default=True, help="Images in a step.")
@click.option(
    "--lr",
    type=click.FloatRange(0, 10, min_open=True),
    help="Learning rate.  [default: that of the patch kinds]",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of order and initial values.")
@click.option("--max-samples", type=click.IntRange(8), help="Use at most this many training images.")
@click.option(
    "--patience",
    type=click.IntRange(1, 1000),
    help="End a rung after so many epochs without a better validation score, with its best epoch's weights.",
)
@click.option(
    "--teacher",
    type=click.Choice([teacher.value for teacher in Teacher]),
    default=Teacher.NONE.value,
    help="Learn from the answers of the rung at the full resolution, or of all rungs.  [default: none; with "
    "--unlabelled: full]",
)
@click.option(
    "--unlabelled",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Learn from the teacher alone, on all images below DIR.",
)
@click.option(
    "--precision",
    type=click.Choice([precision.value for precision in Precision]),
    default=Precision.F32.value,
    help="Floats that steps run in; auto: the faster, as measured when a rung begins.  [default: f32]",
)
@click.option("--no-examples", is_flag=True, help="Do not learn from the examples that applications handed over.")
@click.option("--follow", is_flag=True, help="Show the progress until the job has ended.")
@json_option
@pass_settings
def submit(
    settings: Settings,
    task: str | None,
    tasks: str | None,
    base: str | None,
    kinds: tuple[str, ...],
    options: tuple[tuple[str, str, str], ...],
    resolutions: tuple[int, ...] | None,
    epochs: int,
    batch_size: int,
    lr: float | None,
    seed: int,
    max_samples: int | None,
    patience: int | None,
    teacher: str,
    unlabelled: Path | None,
    precision: str,
    no_examples: bool,
    follow: bool,
    as_json: bool,
) -> None:
    """Queue a training job. Its rungs are trained one after the other."""
    from pydantic import ValidationError

    from ...policies.task import TrainSpec

    first, together = _tasks(task, tasks)
    try:
        spec = TrainSpec(
            task=first,
            together=together,
            base=base,
            kinds=tuple(PatchKind(kind) for kind in kinds),
            options=_options(options),
            resolutions=resolutions or (),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=lr,
            seed=seed,
            max_samples=max_samples,
            patience=patience,
            teacher=Teacher(teacher),
            precision=Precision(precision),
            unlabelled=None if unlabelled is None else str(unlabelled.absolute()),
            examples=not no_examples,
        )
    except ValidationError as error:
        raise refusal(error) from error
    with settings.client() as client:
        if as_json and not follow:
            print_body(client.raw.submit(spec))
            return
        job = client.submit(spec)
    if not as_json:
        click.echo(f"Training job {job.id} queued.")
    if follow:
        _follow(settings, job.id, as_json)


def _tasks(task: str | None, tasks: str | None) -> tuple[str, tuple[str, ...]]:
    """The first task and those that are trained with it."""
    if (task is None) == (tasks is None):
        raise click.UsageError("Give --task, or several with --tasks.")
    if tasks is None:
        return task or "", ()
    names = tuple(part.strip() for part in tasks.split(",") if part.strip())
    if len(names) < 2:
        raise click.UsageError("--tasks wants two tasks at least, with commas between them.")
    return names[0], names[1:]


@train.command("list", epilog="\b\nExample:\n  patchctl train list")
@json_option
@pass_settings
def list_(settings: Settings, as_json: bool) -> None:
    """List the training jobs."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.jobs())
            return
        rows = [
            (
                job.id,
                ",".join(job.spec.tasks),
                job.spec.base or render.ABSENT,
                job.state.value,
                render.duration(job.seconds),
                position(job) + (f"; {note}" if (note := job.error or job.waiting) else ""),
            )
            for job in client.jobs().jobs
        ]
        click.echo(
            render.table(("job", "task", "base", "state", "trained", "position"), rows, right=(4,)) or "No jobs."
        )


@train.command(epilog="\b\nExample:\n  patchctl train show job-7c1f09ab")
@click.argument("job_id", metavar="ID")
@json_option
@pass_settings
def show(settings: Settings, job_id: str, as_json: bool) -> None:
    """Show a training job, its curves and what it has given so far."""
    with settings.client() as client:
        if as_json:
            print_body(client.raw.job(job_id))
            return
        job = client.job(job_id)
        click.echo(job_text(job))
        if drawn := curve_text(client.curve(job.id).points):
            click.echo(f"{render.heading('Curves')}\n{drawn}")


@train.command(
    epilog="\b\nExample:\n  patchctl train follow job-7c1f09ab\n\nCtrl-C ends only the following; the job goes on."
)
@click.argument("job_id", metavar="ID")
@click.option("as_json", "--json", is_flag=True, help="Print the job as the API gives it, once it has ended.")
@pass_settings
def follow(settings: Settings, job_id: str, as_json: bool) -> None:
    """Show a job's progress until it has ended. Then a table of its results."""
    _follow(settings, job_id, as_json)


def _follow(settings: Settings, job_id: str, as_json: bool) -> None:
    from .follow import follow_job

    with settings.client() as client:
        job = follow_job(client, job_id)
        if as_json:
            print_body(client.raw.job(job_id))
        else:
            click.echo(outcome(job))
    if job.state.value == "failed":
        raise click.ClickException(f"Training job {job.id} failed: {job.error or 'no reason was given'}")
    if job.state.value == "cancelled":
        raise click.ClickException(f"Training job {job.id} was cancelled")


def _action(action: JobAction, past: str, teaching: str) -> click.Command:
    @click.command(action, help=teaching, epilog=f"\b\nExample:\n  patchctl train {action} job-7c1f09ab")
    @click.argument("job_id", metavar="ID")
    @json_option
    @pass_settings
    def command(settings: Settings, job_id: str, as_json: bool) -> None:
        with settings.client() as client:
            if as_json:
                print_body(client.raw.change_job(job_id, action))
                return
            job = client.change_job(job_id, action)
            click.echo(f"Training job {job.id} {past}; its state is '{job.state.value}'.")

    return command


_ACTIONS: dict[JobAction, tuple[str, str]] = {
    "pause": ("is told to pause", "Pause a job; it stops within one slice and keeps what it has learned."),
    "resume": ("goes on", "Let a paused job go on from its last checkpoint."),
    "cancel": ("is cancelled", "End a job for good; finished rungs stay."),
}
assert set(_ACTIONS) == set(get_args(JobAction))
for _name, (_past, _help) in _ACTIONS.items():
    train.add_command(_action(_name, _past, _help))


train.add_command(usage)


def position(job: JobView) -> str:
    """Where a job stands, in one short phrase."""
    if job.state.value in ("done", "failed", "cancelled"):
        return f"{len(job.results)} rungs done"
    at = job.progress
    parts = [f"rung {min(at.rung + 1, at.rungs)}/{at.rungs}"]
    if at.resolution:
        parts.append(f"{at.resolution} px")
    if at.epochs:
        parts.append(f"epoch {min(at.epoch + 1, at.epochs)}/{at.epochs}")
    if at.steps:
        parts.append(f"step {at.step}/{at.steps}")
    if at.phase:
        parts.append(at.phase)
    return ", ".join(parts)


def job_text(job: JobView) -> str:
    """A job, as text."""
    spec = job.spec
    sides = ", ".join(str(side) for side in spec.resolutions) or "all"
    pairs = [
        ("job", job.id),
        ("tasks" if spec.together else "task", ", ".join(spec.tasks)),
        ("base", spec.base or "the task's own"),
        ("state", job.state.value),
        ("position", position(job)),
        ("kinds", ", ".join(kind.value for kind in spec.kinds)),
        ("asked", f"rungs {sides}; {spec.epochs} epochs, batch {spec.batch_size}, seed {spec.seed}"),
        ("created", render.clock(job.created_s)),
        ("updated", render.clock(job.updated_s)),
        (
            "took",
            f"{render.duration(job.seconds)} in {job.slices} slices, {render.duration(job.cpu_seconds)} processor time",
        ),
    ]
    if job.use.cpu_seconds > 0:
        spent = energy(job.use)
        told = "" if spent == render.ABSENT else f", {spent}"
        pairs.append(
            ("used", f"{render.duration(job.use.cpu_seconds)} of processors in all, {job.use.samples} images{told}")
        )
    if spec.teacher is not Teacher.NONE:
        pairs.append(("taught by", {Teacher.FULL: "the full resolution", Teacher.ENSEMBLE: "all rungs"}[spec.teacher]))
    if spec.unlabelled is not None:
        pairs.append(("unlabelled", spec.unlabelled))
    if job.examples:
        pairs.append(("examples", f"{job.examples} that applications had handed over when it first started"))
    if job.progress.loss is not None:
        pairs.append(("loss", f"{job.progress.loss:.4f}"))
    if job.memory_cap_bytes is not None:
        pairs.append(("memory", f"at most {render.bytes_(job.memory_cap_bytes)} a step, since it ran out"))
    if job.waiting:
        pairs.append(("waiting", job.waiting))
    if job.error:
        pairs.append(("error", job.error))
    if job.version is not None:
        pairs.append(("base version", f"{job.version.name}: {job.version.note}"))
    text = render.fields(pairs) + plans_text(job)
    if job.progress.members:
        text += "\n" + render.heading("Members") + "\n" + members_table(job.progress.members)
    return text + ("\n" + render.heading("Results") + "\n" + results_table(job.results) if job.results else "")


def outcome(job: JobView) -> str:
    """What a job that has ended gave."""
    first = f"Training job {job.id} is {job.state.value} after {render.duration(job.seconds)} of training."
    if job.version is not None:
        first += f"\nBase version {job.version.name}: {job.version.note}."
    return first + ("\n" + results_table(job.results) if job.results else "")


def members_table(members: tuple[MemberProgress, ...]) -> str:
    """One line each of several tasks that train a base together: its loss, and how long its gradient is on the base."""
    rows = [
        (member.task, f"{member.resolution} px", render.number(member.loss), render.number(member.gradient_norm))
        for member in members
    ]
    return render.table(("task", "input", "loss", "gradient (each counts as one)"), rows, right=(1, 2, 3))


def results_table(results: tuple[RungResult, ...]) -> str:
    """One line a trained rung: its cost in parameters and time, its accuracy with the 95 % interval.

    A job of several tasks has a table for each.
    """
    tasks = dict.fromkeys(result.task for result in results)
    parts = [_rungs_table(tuple(result for result in results if result.task == task)) for task in tasks]
    return "\n".join(f"task {task}\n{part}" if task else part for task, part in zip(tasks, parts, strict=True))


def _rungs_table(results: tuple[RungResult, ...]) -> str:
    agrees = any(result.validation.measure is Measure.AGREEMENT for result in results)
    note = "\nval.: agreement with the teacher, on images held out" if agrees else ""
    rows = [
        (
            f"{result.resolution} px",
            str(result.parameters),
            render.percent(result.share, 2),
            render.percent(result.validation.accuracy, 1),
            render.accuracy(result.test),
            f"{result.seconds:.0f} s",
            ("yes" if result.published else "no") + (f": {result.note}" if result.note else ""),
        )
        for result in results
    ]
    header = ("input", "params", "of base", "val.", "test [95 %]", "took", "published")
    return render.table(header, rows, right=(0, 1, 2, 3, 5)) + note
