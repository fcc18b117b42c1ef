"""The factor by which predictions are slower than measured: followed within a few measurements, never flapped after."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.choices import Choices
from patchd.policies.decide import decide
from patchd.policies.decision import Decision, Ladder, Rung
from patchd.policies.ladder import choose_rung
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.rules import PolicyState, initial_state
from patchd.policies.slowdown import BAND, ENTER, RATIO_MAX, Slowdown, counted, heed, in_words
from patchd.policies.snapshot import Cpu, Pressure, Snapshot, Stall
from patchd.policies.training_plan import Plans

LADDER = Ladder(
    task="t", rungs=tuple(Rung(resolution=s, cost_ms=c) for s, c in ((96, 2), (128, 4), (160, 6), (192, 9), (224, 12)))
)


def feedback(on: bool = True) -> Policy:
    return parse_policy(f'[policy]\nname = "f"\n[inference]\nfeedback = {str(on).lower()}\n', "f")


def heeded(measured: Sequence[float | None], memory: Slowdown | None = None, start: float = 0.0) -> list[Slowdown]:
    made, memory = [], memory or Slowdown()
    for second, ratio in enumerate(measured):
        memory = heed(memory, ratio, start + second)
        made.append(memory)
    return made


def decided(measured: Sequence[float | None], policy: Policy) -> list[Decision]:
    state, previous, choices, plans, made = initial_state(), None, Choices(), Plans(), []
    for second, ratio in enumerate(measured):
        snapshot = Snapshot(time_s=float(second), cpu=Cpu(count=2, busy=0.9, busy_own=0.1))
        previous, state = decide(
            policy, snapshot, state, {"t": LADDER}, None, previous, str(second), choices, None, plans, ratio
        )
        made.append(previous)
    return made


@given(st.floats(ENTER + 0.3, RATIO_MAX), st.integers(0, 2**16))
def test_a_slow_device_is_known_within_three_measurements_and_to_a_fifth(factor: float, seed: int) -> None:
    noise = random.Random(seed)
    made = heeded([1.0] * 10 + [factor * noise.uniform(0.95, 1.05) for _ in range(20)])
    assert made[9].factor == 1.0
    assert made[12].factor > 1.0
    assert abs(made[-1].mean / factor - 1) < 0.06
    assert 1 / BAND - 0.01 <= made[-1].factor / made[-1].mean <= BAND + 0.01


@given(st.floats(0.5, ENTER - 0.25), st.integers(0, 2**16))
def test_what_is_hardly_slower_or_faster_scales_nothing(factor: float, seed: int) -> None:
    noise = random.Random(seed)
    made = heeded([factor * noise.uniform(0.9, 1.1) for _ in range(60)])
    assert all(memory.factor == 1.0 for memory in made)


@given(st.lists(st.none() | st.floats(0.01, 1000), max_size=200), st.lists(st.floats(-5, 60), min_size=200))
def test_the_factor_is_always_within_its_bounds_and_survives_json(
    measured: list[float | None], gaps: list[float]
) -> None:
    memory, now = Slowdown(), 1000.0
    for ratio, gap in zip(measured, gaps, strict=False):
        now += gap
        memory = heed(memory.rebased(now) if gap < 0 else memory, ratio, now)
        assert 1.0 <= memory.factor <= RATIO_MAX
        assert 0.0 < memory.mean <= RATIO_MAX
        assert 0.0 < memory.variance < 1e4
        assert Slowdown.model_validate_json(memory.model_dump_json()) == memory
        assert in_words(memory)


def test_one_measurement_that_stands_out_leaves_no_trace_a_few_seconds_on() -> None:
    made = heeded([1.0] * 10 + [15.0] + [1.0] * 30)
    assert abs(made[14].mean - 1.0) < 0.1
    assert made[-1].factor == 1.0


@given(st.floats(1.01, 20))
def test_slowness_without_a_cause_does_not_count_and_quickness_always_does(ratio: float) -> None:
    calm = Snapshot(time_s=1.0, cpu=Cpu(count=2, busy=0.4, busy_own=0.3))
    busy = Snapshot(time_s=1.0, cpu=Cpu(count=2, busy=0.9, busy_own=0.3))
    stalled = calm.model_copy(update={"pressure": Pressure(cpu=Stall(some_avg10=0.2, some_avg60=0.0))})
    blind = Snapshot(time_s=1.0, cpu=Cpu(count=2))
    assert counted(Slowdown(), ratio, calm) is None
    assert counted(Slowdown(), 1 / ratio, calm) == 1 / ratio
    assert all(counted(Slowdown(), ratio, seen) == ratio for seen in (busy, stalled, blind))


def test_after_idleness_the_factor_returns_to_one_and_is_learned_anew() -> None:
    slow = heeded([3.0] * 20)
    idle = heeded([None] * 240, slow[-1], 20.0)
    assert slow[-1].factor > 2.5
    assert idle[5].factor == slow[-1].factor
    means = [memory.mean for memory in idle]
    assert means == sorted(means, reverse=True)
    assert (idle[-1].mean, idle[-1].factor) == (1.0, 1.0)
    again = heeded([4.0] * 3, idle[-1], 260.0)
    assert abs(again[-1].factor - 4.0) < 0.4


def test_a_slowness_that_comes_and_goes_is_followed_ever_more_rarely() -> None:
    swinging = [4.0 if (t // 15) % 2 else 1.0 for t in range(3600)]
    factors = [memory.factor > 1.5 for memory in heeded(swinging)]
    assert sum(a != b for a, b in itertools.pairwise(factors)) <= 14
    assert all(factors[900:])


@settings(max_examples=40)
@given(st.lists(st.none() | st.sampled_from((0.5, 1.0, 1.3, 1.6, 2.0, 4.0, 9.0)), min_size=20, max_size=120))
def test_whatever_is_measured_the_resolution_changes_once_in_ten_seconds_at_most(measured: list[float | None]) -> None:
    pairs = itertools.pairwise(decided(measured, feedback()))
    times = [b.time_s for a, b in pairs if a.rungs[0].resolution != b.rungs[0].resolution]
    assert all(later - earlier > 10 for earlier, later in itertools.pairwise(times))


@given(st.floats(0, 1), st.floats(1, 20), st.floats(1, 20))
def test_the_slower_the_device_the_cheaper_the_rung_and_one_always_fits(allocation: float, a: float, b: float) -> None:
    less, more = (choose_rung(LADDER, allocation, slowdown=factor) for factor in sorted((a, b)))
    assert more.resolution <= less.resolution
    for choice in (less, more):
        chosen = next(each for each in choice.candidates if each.chosen)
        assert chosen.fits


def test_twice_as_slow_the_same_budget_affords_a_rung_of_half_the_cost() -> None:
    made = decided([1.0] * 3 + [2.0] * 6, feedback())
    assert [each.rungs[0].resolution for each in made[:3]] == [224] * 3
    rung = made[-1].rungs[0]
    assert (rung.resolution, rung.budget_ms) == (160, 12.0)
    dearest = next(each for each in rung.candidates if each.rung.resolution == 224)
    assert dearest.slowed_ms is not None
    assert abs(dearest.slowed_ms - 24.0) < 3
    assert dearest.cost_ms == 12.0
    assert "px refused: 2" in dearest.verdict
    assert any("times as long as measured calm; costs are scaled by" in text for each in made for text in each.changed)


def test_a_policy_that_does_not_ask_for_it_trusts_the_measured_costs() -> None:
    made = decided([9.0] * 10, feedback(False))
    assert {each.rungs[0].resolution for each in made} == {224}
    assert all(each.slowdown is None for each in made)
    assert feedback().inference.feedback
    assert not Policy.model_validate({"policy": {"name": "p"}}).inference.feedback


def test_the_memory_is_part_of_the_state_that_deciding_returns() -> None:
    snapshot = Snapshot(time_s=1.0, cpu=Cpu(count=2))
    _, state = decide(feedback(), snapshot, initial_state(), {}, None, None, "1", measured=3.0)
    assert state.slowdown.mean > 2.5
    assert PolicyState.model_validate_json(state.model_dump_json()) == state
