"""The drift test: quiet while nothing has changed, sure to see what has, and the same after a restart."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.cascade import Basis, Promise
from patchd.policies.drift import (
    BETS,
    DriftState,
    Onset,
    calibrated_bound,
    describe,
    disagreement_bound,
    drifted,
    onset,
    update,
)
from patchd.policies.errors import BadInputError

STREAMS = st.lists(st.booleans(), max_size=60)
BOUNDS = st.floats(0, 1)
EVERY = st.floats(100, 1e12)


def after(stream: Iterable[bool], bound: float, state: DriftState | None = None) -> DriftState:
    state = state or DriftState()
    for disagreed in stream:
        state = update(state, disagreed, bound, float(state.audits))
    return state


def run_length(rate: float, bound: float, every: float, most: int, random_: random.Random) -> int:
    """Audits until the alarm, `most` at most."""
    state = DriftState()
    while state.audits < most and not drifted(state, every):
        state = update(state, random_.random() < rate, bound, 0.0)
    return state.audits


@pytest.mark.parametrize(
    ("disagreed", "samples", "delta", "bound"),
    [  # scipy.stats.beta.ppf(1 - delta, disagreed + 1, samples - disagreed)
        (0, 1, 0.05, 0.95),
        (0, 100, 0.05, 0.029513049607),
        (5, 100, 0.05, 0.102253377643),
        (3, 500, 0.05, 0.015433734877),
        (50, 1000, 0.01, 0.068404893696),
        (999, 1000, 0.05, 0.999948708021),
        (20_000, 100_000, 0.001, 0.203933928807),
        (1, 1_000_000, 1e-6, 1.6688289884e-05),
    ],
)
def test_the_bound_is_that_of_clopper_and_pearson(disagreed: int, samples: int, delta: float, bound: float) -> None:
    assert disagreement_bound(disagreed, samples, delta) == pytest.approx(bound, rel=1e-9)


@given(st.integers(1, 3000), st.floats(0, 1), st.floats(1e-9, 0.5), st.floats(1e-9, 0.5))
def test_the_bound_lies_above_what_was_seen_and_rises_with_certainty_and_with_disagreements(
    samples: int, share: float, a: float, b: float
) -> None:
    disagreed, (sure, less_sure) = int(share * samples), sorted((a, b))
    bound = disagreement_bound(disagreed, samples, sure)
    assert disagreed / samples <= bound <= 1
    assert disagreement_bound(disagreed, samples, less_sure) <= bound * (1 + 1e-9)
    assert disagreement_bound(max(0, disagreed - 1), samples, sure) <= bound * (1 + 1e-9)


def test_nothing_is_known_without_samples() -> None:
    assert disagreement_bound(0, 0, 0.05) == disagreement_bound(7, 7, 0.05) == 1.0


@pytest.mark.parametrize(("disagreed", "samples", "delta"), [(-1, 5, 0.1), (6, 5, 0.1), (1, 5, 0.0), (1, 5, 1.0)])
def test_impossible_counts_and_certainties_are_refused(disagreed: int, samples: int, delta: float) -> None:
    with pytest.raises(BadInputError, match=r"cannot be.*Give"):
        disagreement_bound(disagreed, samples, delta)


def test_the_bound_of_a_promise_is_below_its_epsilon_where_it_holds_by_agreement() -> None:
    promise = Promise(
        basis=Basis.AGREEMENT, epsilon=0.01, delta=0.05, samples=1000, disagreement=0.004, p_value=0.029, holds=True
    )
    assert calibrated_bound(promise) == disagreement_bound(4, 1000, 0.05) < 0.01


@given(STREAMS, BOUNDS, EVERY)
def test_more_disagreements_never_speak_less_for_drift(stream: list[bool], bound: float, every: float) -> None:
    states = [after(stream, bound)]
    for place, disagreed in enumerate(stream):
        if not disagreed:
            more = [*stream]
            more[place] = True
            states.append(after(more, bound))
    for more_state in states[1:]:
        assert all(a <= b + 1e-9 for a, b in zip(states[0].log_sums, more_state.log_sums, strict=True))
        assert all(a <= b + 1e-9 for a, b in zip(states[0].evidence, more_state.evidence, strict=True))
        assert drifted(more_state, every * 0.999999) or not drifted(states[0], every)


@given(STREAMS, STREAMS, st.floats(1e-9, 1))
def test_a_restart_between_two_audits_changes_nothing(before: list[bool], later: list[bool], bound: float) -> None:
    state = after(before, bound)
    restored = DriftState.model_validate_json(state.model_dump_json())
    assert restored == state
    assert after(later, bound, restored) == after(before + later, bound)


@given(st.integers(0, 500), BOUNDS, EVERY)
def test_audits_that_all_agree_never_raise_the_alarm(count: int, bound: float, every: float) -> None:
    state = after(repeat(False, count), bound)
    assert not drifted(state, every)
    assert onset(state) is None


@given(st.floats(1e-6, 0.9), EVERY)
def test_audits_that_all_differ_raise_the_alarm_as_soon_as_the_best_bet_alone_has_won_enough(
    bound: float, every: float
) -> None:
    gain = max(math.log(odds / (1 + (odds - 1) * bound)) for odds in BETS)
    state, most = DriftState(), math.ceil(math.log(len(BETS) * (every + 1)) / gain)
    while not drifted(state, every):
        assert state.audits < most
        state = update(state, True, bound, 0.0)


def test_the_state_stays_finite_over_ten_million_audits_that_all_differ() -> None:
    state = after(repeat(True, 100), 0.01)
    ages = tuple(each * 100_000 for each in state.log_sums), tuple(each * 100_000 for each in state.evidence)
    old = state.model_copy(update={"audits": 10_000_000, "log_sums": ages[0], "evidence": ages[1]})
    for disagreed in (True, False):
        state = update(old, disagreed, 0.01, 0.0)
        assert all(math.isfinite(each) for each in state.log_sums + state.evidence)
        assert drifted(state, 1e12)
        assert DriftState.model_validate_json(state.model_dump_json()) == state


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_false_alarms_are_no_more_frequent_than_asked(share: float) -> None:
    bound, every, most = 0.1, 100, 600
    random_ = random.Random(20230622)
    lengths = [run_length(share * bound, bound, every, most, random_) for _ in range(150)]
    assert statistics.mean(lengths) - 2 * statistics.stdev(lengths) / math.sqrt(len(lengths)) >= every


def test_a_change_is_seen_soon_and_dated_well() -> None:
    bound, random_, delays, dated = 0.02, random.Random(7), [], []
    for _ in range(20):
        state = after((random_.random() < 0.01 for _ in range(1000)), bound)
        assert not drifted(state, 1_000_000)
        while not drifted(state, 1_000_000):
            state = update(state, random_.random() < 0.2, bound, float(state.audits))
        found = onset(state)
        assert found is not None
        assert found.rate > bound
        assert found.at_s == state.audits - found.audits
        delays.append(state.audits - 1000)
        dated.append(found.at_s - 1000)
    assert statistics.median(delays) < 60
    assert abs(statistics.median(dated)) < 20


def test_the_sentence_tells_what_was_seen_since_the_change_and_what_was_allowed() -> None:
    state = after([False] * 200 + [True] * 12, 0.02)
    assert onset(state) == Onset(at_s=200.0, audits=12, disagreed=12)
    assert describe(state, 0.02) == (
        "12 of the last 12 audited answers (100.00%) differ from the reference's, where calibration allows 2.00%"
    )
    assert describe(DriftState(), 0.02) == (
        "0 of 0 audited answers differ from the reference's, and nothing speaks for more than the 2.00% that "
        "calibration allows"
    )
