"""From the training allocation to a plan: within the allocation, monotone, paused below the cheapest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.training_plan import EVERYWHERE, HEAD_ONLY, TrainingCosts, plan_training

SHARE = st.floats(0, 1)


@given(SHARE, SHARE)
def test_the_predicted_cost_never_exceeds_the_allocation(allocation: float, max_fraction: float) -> None:
    decision = plan_training(allocation, TrainingCosts(), max_fraction=max_fraction)
    assert decision.plan.cost <= allocation
    assert decision.plan.fraction <= max_fraction
    assert decision.text
    assert sum(candidate.chosen for candidate in decision.candidates) == (0 if decision.plan.paused else 1)


@given(SHARE, SHARE, SHARE)
def test_more_allocation_unfreezes_no_less_and_reaches_no_less_deep(a: float, b: float, max_fraction: float) -> None:
    less, more = (plan_training(value, TrainingCosts(), max_fraction=max_fraction).plan for value in sorted((a, b)))
    assert less.fraction <= more.fraction
    if not less.paused:
        assert more.reach >= less.reach


def test_the_measured_shares_give_the_plans_of_the_design() -> None:
    def plan(allocation: float) -> tuple[bool, float, float]:
        made = plan_training(allocation, TrainingCosts()).plan
        return made.paused, made.reach, made.fraction

    assert plan(0.0)[0]
    assert plan(0.11)[0]
    assert plan(0.12) == (False, HEAD_ONLY, 0.0)
    assert plan(0.35) == (False, 0.39, 0.0)
    assert plan(0.49) == (False, EVERYWHERE, 0.0)
    assert plan(0.51) == (False, EVERYWHERE, 0.5)
    assert plan(1.0) == (False, EVERYWHERE, 1.0)
