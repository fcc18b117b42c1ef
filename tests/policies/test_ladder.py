"""From allocation to rung: always one, never over budget, monotone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.choices import Choices
from patchd.policies.decision import AllocationDecision, Ladder, Rung, RungDecision
from patchd.policies.errors import BadInputError
from patchd.policies.ladder import cheapest_at_least, choose_rung
from patchd.policies.restrictions import Limit, Restrictions

SIDES = st.sampled_from(range(32, 513, 32))


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    sides = sorted(draw(st.sets(SIDES, min_size=1, max_size=6)))
    all_accurate = draw(st.booleans())
    rungs = tuple(
        Rung(
            resolution=side,
            cost_ms=draw(st.none() | st.floats(0.01, 1e4)),
            accuracy=draw(st.floats(0, 1)) if all_accurate else draw(st.none() | st.floats(0, 1)),
        )
        for side in sides
    )
    return Ladder(task="t", rungs=rungs)


def chosen_rank(ladder: Ladder, decision: RungDecision) -> tuple[float, int]:
    rung = next(rung for rung in ladder.rungs if rung.resolution == decision.resolution)
    by_accuracy = all(r.accuracy is not None for r in ladder.rungs)
    return (rung.accuracy or 0.0) if by_accuracy else 0.0, rung.resolution


@given(ladders(), st.floats(0, 1))
def test_one_rung_is_always_chosen_and_never_over_budget(ladder: Ladder, allocation: float) -> None:
    decision = choose_rung(ladder, allocation)
    chosen = [candidate for candidate in decision.candidates if candidate.chosen]
    assert len(chosen) == 1
    assert chosen[0].fits
    assert chosen[0].cost_ms <= decision.budget_ms
    assert len(decision.candidates) == len(ladder.rungs)
    assert all(candidate.verdict for candidate in decision.candidates)


@given(ladders(), st.floats(0, 1), st.floats(0, 1))
def test_more_allocation_never_gives_a_worse_rung(ladder: Ladder, a: float, b: float) -> None:
    less, more = (choose_rung(ladder, value) for value in sorted((a, b)))
    assert chosen_rank(ladder, less) <= chosen_rank(ladder, more)
    assert less.budget_ms <= more.budget_ms


@given(ladders(), st.floats(0, 1))
def test_choosing_is_deterministic(ladder: Ladder, allocation: float) -> None:
    assert choose_rung(ladder, allocation) == choose_rung(ladder, allocation)


@given(ladders(), st.floats(0, 1), SIDES, SIDES)
def test_caps_are_kept_where_a_rung_lies_within_them(ladder: Ladder, allocation: float, a: int, b: int) -> None:
    low, high = sorted((a, b))
    decision = choose_rung(ladder, allocation, min_resolution=low, max_resolution=high)
    if any(low <= rung.resolution <= high for rung in ladder.rungs):
        assert low <= decision.resolution <= high


def test_one_is_the_best_rung_and_zero_the_cheapest() -> None:
    rungs = tuple(Rung(resolution=side, cost_ms=cost) for side, cost in ((96, 4.0), (160, 7.0), (224, 12.0)))
    ladder = Ladder(task="t", rungs=rungs)
    assert choose_rung(ladder, 1.0).resolution == 224
    assert choose_rung(ladder, 0.0).resolution == 96
    middle = choose_rung(ladder, 0.5)
    assert middle.resolution == 160
    verdicts = {candidate.rung.resolution: candidate.verdict for candidate in middle.candidates}
    assert "12.0 ms is over the budget of 8.0 ms" in verdicts[224]


def test_a_cheaper_and_more_accurate_rung_wins_over_a_finer_one() -> None:
    rungs = (Rung(resolution=96, cost_ms=4.0, accuracy=0.97), Rung(resolution=224, cost_ms=12.0, accuracy=0.95))
    assert choose_rung(Ladder(task="t", rungs=rungs), 1.0).resolution == 96


def test_unmeasured_costs_are_estimated_from_pixels_and_marked() -> None:
    ladder = Ladder(task="t", rungs=(Rung(resolution=96), Rung(resolution=192, cost_ms=8.0)))
    decision = choose_rung(ladder, 0.0)
    small = next(candidate for candidate in decision.candidates if candidate.rung.resolution == 96)
    assert small.estimated
    assert small.cost_ms == 2.0


@given(st.lists(st.tuples(st.floats(1, 50), st.floats(0, 1)), min_size=1, max_size=5), st.floats(0, 1))
def test_the_cheapest_rung_that_is_accurate_enough_is_chosen(measured, wanted):
    rungs = tuple(
        Rung(resolution=64 + 32 * index, cost_ms=cost, accuracy=accuracy)
        for index, (cost, accuracy) in enumerate(measured)
    )
    ladder, good = Ladder(task="t", rungs=rungs), [cost for cost, accuracy in measured if accuracy >= wanted]
    if not good:
        with pytest.raises(BadInputError, match=r"the best one reaches"):
            cheapest_at_least(ladder, wanted)
        return
    chosen = cheapest_at_least(ladder, wanted)
    assert chosen.accuracy is not None
    assert chosen.accuracy >= wanted
    assert chosen.cost_ms == min(good)


def test_an_accuracy_that_was_never_measured_is_not_promised():
    ladder = Ladder(task="t", rungs=(Rung(resolution=96, cost_ms=1.0),))
    with pytest.raises(BadInputError, match="none of them has been measured"):
        cheapest_at_least(ladder, 0.5)


TURNS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from("abc"), ladders(), max_size=3),
        st.sampled_from((0.0, 0.5, 1.0)),
        st.none() | SIDES,
    ),
    max_size=6,
)


def at(allocation: float) -> AllocationDecision:
    return AllocationDecision(value=allocation, target=allocation, reasons=())


def capped(cap: int | None) -> Restrictions:
    return Restrictions() if cap is None else Restrictions(max_resolution=Limit(cap, "the test"))


@given(TURNS)
def test_choices_kept_from_turn_to_turn_are_those_made_afresh(
    turns: list[tuple[dict[str, Ladder], float, int | None]],
) -> None:
    kept = Choices()
    holds: dict[str, Any] = {}
    afresh: dict[str, Any] = {}
    for now, (given_ladders, allocation, cap) in enumerate(turns):
        named = {name: ladder.model_copy(update={"task": name}) for name, ladder in given_ladders.items()}
        terms = (at(allocation), float(20 * now))
        rungs, holds = kept.of(named, terms[0], holds, terms[1], capped(cap))
        expected, afresh = Choices().of(named, terms[0], afresh, terms[1], capped(cap))
        assert (rungs, holds) == (expected, afresh)
        assert [rung.task for rung in rungs] == sorted(named)


@given(ladders(), ladders())
def test_a_task_more_has_no_other_task_chosen_anew(one: Ladder, other: Ladder) -> None:
    choices = Choices()
    (before,), holds = choices.of({"a": one}, at(0.5), {}, 0.0)
    (after, _), _ = choices.of({"a": one, "b": other}, at(0.5), holds, 1.0)
    assert after is before


def test_a_turn_in_which_nothing_is_new_makes_no_new_memory() -> None:
    ladder, choices = Ladder(task="t", rungs=(Rung(resolution=96), Rung(resolution=224))), Choices()
    first, holds = choices.of({"t": ladder}, at(0.5), {}, 0.0)
    second, after = choices.of({"t": ladder}, at(0.5), holds, 1.0)
    assert after is holds
    assert second[0] is first[0]
