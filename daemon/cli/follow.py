"""Following a training job: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from ...policies.errors import UnavailableError
from ..client import PatchdClient
from . import render

if TYPE_CHECKING:
    from ...policies.decision import TrainingPlan
    from ..api.schemas import JobView

POLL_S = 0.5
PLAIN_EVERY_S = 5.0  # at most one plain line so often while only the step changes
STEPS_TO_GO_BY = 3  # the first steps choose kernels and are slow
GONE_AFTER_S = 20.0  # a daemon that restarts resumes the job; longer silence is an error
FINAL = ("done", "failed", "cancelled")


def follow_job(client: PatchdClient, job_id: str) -> JobView:
    """Show a job's progress on stderr until it has ended; Ctrl-C stops the following only."""
    try:
        return _follow_live(client, job_id) if sys.stderr.isatty() else _follow_plain(client, job_id)
    except KeyboardInterrupt:
        click.echo(
            f"\nNo longer following; training job {job_id} goes on. "
            f"Follow it again with `patchctl train follow {job_id}`, end it with `patchctl train cancel {job_id}`.",
            err=True,
        )
        raise


class Eta:
    """Seconds left of the present rung, from the steps that were done while it was watched."""

    def __init__(self) -> None:
        self._rung = -1
        self._from: tuple[float, int] = (0.0, 0)

    def left_s(self, job: JobView, now_s: float) -> float | None:
        """None before there is anything to go by."""
        at = job.progress
        if at.rung != self._rung or at.step < self._from[1]:
            self._rung, self._from = at.rung, (now_s, at.step)
        started_s, first = self._from
        if at.step < first + STEPS_TO_GO_BY or at.steps <= at.step:
            return None
        return (now_s - started_s) / (at.step - first) * (at.steps - at.step)


def plan_words(plan: TrainingPlan) -> str:
    """What a training step may touch, in a few words."""
    from ...policies.training_plan import reach_in_words

    if plan.paused:
        return "paused"
    return reach_in_words(plan.reach) + (f", {render.percent(plan.fraction)} of the base" if plan.fraction else "")


def progress_line(job: JobView, left_s: float | None = None) -> str:
    """Where a job stands, in one line."""
    at = job.progress
    if job.state.value == "queued":
        return "queued" + (f": {job.waiting}" if job.waiting else "")
    parts = [f"rung {min(at.rung + 1, at.rungs)}/{at.rungs}"]
    if at.resolution:
        parts[0] += f" {at.resolution} px"
    if at.epochs:
        parts.append(f"epoch {min(at.epoch + 1, at.epochs)}/{at.epochs}")
    if at.steps:
        parts.append(f"step {at.step}/{at.steps}")
    if at.phase and at.phase != "training":
        parts.append(at.phase)
    if at.loss is not None:
        parts.append(f"loss {at.loss:.3f}")
    if at.samples_per_s is not None:
        parts.append(f"{at.samples_per_s:.0f} images/s")
    if at.plan is not None and not at.plan.paused and any(kind.value != "head" for kind in job.spec.kinds):
        parts.append(plan_words(at.plan))
    if left_s is not None:
        parts.append(f"{render.duration(left_s)} left")
    if job.state.value == "paused":
        parts.append("paused")
    if job.waiting:
        parts.append(f"waiting: {job.waiting}")
    return ", ".join(parts)


def _jobs(client: PatchdClient, job_id: str) -> JobView:
    """The job now; a daemon that is restarting is waited for."""
    deadline = time.monotonic() + GONE_AFTER_S
    while True:
        try:
            return client.job(job_id)
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _follow_plain(client: PatchdClient, job_id: str) -> JobView:
    eta = Eta()
    shown: tuple[object, ...] = ()
    shown_s = 0.0
    while True:
        job = _jobs(client, job_id)
        if job.state.value in FINAL:
            return job
        now_s = time.monotonic()
        left_s = eta.left_s(job, now_s)
        at = job.progress
        key = (job.state, at.rung, at.epoch, at.phase, job.waiting)
        if key != shown or now_s - shown_s >= PLAIN_EVERY_S:
            click.echo(progress_line(job, left_s), err=True)
            shown, shown_s = key, now_s
        time.sleep(POLL_S)


def _follow_live(client: PatchdClient, job_id: str) -> JobView:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn

    eta = Eta()
    with Progress(
        BarColumn(bar_width=20), TextColumn("{task.description}"), console=Console(stderr=True), transient=True
    ) as progress:
        bar = progress.add_task("", total=1)
        while True:
            job = _jobs(client, job_id)
            if job.state.value in FINAL:
                return job
            at = job.progress
            line = progress_line(job, eta.left_s(job, time.monotonic()))
            done = at.rung + (at.step / at.steps if at.steps else 0)
            progress.update(bar, completed=done, total=at.rungs, description=escape(line))
            time.sleep(POLL_S)
