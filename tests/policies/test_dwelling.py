"""One change of resolution in ten seconds at most, whatever the noise, the policy and the ladder."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.choices import Choices
from patchd.policies.conditions import Condition, Rule
from patchd.policies.decide import decide
from patchd.policies.decision import Decision, Ladder, Rung
from patchd.policies.dwelling import DWELL_S
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.policy_tables import Head, Inference
from patchd.policies.rules import initial_state
from patchd.policies.snapshot import Cpu, Snapshot
from patchd.policies.training_plan import Plans

FIVE = Ladder(
    task="t", rungs=tuple(Rung(resolution=s, cost_ms=c) for s, c in ((96, 2), (128, 4), (160, 6), (192, 9), (224, 12)))
)
SHARE = st.floats(0, 1)
TENTH = st.integers(0, 10).map(lambda tenths: tenths / 10)  # spread evenly, which floats are not


@st.composite
def conditions(draw: st.DrawFn) -> Condition:
    """On the one signal that is noisy; often without a band, and without waiting."""
    enter, band, wait = draw(TENTH), draw(st.just(0.0) | TENTH), draw(st.just(0.0) | st.floats(0, 5))
    waits = {"for_s": wait, "leave_for_s": draw(st.just(0.0) | st.floats(0, 5))}
    if draw(st.booleans()):
        return Condition(signal="cpu.busy_other", above=enter, leave_below=max(0.0, enter - band), **waits)
    return Condition(signal="cpu.busy_other", below=enter, leave_above=min(1.0, enter + band), **waits)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    rules = tuple(
        Rule(name=f"r{index}", when=tuple(draw(st.lists(conditions(), min_size=1, max_size=2))), inference=draw(TENTH))
        for index in range(draw(st.integers(2, 5)))
    )
    low, high = draw(st.sampled_from(((None, None), (None, 256), (96, None))))
    table = Inference(
        allocation=draw(st.sampled_from((1.0, 0.7))),
        raise_after_s=draw(st.sampled_from((0.0, 0.5, 3.0, 10.0, 15.0))),
        rise_per_s=draw(st.sampled_from((0.01, 0.05, 0.3, 1.0))),
        min_resolution=low,
        max_resolution=high,
    )
    return Policy(policy=Head(name="random"), inference=table, rule=rules)


@st.composite
def ladders(draw: st.DrawFn) -> Ladder:
    measured, priced = draw(st.booleans()), draw(st.booleans())
    rungs = tuple(
        Rung(
            resolution=side,
            cost_ms=draw(st.none() | st.floats(0.1, 100)) if priced else None,
            accuracy=draw(st.floats(0, 1)) if measured else None,
        )
        for side in sorted(draw(st.sets(st.sampled_from(range(32, 513, 32)), min_size=3, max_size=6)))
    )
    return Ladder(task="t", rungs=rungs)


# Noise with a mean that does not move: each shape gives the value, from -1 to 1, at a sample.
SHAPES: dict[str, Callable[[random.Random, int, int], float]] = {
    "independent": lambda noise, _index, _length: noise.uniform(-1, 1),
    "heavy": lambda noise, _index, _length: max(-1.0, min(1.0, noise.gauss(0, 0.5) ** 3 * 4)),
    "alternating": lambda _noise, index, length: 1.0 if index // length % 2 else -1.0,
    "burst": lambda _noise, index, length: 1.0 if index % (3 * length) < length else -0.5,
    "random bursts": lambda noise, _index, length: 1.0 if noise.random() < 1 / (1 + length) else -1 / length,
    "sawtooth": lambda _noise, index, length: 2 * (index % (length + 1)) / length - 1,
    "triangle": lambda _noise, index, length: 1 - 2 * abs((index % (2 * length)) / length - 1),
}


def noisy(shape: str, seed: int, length: int, mean: float, amplitude: float, samples: int) -> list[float]:
    noise = random.Random(seed)
    made = (SHAPES[shape](noise, index, length) for index in range(samples))
    return [min(1.0, max(0.0, mean + amplitude * value)) for value in made]


def decided(policy: Policy, ladder: Ladder, shares: list[float], period_s: float) -> list[Decision]:
    state, previous, choices, plans, made = initial_state(), None, Choices(), Plans(), []
    for index, share in enumerate(shares):
        snapshot = Snapshot(time_s=1000 + index * period_s, cpu=Cpu(count=2, busy=share, busy_own=0.0))
        previous, state = decide(
            policy, snapshot, state, {"t": ladder}, None, previous, str(index), choices, None, plans
        )
        made.append(previous)
    return made


def changes_at(decisions: list[Decision]) -> list[float]:
    pairs = itertools.pairwise(decisions)
    return [after.time_s for before, after in pairs if before.rungs[0].resolution != after.rungs[0].resolution]


def most_in_a_window(times: list[float]) -> int:
    """The most changes in any window of ten seconds, its ends counted."""
    return max((sum(start <= time <= start + DWELL_S for time in times) for start in times), default=0)


@settings(max_examples=60)
@given(
    policies(),
    ladders(),
    st.sampled_from(sorted(SHAPES)),
    st.integers(0, 2**16),
    st.integers(1, 40),
    TENTH,
    TENTH,
    st.sampled_from((0.5, 1.0)),
)
def test_under_noise_of_constant_mean_the_resolution_changes_once_in_ten_seconds_at_most(
    policy: Policy, ladder: Ladder, shape: str, seed: int, length: int, mean: float, amplitude: float, period_s: float
) -> None:
    decisions = decided(policy, ladder, noisy(shape, seed, length, mean, amplitude, 120), period_s)
    assert most_in_a_window(changes_at(decisions)) <= 1


@settings(max_examples=40)
@given(policies(), ladders(), st.lists(TENTH, min_size=2, max_size=80), st.lists(st.floats(0.1, 4), min_size=80))
def test_no_trace_at_all_changes_it_more_often_whenever_it_is_sampled(
    policy: Policy, ladder: Ladder, shares: list[float], gaps: list[float]
) -> None:
    state, previous, plans, now, times = initial_state(), None, Plans(), 1000.0, []
    for index, (share, gap) in enumerate(zip(shares, gaps, strict=False)):
        snapshot = Snapshot(time_s=now, cpu=Cpu(count=2, busy=share, busy_own=0.0))
        decision, state = decide(policy, snapshot, state, {"t": ladder}, None, previous, str(index), plans=plans)
        if previous is not None and previous.rungs[0].resolution != decision.rungs[0].resolution:
            times.append(now)
        previous, now = decision, now + gap
    assert most_in_a_window(times) <= 1


def graded(*, for_s: float = 0.0, raise_after_s: float = 10.0) -> Policy:
    """Three steps: above 0.5, 0.7 and 0.9 the allocation is 0.6, 0.3 and 0."""
    rules = "".join(
        f'[[rule]]\nname = "r{limit}"\nwhen = [{{ signal = "cpu.busy_other", above = {above}, leave_below = {above},'
        f" for_s = {for_s} }}]\ninference = {limit}\n"
        for above, limit in ((0.5, 0.6), (0.7, 0.3), (0.9, 0.0))
    )
    return parse_policy(
        f'[policy]\nname = "graded"\n[inference]\nraise_after_s = {raise_after_s}\nrise_per_s = 1.0\n{rules}', "graded"
    )


def sides(decisions: list[Decision]) -> list[int]:
    return [decision.rungs[0].resolution for decision in decisions]


@settings(max_examples=20)
@given(st.integers(0, 40), st.sampled_from((0.6, 0.8, 1.0)))
def test_a_step_down_out_of_calm_is_obeyed_at_the_sample_that_shows_it(calm: int, share: float) -> None:
    made = decided(graded(), FIVE, [0.1] * (calm + 1) + [share], 1.0)
    assert made[-1].rungs[0].candidates[-1].rung.resolution == 96
    chosen = next(each for each in made[-1].rungs[0].candidates if each.chosen)
    assert chosen.fits
    assert sides(made)[-2] == 224
    assert sides(made)[-1] < 224


def test_of_two_steps_down_the_second_waits_with_the_resolution_and_not_with_the_allocation() -> None:
    made = decided(graded(), FIVE, [0.1] * 5 + [0.6] * 3 + [0.95] * 12, 1.0)
    assert [each.inference.value for each in made[5:10]] == [0.6, 0.6, 0.6, 0.0, 0.0]
    assert sides(made)[5:16] == [160] * 11
    assert sides(made)[16:] == [96] * 4
    kept = made[8].rungs[0]
    assert kept.text.startswith("160 px kept for 7 s more, as a resolution changes once in 10 s at most; then 96 px")
    verdicts = {each.rung.resolution: each.verdict for each in kept.candidates}
    assert verdicts[160] == (
        "160 px kept for 7 s more: 6.0 ms is over the budget of 2.0 ms, but a resolution changes once in 10 s at most"
    )
    assert verdicts[96] == "96 px waits: 2.0 ms fits the budget of 2.0 ms"


def test_a_fall_goes_at_once_as_far_as_conditions_that_wait_out_their_time_will_ask() -> None:
    # The step comes between two samples, so that the first of them shows half of it.
    made = decided(graded(for_s=0.5), FIVE, [0.1] * 5 + [0.6] + [0.95] * 3, 1.0)
    assert [each.inference.value for each in made[5:8]] == [1.0, 0.6, 0.0]
    assert made[6].inference.ahead == 0.0
    assert sides(made)[5:] == [224, 96, 96, 96]


def test_a_rise_takes_what_was_asked_for_in_all_of_the_ten_seconds() -> None:
    shares = [0.95] * 3 + [0.1, 0.1, 0.6] * 10
    made = decided(graded(raise_after_s=0.0), FIVE, shares, 1.0)
    assert max(sides(made)) == 160
    assert len(changes_at(made)) == 1


def test_a_policy_without_waiting_still_earns_a_better_rung_over_ten_seconds() -> None:
    made = decided(graded(raise_after_s=0.0), FIVE, [0.95] * 20 + [0.1] * 15, 1.0)
    assert sides(made)[20:30] == [96] * 10
    assert sides(made)[30:] == [224] * 5
    assert (
        made[21].rungs[0].text.startswith("96 px kept for 9 s more, as a better rung must have been allowed for 10 s")
    )


def test_a_rung_that_is_no_more_or_that_a_cap_forbids_is_left_at_once() -> None:
    policy = graded()
    capped = policy.model_copy(update={"inference": policy.inference.model_copy(update={"max_resolution": 128})})
    short = Ladder(task="t", rungs=FIVE.rungs[1:3])
    state, previous = initial_state(), None
    for at, (share, ladder, by) in enumerate(
        ((0.1, FIVE, policy), (0.6, FIVE, policy), (0.6, FIVE, capped), (0.6, FIVE, policy), (0.1, short, policy))
    ):
        snapshot = Snapshot(time_s=float(at), cpu=Cpu(count=2, busy=share, busy_own=0.0))
        previous, state = decide(by, snapshot, state, {"t": ladder}, None, previous, str(at))
        assert previous.rungs[0].resolution == (224, 160, 96, 96, 128)[at]


def test_a_cap_of_a_rule_is_obeyed_at_once_and_its_end_waits_like_any_rise() -> None:
    rules = """
