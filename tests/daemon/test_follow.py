"""Following a job: time left that is honest, and a screen that tells loss, accuracy, plan and cost."""

from __future__ import annotations

import bodies
import pytest
from patchd.daemon.api.schemas import JobView
from patchd.daemon.cli.follow import Eta, cost_line, left_words, progress_line, screen_lines, share_done
from patchd.daemon.training_records import PlanReport
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import JobState


def at(step: int, *, rung: int = 0, done: JobView | None = None, **changes: object) -> JobView:
    """A job of rungs of 128 and 96 px with 100 steps each."""
    job = bodies.job(step=step)
    if rung:
        first = bodies.job(JobState.DONE).results[0]
        progress = job.progress.model_copy(update={"rung": 1, "resolution": 96})
        job = job.model_copy(update={"progress": progress, "results": (first,)})
    return job.model_copy(update=changes)


def test_time_left_counts_all_rungs_by_their_pixels() -> None:
    eta = Eta()
    assert eta.left_s(at(10), 0.0) is None
    assert eta.left_s(at(12), 1.0) is None  # too few steps to go by
    assert eta.left_s(at(20), 5.0) == pytest.approx(0.5 * (80 + 100 * 96**2 / 128**2))
    assert eta.left_s(at(0, rung=1), 45.0) == pytest.approx(0.5 * 100 * 96**2 / 128**2)


def test_waiting_is_counted_and_while_it_lasts_nothing_is_said() -> None:
    eta = Eta()
    eta.left_s(at(0, rung=1), 0.0)
    assert eta.left_s(at(10, rung=1), 10.0) == pytest.approx(90.0)
    assert eta.left_s(at(10, rung=1, waiting="on battery"), 20.0) is None
    assert eta.left_s(at(20, rung=1), 40.0) == pytest.approx(160.0)  # 2 s a step, the wait included


def test_a_job_that_goes_back_to_its_checkpoint_is_watched_anew() -> None:
    eta = Eta()
    eta.left_s(at(50, rung=1), 0.0)
    assert eta.left_s(at(40, rung=1), 10.0) is None
    assert eta.left_s(at(45, rung=1), 15.0) == pytest.approx(55.0)


def test_a_job_that_may_stop_early_takes_at_most_the_time_left() -> None:
    job = at(10)
    assert left_words(job, 90.0) == "1 min 30 s left"
    patient = job.model_copy(update={"spec": job.spec.model_copy(update={"patience": 2})})
    assert left_words(patient, 90.0) == "at most 1 min 30 s left"


def test_the_share_done_is_of_all_rungs() -> None:
    large, small = 128**2, 96**2
    assert share_done(at(0)) == 0.0
    assert share_done(at(50)) == pytest.approx(0.5 * large / (large + small))
    assert share_done(at(50, rung=1)) == pytest.approx((large + 0.5 * small) / (large + small))


def test_the_screen_tells_place_learning_plan_cost_and_what_it_waits_for() -> None:
    plan = TrainingPlan(paused=False, reach=0.72)
    report = PlanReport(
        plan=plan,
        resolution=128,
        threads=1,
        steps=5,
        samples=80,
        cpu_seconds=1.0,
        measured_step_ms=47.0,
        full_step_ms=100.0,
    )
    job = at(10, plans_run=(report,), waiting="the device is on battery")
    job = job.model_copy(update={"progress": job.progress.model_copy(update={"validation": 0.873, "plan": plan})})
    assert screen_lines(job, 0.5) == [
        "rung 1/2 128 px, epoch 2/4, step 10/100",
        "loss 0.500, validation 87.3 %, 88 images/s",
        "patch in the upper 72 % of the network, base frozen",
        "cost 0.47 of a full step, allocation 0.50",
        "waiting: the device is on battery",
    ]
    assert cost_line(at(10, plans_run=()), 0.5) is None
    assert "validation 87.3 %" in progress_line(job)
    assert screen_lines(bodies.job(JobState.QUEUED), None) == [progress_line(bodies.job(JobState.QUEUED))]
