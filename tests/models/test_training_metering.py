"""What a slice tells of its plans: every step counted once, under the plan that it ran under."""

from __future__ import annotations

from contextlib import suppress

import pytest
from patchd.models.training import memory
from patchd.models.training.metering import UseMeter
from patchd.policies.decision import TrainingPlan

HEAD, ALL = TrainingPlan(paused=False, reach=0.0), TrainingPlan(paused=False, reach=1.0)


def test_each_plan_has_the_steps_it_ran() -> None:
    meter = UseMeter(64, 8)
    for plan, steps in ((HEAD, 5), (ALL, 4)):
        meter.begin(plan)
        for _ in range(steps):
            with meter.step(8):
                sum(range(1000))
    uses = meter.take()
    assert [(use.plan, use.steps, use.samples) for use in uses] == [(HEAD, 5, 40), (ALL, 4, 32)]
    assert all(use.resolution == 64 and use.batch == 8 and use.threads >= 1 for use in uses)
    assert all(use.seconds > 0 and use.step_ms > 0 for use in uses)


def test_a_plan_that_goes_on_after_something_else_is_told_as_one() -> None:
    meter = UseMeter(64, 8)
    for _ in range(3):
        meter.begin(HEAD)
        with meter.step(8):
            pass
    assert [(use.steps, use.samples) for use in meter.take()] == [(3, 24)]


def test_free_memory_is_given_back_once_for_a_plan_and_not_at_each_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[None] = []
    monkeypatch.setattr(memory, "give_back_free", lambda: given_back.append(None))
    meter = UseMeter(64, 8)
    before = len(given_back)
    for plan in (HEAD, HEAD, HEAD, ALL, ALL):
        meter.begin(plan)
        with meter.step(8):
            pass
    assert len(given_back) - before == 2


def test_nothing_is_told_twice_and_no_plan_without_a_step() -> None:
    meter = UseMeter(64, 8)
    meter.begin(HEAD)
    with meter.step(8):
        pass
    meter.begin(ALL)
    assert len(meter.take()) == 1
    assert meter.take() == ()
    meter.begin(ALL)
    with meter.step(8):
        pass
    assert [use.plan for use in meter.take()] == [ALL]


def test_a_failed_step_is_not_counted() -> None:
    meter = UseMeter(64, 8)
    meter.begin(HEAD)
    with suppress(ValueError), meter.step(8):
        raise ValueError
    assert meter.take() == ()
