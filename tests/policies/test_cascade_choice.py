"""What an allocation affords of a cascade: never fewer stages for more, never a promise for less than the whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.cascade import AcceptRule, Basis, Cascade, Promise, RuleKind, RungId, Stage
from patchd.policies.cascade_choice import AffordedCascade, afforded, in_time

ALLOCATIONS = st.floats(0, 1)
ALWAYS = AcceptRule(kind=RuleKind.ALWAYS)


def cascade_of(costs: list[float], rules: list[AcceptRule] | None = None, holds: bool = True) -> Cascade:
    margins = [AcceptRule(kind=RuleKind.MARGIN, threshold=0.5)] * (len(costs) - 1)
    stages = tuple(
        Stage(rung=RungId(base="lite0", resolution=96 + 32 * place), rule=rule, cost_ms=cost, share=1 / len(costs))
        for place, (cost, rule) in enumerate(zip(costs, rules or [*margins, ALWAYS], strict=True))
    )
    return Cascade(
        stages=stages,
        reference=stages[-1].rung,
        promise=Promise(basis=Basis.AGREEMENT, epsilon=0.01, delta=0.05, samples=500, holds=holds),
        cost_ms=sum(costs),
        reference_cost_ms=costs[-1],
        search_samples=500,
        made_s=0.0,
    )


@st.composite
def cascades(draw) -> Cascade:
    costs = draw(st.lists(st.floats(0, 1e4), min_size=1, max_size=6))
    rules = []
    for place in range(len(costs) - 1):
        earlier = draw(st.none() | st.integers(0, place - 1)) if place else None
        kind = RuleKind.MARGIN if earlier is None else RuleKind.AGREEMENT
        rules.append(AcceptRule(kind=kind, threshold=draw(st.floats(0, 1)), earlier=earlier))
    return cascade_of(costs, [*rules, ALWAYS], draw(st.booleans()))


@given(cascades(), ALLOCATIONS, ALLOCATIONS, st.booleans())
def test_more_allocation_never_means_fewer_stages(cascade: Cascade, a: float, b: float, shorten: bool) -> None:
    less, more = (afforded(cascade, value, shorten=shorten) for value in sorted((a, b)))
    assert len(less.stages) <= len(more.stages)
    assert less.budget_ms <= more.budget_ms


@given(cascades(), ALLOCATIONS)
def test_one_is_the_whole_cascade_and_without_shortening_everything_is(cascade: Cascade, allocation: float) -> None:
    for run in (afforded(cascade, 1.0, shorten=True), afforded(cascade, allocation, shorten=False)):
        assert run.stages == cascade.stages
        assert run.places == tuple(range(len(cascade.stages)))
        assert run.promised == cascade.promise.holds


@given(cascades(), ALLOCATIONS)
def test_what_runs_is_within_the_budget_keeps_its_order_and_ends_with_a_stage_that_accepts_always(
    cascade: Cascade, allocation: float
) -> None:
    run = afforded(cascade, allocation, shorten=True)
    assert all(stage.cost_ms <= run.budget_ms for stage in run.stages)
    assert list(run.places) == sorted(set(run.places))
    assert run.rungs == tuple(cascade.stages[place].rung for place in run.places)
    assert run.stages[-1].rule.kind is RuleKind.ALWAYS
    assert run.whole == (len(run.stages) == len(cascade.stages))
    assert not run.promised or run.whole
    assert run.text
    assert AffordedCascade.model_validate_json(run.model_dump_json()) == run


@given(cascades(), ALLOCATIONS)
def test_agreement_is_with_the_same_stage_as_in_the_whole_cascade(cascade: Cascade, allocation: float) -> None:
    run = afforded(cascade, allocation, shorten=True)
    for stage, place in zip(run.stages[:-1], run.places[:-1], strict=True):
        before = cascade.stages[place].rule.earlier
        after = stage.rule.earlier
        assert (after is None) == (before is None)
        assert after is None or run.places[after] == before


def test_a_stage_that_waits_for_the_agreement_of_a_cut_one_is_cut_too() -> None:
    margin, agreement = (AcceptRule(kind=RuleKind.MARGIN), AcceptRule(kind=RuleKind.AGREEMENT, earlier=1))
    run = afforded(cascade_of([2.0, 6.0, 3.0, 10.0], [margin, margin, agreement, ALWAYS]), 0.25, shorten=True)
    assert run.places == (0,)


def test_the_sentence_names_budget_and_the_cheapest_stage_that_was_cut() -> None:
    cascade = cascade_of([2.0, 5.0, 10.0])
    assert afforded(cascade, 0.25, shorten=True).text == (
        "1 of 3 stages: allocation 0.25 gives a budget of 4.0 ms and lite0 at 128 px costs 5.0 ms; "
        "a shortened cascade carries no promise"
    )
    assert afforded(cascade, 1.0, shorten=True).text.endswith("1.0% at most is lost, by agreement")
    assert afforded(cascade_of([5.0]), 0.0, shorten=True).text == "lite0 at 96 px alone, the reference"


def test_costs_measured_since_calibrating_count_instead_of_the_calibrated_ones() -> None:
    cascade = cascade_of([2.0, 5.0, 10.0])
    now = {cascade.stages[1].rung: 3.0, cascade.stages[2].rung: 12.0}
    assert afforded(cascade, 0.25, shorten=True, costs_ms=now).places == (0, 1)


@given(st.floats(0, 1e4), st.floats(0, 1e6), st.floats(0, 100))
def test_a_stage_is_in_time_exactly_where_it_ends_by_the_deadline(cost_ms: float, now_s: float, left_s: float) -> None:
    assert in_time(cost_ms, now_s, None)
    assert in_time(cost_ms, now_s, now_s + left_s) == (now_s + cost_ms / 1e3 <= now_s + left_s)


def test_stages_beyond_the_policy_s_resolution_are_cut_at_any_allocation() -> None:
    run = afforded(cascade_of([2.0, 5.0, 10.0]), 1.0, shorten=False, max_resolution=128)
    assert run.places == (0, 1)
    assert not run.promised
    assert "the policy's resolution caps leave out lite0 at 160 px" in run.text
