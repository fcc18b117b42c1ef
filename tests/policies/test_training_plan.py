"""From the training allocation to a plan: within allocation, memory and disk, monotone, paused below the cheapest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.decision import TrainingDecision, TrainingPlan, UnfreezeOrder
from patchd.policies.task import PatchKind
from patchd.policies.training_chain import level_of
from patchd.policies.training_costs import Correction, JobOutline, PlanLimits, TrainingCosts
from patchd.policies.training_defaults import default_costs
from patchd.policies.training_interpolation import interpolated
from patchd.policies.training_job_prices import JobPrices, Run, full
from patchd.policies.training_plan import EVERYWHERE, HEAD_ONLY, Plans, plan_training
from patchd.policies.training_prices import Prices
from training_costs import SIDES, UNITS, costs

COSTS = costs()
IMPORTANCE = tuple(
    (tensor.name, float((7 * index) % 5 + 1))
    for index, tensor in enumerate(tensor for unit in COSTS.at[0].units for tensor in unit.plain.tensors)
)
SHARE = st.floats(0, 1)
ORDERS = st.sampled_from(["auto", *UnfreezeOrder])
JOBS = st.builds(
    JobOutline,
    kinds=st.sampled_from(
        [
            (PatchKind.SCALE_BIAS, PatchKind.HEAD),
            (PatchKind.SCALE_BIAS,),
            (PatchKind.HEAD,),
            (PatchKind.BIAS, PatchKind.LITE_RESIDUAL, PatchKind.HEAD),
            (PatchKind.STATISTICS,),
            (PatchKind.DEPTHWISE, PatchKind.SCALE_BIAS, PatchKind.RANDOM_HEAD),
            (PatchKind.GATE, PatchKind.SQUEEZE_EXCITE, PatchKind.HEAD),
        ]
    ),
    resolutions=st.lists(st.sampled_from([224, 192, 160, 128, 96]), min_size=1, max_size=5, unique=True).map(tuple),
    batch_size=st.sampled_from([2, 7, 32]),
    train_images=st.integers(1, 2000),
    validation_images=st.integers(0, 500),
    epochs=st.integers(1, 20),
    augmented=st.booleans(),
    taught_at=st.sampled_from([(), (224,), (224, 192, 96)]),
    unlabelled=st.booleans(),
    importance=st.sampled_from([(), IMPORTANCE]),
)
LIMITS = st.builds(
    PlanLimits,
    max_fraction=SHARE,
    order=ORDERS,
    memory_bytes=st.one_of(st.none(), st.integers(0, 400_000_000)),
    disk_bytes=st.sampled_from([0, 1_000_000, 10**9]),
)


PLANS = Plans()  # one, so that prices are summed up once


def made(
    allocation: float, costs: TrainingCosts, job: JobOutline | None = None, limits: PlanLimits | None = None
) -> TrainingDecision:
    return PLANS.of(allocation, costs, job or JobOutline(), limits or PlanLimits())


def size(plan: TrainingPlan) -> tuple[float, float]:
    return plan.reach, plan.fraction


@settings(max_examples=60, deadline=None)
@given(SHARE, JOBS, LIMITS)
def test_cost_memory_disk_and_fraction_stay_within_what_is_allowed(
    allocation: float, job: JobOutline, limits: PlanLimits
) -> None:
    decision = made(allocation, COSTS, job, limits)
    plan = decision.plan
    assert plan.paused or 0 < plan.cost <= allocation
    assert limits.memory_bytes is None or plan.paused or (plan.memory_bytes or 0) <= limits.memory_bytes
    assert plan.fraction <= limits.max_fraction
    assert plan.paused or plan.resolution in job.resolutions
    assert not (plan.keep_features and (job.augmented or limits.disk_bytes == 0))
    assert decision.text
    assert sum(candidate.chosen for candidate in decision.candidates) == (0 if plan.paused else 1)
    assert len(decision.candidates) <= 12


@settings(max_examples=60, deadline=None)
@given(SHARE, SHARE, JOBS, LIMITS)
def test_more_allocation_unfreezes_no_less_and_reaches_no_less_deep(
    a: float, b: float, job: JobOutline, limits: PlanLimits
) -> None:
    less, more = (made(value, COSTS, job, limits).plan for value in sorted((a, b)))
    assert less.paused or not more.paused
    assert less.fraction <= more.fraction
    assert less.paused or less.reach <= more.reach
    assert less.paused or less.biases_only == more.biases_only
    assert set(less.tensors) <= set(more.tensors)


@settings(max_examples=30, deadline=None)
@given(JOBS, LIMITS)
def test_an_allocation_of_nothing_pauses(job: JobOutline, limits: PlanLimits) -> None:
    assert made(0.0, COSTS, job, limits).plan.paused


@settings(max_examples=60, deadline=None)
@given(JOBS)
def test_an_allocation_of_one_buys_any_job_however_much_there_is_to_score_and_to_ask_a_teacher(job: JobOutline) -> None:
    usual = job.model_copy(update={"train_images": max(job.train_images, 16), "batch_size": 16})
    assert not made(1.0, COSTS, usual).plan.paused


def test_an_allocation_of_one_is_a_full_step_at_the_full_resolution() -> None:
    decision = made(1.0, COSTS, JobOutline(), PlanLimits(max_fraction=1.0))
    assert size(decision.plan) == (EVERYWHERE, 1.0)
    assert decision.plan.cost == pytest.approx(1.0)


def test_patch_first_leaves_the_base_frozen_until_the_patch_trains_everywhere() -> None:
    limits = PlanLimits(max_fraction=1.0, order=UnfreezeOrder.PATCH_FIRST)
    plans = [made(step / 50, COSTS, JobOutline(), limits).plan for step in range(51)]
    assert any(0 < plan.reach < EVERYWHERE for plan in plans)
    assert any(0 < plan.fraction < 1 for plan in plans)
    assert all(plan.reach == EVERYWHERE for plan in plans if plan.fraction > 0)


def test_downwards_unfreezes_the_base_where_the_patch_trains() -> None:
    limits = PlanLimits(max_fraction=1.0, order=UnfreezeOrder.DOWNWARDS)
    plan = made(0.5, COSTS, JobOutline(), limits).plan
    assert HEAD_ONLY < plan.reach < EVERYWHERE
    assert 0 < plan.fraction < 1


def test_sparse_names_the_tensors_and_takes_the_important_ones_first() -> None:
    loved = "unit3.conv.weight"
    importance = tuple((name, 1000.0 if name == loved else value) for name, value in IMPORTANCE)
    job = JobOutline(importance=importance)
    limits = PlanLimits(max_fraction=1.0, order=UnfreezeOrder.SPARSE)
    named = [made(step / 50, COSTS, job, limits).plan.tensors for step in range(51)]
    first = next(tensors for tensors in named if tensors)
    assert loved in first
    assert len(first) < UNITS
    assert len(named[-1]) == UNITS


def test_sparse_without_importance_says_that_it_is_not_measured() -> None:
    decision = made(0.5, COSTS, JobOutline(), PlanLimits(order=UnfreezeOrder.SPARSE))
    assert decision.plan.order is UnfreezeOrder.PATCH_FIRST
    assert "until the importance" in decision.text


def test_little_memory_makes_micro_batches_then_lean_gradients_then_biases_alone() -> None:
    def plan(memory: int | None, **job: Any) -> TrainingPlan:
        return made(1.0, COSTS, JobOutline(**job), PlanLimits(memory_bytes=memory)).plan

    roomy = plan(None)
    assert (roomy.micro_batch, roomy.lean, roomy.biases_only) == (None, False, False)
    tight = plan((roomy.memory_bytes or 0) // 4)
    assert tight.micro_batch is not None or tight.lean
    assert size(tight) == size(roomy)
    plans = [plan(cap) for cap in range(1_000_000, 40_000_000, 200_000)]
    assert any(plan.biases_only and plan.reach > 0 for plan in plans)
    assert any(plan.lean for plan in plans)


def test_a_teacher_s_answers_count_spread_over_the_epochs() -> None:
    def cost(*sides: int, epochs: int = 4) -> float:
        return made(1.0, COSTS, JobOutline(epochs=epochs, taught_at=sides), PlanLimits()).plan.cost

    assert cost() < cost(96) < cost(224) < cost(224, 96) < 1
    answers = (cost(224) - cost()) / (1 - cost(224))  # beside full fine-tuning, which asks the same teacher
    expected = (cost(epochs=40) + answers / 10) / (1 + answers / 10)
    assert cost(224, epochs=40) == pytest.approx(expected, rel=0.001)


def test_a_teacher_of_a_larger_resolution_answers_within_the_memory_cap() -> None:
    def plan(cap: int | None, *sides: int) -> TrainingPlan:
        job = JobOutline(resolutions=(96,), kinds=(PatchKind.HEAD,), batch_size=8, taught_at=sides)
        return made(1.0, COSTS, job, PlanLimits(memory_bytes=cap)).plan

    alone, taught = (plan(None, *sides).memory_bytes or 0 for sides in ((), (224,)))
    assert alone < taught
    cap = (alone + taught) // 2
    assert plan(cap).micro_batch is None
    assert plan(cap, 224).micro_batch is not None
    assert (plan(cap, 224).memory_bytes or 0) <= cap


def test_features_are_kept_only_within_the_quota_and_where_inputs_stay_the_same() -> None:
    job, allocation = JobOutline(epochs=20), 0.2

    def plan(disk: int, **changes: Any) -> TrainingPlan:
        changed = job.model_copy(update=changes)
        return made(allocation, COSTS, changed, PlanLimits(disk_bytes=disk)).plan

    kept, fresh = plan(10**10), plan(0)
    assert kept.keep_features
    assert kept.reach > fresh.reach
    assert not fresh.keep_features
    assert not plan(10**10, augmented=True).keep_features


def test_making_features_for_validation_images_counts() -> None:
    limits = PlanLimits(disk_bytes=10**10)

    def cost(images: int) -> float:
        job = JobOutline(kinds=(PatchKind.HEAD,), epochs=1, validation_images=images)
        return made(1.0, COSTS, job, limits).plan.cost

    ordinary = made(1.0, COSTS, JobOutline(kinds=(PatchKind.HEAD,), validation_images=0)).plan
    assert cost(0) <= ordinary.cost
    assert cost(1000) < 1


def test_the_rung_for_which_the_allocation_buys_most_comes_next_and_the_jobs_order_breaks_ties() -> None:
    limits = PlanLimits(max_fraction=1.0)
    ladder = JobOutline(resolutions=(224, 160, 96))
    assert made(1.0, COSTS, ladder, limits).plan.resolution == 224
    assert made(0.1, COSTS, ladder, limits).plan.resolution == 96
    assert made(0.3, COSTS, ladder, limits).plan.resolution == 96
    begun = ladder.model_copy(update={"in_hand": 160})
    assert made(0.3, COSTS, begun, limits).plan.resolution == 160


def test_a_job_without_head_needs_the_backward_pass() -> None:
    job = JobOutline(kinds=(PatchKind.SCALE_BIAS,))
    plans = [made(step / 50, COSTS, job).plan for step in range(51)]
    assert all(plan.paused or plan.reach > HEAD_ONLY for plan in plans)


def test_a_job_that_only_estimates_statistics_runs_forward_passes() -> None:
    plan = made(0.5, COSTS, JobOutline(kinds=(PatchKind.STATISTICS,)), PlanLimits(disk_bytes=10**10)).plan
    assert not plan.paused
    assert not plan.keep_features
    assert plan.cost < made(1.0, COSTS, JobOutline(kinds=(PatchKind.BIAS,))).plan.cost


def test_costs_between_resolutions_lie_between_theirs_and_beyond_them_grow_with_pixels() -> None:
    low, middle, high = (interpolated(COSTS.at, side).units[0].plain for side in (96, 128, 160))
    assert low.forward_ms < middle.forward_ms < high.forward_ms
    assert low.kept_bytes < middle.kept_bytes < high.kept_bytes
    assert interpolated(COSTS.at, 160) is COSTS.at[1]
    largest, beyond = (interpolated(COSTS.at, side).units[0] for side in (224, 448))
    assert beyond.frozen_ms == pytest.approx(4 * largest.frozen_ms)
    assert beyond.frozen_call_ms == largest.frozen_call_ms


def test_full_fine_tuning_costs_all_of_an_allocation_whatever_its_slices_have_shown() -> None:
    for factor in (0.6, 1.0, 1.7):
        seen = (Correction(resolution=224, time=factor),)
        prices = JobPrices(Prices(COSTS.model_copy(update={"corrections": seen})), JobOutline())
        assert prices.predict(full(prices.prices), Run(224)).cost == pytest.approx(1.0)


def test_a_device_that_has_become_faster_affords_no_larger_share() -> None:
    fast = COSTS.model_copy(update={"corrections": (Correction(resolution=224, keep_features=True, time=0.7),)})
    job, limits = JobOutline(), PlanLimits(max_fraction=1.0, disk_bytes=10**10)
    before, after = (Plans().of(0.5, each, job, limits).plan for each in (COSTS, fast))
    assert after.reach <= before.reach + 0.2
    assert after.cost <= 0.5


@given(st.floats(0.4, 2.5), st.sampled_from([0.35, 0.5, 0.75]), st.booleans())
def test_a_device_that_is_slower_or_faster_at_everything_gets_the_same_plan(
    factor: float, allocation: float, lean: bool
) -> None:
    """Above all it does not pause: nothing would run then that could show otherwise."""
    seen = (Correction(resolution=96, lean=lean, time=factor),)
    changed = COSTS.model_copy(update={"corrections": seen})
    job, limits = JobOutline(), PlanLimits(max_fraction=1.0)
    before, after = (Plans().of(allocation, each, job, limits).plan for each in (COSTS, changed))
    assert (after.reach, after.fraction, after.paused) == (before.reach, before.fraction, before.paused)
    assert after.cost == pytest.approx(before.cost)


@pytest.mark.parametrize("side", SIDES)
def test_a_job_of_few_images_is_not_paused_by_the_many_that_it_is_scored_on(side: int) -> None:
    few = JobOutline(full_resolution=side, resolutions=(side,), train_images=32, validation_images=3200, epochs=1)
    usual = few.model_copy(update={"train_images": 3200, "validation_images": 800})
    plans = [Plans().of(0.5, COSTS, job, PlanLimits()).plan for job in (few, usual)]
    assert not any(plan.paused for plan in plans)
    assert plans[0].reach == plans[1].reach


@given(st.floats(0.4, 2.5), st.booleans())
def test_what_slices_in_bf16_have_shown_moves_the_plans_of_jobs_in_bf16_alone(factor: float, mixed: bool) -> None:
    shown = (Correction(resolution=224, bf16=True, time=factor), *((Correction(resolution=224),) if mixed else ()))
    costs, limits = COSTS.model_copy(update={"corrections": shown}), PlanLimits(max_fraction=1.0)
    plain, half = (Plans().of(0.5, costs, JobOutline(bf16=bf16), limits).plan for bf16 in (False, True))
    assert plain == Plans().of(0.5, COSTS, JobOutline(), limits).plan
    cost = JobPrices(Prices(costs), JobOutline(bf16=True)).predict(full(Prices(costs)), Run(224)).cost
    assert cost == pytest.approx(factor)  # float32 is as it was measured
    assert half.paused or half.cost <= 0.5


def test_what_slices_have_shown_lowers_or_raises_plans() -> None:
    dear = COSTS.model_copy(
        update={"corrections": tuple(Correction(resolution=s, time=1.5, keep_features=True) for s in SIDES)}
    )
    plans = Plans()
    limits = PlanLimits(disk_bytes=10**10)
    before = plans.of(0.5, COSTS, JobOutline(), limits).plan
    after = plans.of(0.5, dear, JobOutline(), limits).plan
    assert after.reach < before.reach
    assert after.cost <= 0.5


def test_reasons_name_memory_and_cost() -> None:
    decision = made(0.5, COSTS, JobOutline(), PlanLimits(memory_bytes=5_000_000, max_fraction=1.0))
    verdicts = " ".join(candidate.verdict for candidate in decision.candidates)
    assert "of memory even one image at a time" in verdicts
    assert "is within 0.50" in verdicts
    nothing = made(0.3, COSTS, JobOutline(), PlanLimits(memory_bytes=1000))
    assert nothing.plan.paused
    assert "the smallest plan takes" in nothing.text


def test_the_shipped_costs_plan_for_every_base_and_say_that_they_are_estimates() -> None:
    for base in ("lite0", "lite1", "lite2"):
        decision = plan_training(0.5, None, JobOutline(base=base))
        assert not decision.plan.paused
        assert "another machine" in decision.text
    small, large = default_costs("lite0"), default_costs("lite2")
    assert small.at[0].units[3].frozen_ms < large.at[0].units[3].frozen_ms


@settings(max_examples=40, deadline=None)
@given(SHARE, JOBS, LIMITS)
def test_a_plan_alone_tells_what_was_predicted_for_it(allocation: float, job: JobOutline, limits: PlanLimits) -> None:
    plan = made(allocation, COSTS, job, limits).plan
    if plan.paused:
        return
    prices = Prices(COSTS)
    run = Run(plan.resolution or 0, plan.lean, plan.keep_features, plan.micro_batch)
    predicted = JobPrices(prices, job).predict(level_of(prices, job, plan).trained, run)
    assert predicted.cost == pytest.approx(plan.cost)
    assert predicted.step_ms == pytest.approx(plan.step_ms)
    assert predicted.memory_bytes == plan.memory_bytes


def test_planning_again_gives_the_very_same_decision_while_nothing_has_changed() -> None:
    plans, job, limits = Plans(), JobOutline(), PlanLimits(memory_bytes=50_000_000)
    first = plans.of(0.4, COSTS, job, limits)
    assert plans.of(0.4, COSTS, job, limits.model_copy(update={"memory_bytes": 50_000_100})) is first
    assert plans.of(0.1, COSTS, job, limits) is not first
