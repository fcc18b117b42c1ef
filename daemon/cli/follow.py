"""Following a training job: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import click

from ...client import Client
from ...policies.errors import UnavailableError
from . import render

if TYPE_CHECKING:
    from ...policies.decision import TrainingPlan
    from ..api.schemas import JobView

POLL_S = 0.5
STATUS_EVERY_S = 3.0  # the allocation moves more slowly than a job
PLAIN_EVERY_S = 5.0  # at most one plain line so often while only the step changes
STEPS_TO_GO_BY = 3  # the first steps choose kernels and are slow
GONE_AFTER_S = 20.0  # a daemon that restarts resumes the job; longer silence is an error
FINAL = ("done", "failed", "cancelled")


def follow_job(client: Client, job_id: str) -> JobView:
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
    """Seconds left of the whole job, from the steps of all its rungs that were done while it was watched.

    A step counts by the pixels of its rung. The clock goes on while the job waits, so a job that trains half of the
    time takes twice as long; while it waits, and before a few steps were seen, nothing is said.
    """

    def __init__(self) -> None:
        self._from: tuple[float, float] | None = None  # when the watching began, and the work that was done then
        self._steps = 0

    def left_s(self, job: JobView, now_s: float) -> float | None:
        """None before there is anything to go by."""
        at = job.progress
        sides = [side for side in job.spec.resolutions if side != at.resolution]
        for result in job.results:
            if result.resolution in sides:
                sides.remove(result.resolution)
        done = at.step * at.resolution**2 + sum(at.steps * result.resolution**2 for result in job.results)
        left = (at.steps - at.step) * at.resolution**2 + sum(at.steps * side**2 for side in sides)
        if self._from is None or done < self._from[1]:  # gone back to the last checkpoint
            self._from, self._steps = (now_s, done), at.step
        began_s, first = self._from
        enough = at.resolution > 0 and done - first >= STEPS_TO_GO_BY * at.resolution**2
        if not enough or left <= 0 or job.waiting or job.state.value != "running":
            return None
        return (now_s - began_s) / (done - first) * left


def share_done(job: JobView) -> float:
    """How much of a job is done, by the pixels of its steps, 0 to 1."""
    at = job.progress
    if at.steps == 0 or not job.spec.resolutions:
        return 0.0
    sides = dict.fromkeys(job.spec.resolutions, 0.0)
    sides |= {at.resolution: at.step / at.steps}
    sides |= {result.resolution: 1.0 for result in job.results if result.resolution in sides}
    return sum(side**2 * done for side, done in sides.items()) / sum(side**2 for side in sides)


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
        why = job.waiting or at.phase
        return "queued" + (f": {why}" if why else "")
    parts = [*_place(job), *_learned(job)]
    if at.plan is not None and not at.plan.paused and any(kind.value != "head" for kind in job.spec.kinds):
        parts.append(plan_words(at.plan))
    if left_s is not None:
        parts.append(left_words(job, left_s))
    if job.state.value == "paused":
        parts.append("paused")
    if job.waiting:
        parts.append(f"waiting: {job.waiting}")
    return ", ".join(parts)


def left_words(job: JobView, left_s: float) -> str:
    """The time left; a job that may stop early takes no more than that."""
    most = "at most " if job.spec.patience is not None else ""
    return f"{most}{render.duration(left_s)} left"


def _place(job: JobView) -> list[str]:
    at = job.progress
    parts = [f"rung {min(at.rung + 1, at.rungs)}/{at.rungs}" + (f" {at.resolution} px" if at.resolution else "")]
    if at.epochs:
        parts.append(f"epoch {min(at.epoch + 1, at.epochs)}/{at.epochs}")
    if at.steps:
        parts.append(f"step {at.step}/{at.steps}")
    if at.phase and at.phase != "training":
        parts.append(at.phase)
    return parts


def _learned(job: JobView) -> list[str]:
    at = job.progress
    parts = []
    if at.loss is not None:
        parts.append(f"loss {at.loss:.3f}")
    if at.validation is not None:
        parts.append(f"validation {render.percent(at.validation, 1)}")
    if at.samples_per_s is not None:
        parts.append(f"{at.samples_per_s:.0f} images/s")
    return parts


def cost_line(job: JobView, allocation: float | None) -> str | None:
    """A step's cost as measured, as a share of a full one, beside what the allocation gives; None before a slice."""
    run = job.plans_run[-1] if job.plans_run else None
    if run is None or not run.full_step_ms:
        return None
    text = f"cost {run.measured_step_ms / run.full_step_ms:.2f} of a full step"
    return text if allocation is None else f"{text}, allocation {allocation:.2f}"


def _allocation(client: Client) -> float | None:
    decision = client.status().decision
    return None if decision is None else decision.training.value


def _jobs(client: Client, job_id: str) -> JobView:
    """The job now; a daemon that is restarting is waited for."""
    deadline = time.monotonic() + GONE_AFTER_S
    while True:
        try:
            return client.job(job_id)
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def _follow_plain(client: Client, job_id: str) -> JobView:
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


def screen_lines(job: JobView, allocation: float | None) -> list[str]:
    """What the live screen tells below its bar: where, how well, how, at what cost, and what it waits for."""
    from ...policies.training_words import plan_in_words

    if job.state.value == "queued":
        return [progress_line(job)]
    lines = [", ".join(_place(job)), ", ".join(_learned(job))]
    plan = job.progress.plan
    if plan is not None and not plan.paused:
        lines.append(plan_in_words(plan))
    lines.append(cost_line(job, allocation) or "")
    if job.state.value == "paused":
        lines.append("paused")
    elif job.waiting:
        lines.append(f"waiting: {job.waiting}")
    return [line for line in lines if line]


def _follow_live(client: Client, job_id: str) -> JobView:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    eta = Eta()
    allocation, asked_s = None, -STATUS_EVERY_S
    with Live(console=Console(stderr=True), transient=True, refresh_per_second=4) as live:
        while True:
            job = _jobs(client, job_id)
            if job.state.value in FINAL:
                return job
            now_s = time.monotonic()
            if now_s - asked_s >= STATUS_EVERY_S:
                with contextlib.suppress(UnavailableError):  # it restarts; the job is waited for
                    allocation = _allocation(client)
                asked_s = now_s
            left_s, done = eta.left_s(job, now_s), share_done(job)
            top = Table.grid(padding=(0, 1))
            left = "" if left_s is None else left_words(job, left_s)
            top.add_row(ProgressBar(total=1.0, completed=done, width=30), f"{done * 100:3.0f} %", left)
            live.update(Group(top, *(Text(line) for line in screen_lines(job, allocation))))
            time.sleep(POLL_S)