[[rule]]
name = "half"
when = [{ signal = "cpu.busy_other", above = 0.5, leave_below = 0.5 }]
inference = 0.6
[[rule]]
name = "small"
when = [{ signal = "cpu.busy_other", above = 0.8, leave_below = 0.8 }]
max_resolution = 100
"""
    policy = parse_policy(f'[policy]\nname = "capped"\n[inference]\nrise_per_s = 1.0\n{rules}', "capped")
    made = decided(policy, FIVE, [0.1, 0.6, 0.9, *[0.6] * 14], 1.0)
    assert sides(made)[:3] == [224, 160, 96]  # the second change comes within a second, for the cap demands it
    assert sides(made)[3:13] == [96] * 10
    assert sides(made)[13:] == [160] * 4


def test_after_the_clock_was_set_back_the_ten_seconds_begin_anew() -> None:
    state, previous, seen = initial_state(), None, []
    times = [1000.0, 1001.0, *(500.0 + t for t in range(13))]
    for at, (now, share) in enumerate(zip(times, [0.1, 0.6, *[0.95] * 13], strict=True)):
        snapshot = Snapshot(time_s=now, cpu=Cpu(count=2, busy=share, busy_own=0.0))
        previous, state = decide(graded(), snapshot, state, {"t": FIVE}, None, previous, str(at))
        seen.append(previous.rungs[0].resolution)
    assert seen == [224, 160, *[160] * 11, 96, 96]


@settings(max_examples=30)
@given(policies(), ladders(), st.lists(TENTH, min_size=1, max_size=40))
def test_every_turn_has_one_rung_of_the_ladder_and_says_why(
    policy: Policy, ladder: Ladder, shares: list[float]
) -> None:
    for decision in decided(policy, ladder, shares, 1.0):
        (rung,) = decision.rungs
        assert [each.rung.resolution for each in rung.candidates if each.chosen] == [rung.resolution]
        assert rung.text.startswith(f"{rung.resolution} px")
        assert all(each.verdict.startswith(f"{each.rung.resolution} px") for each in rung.candidates)
