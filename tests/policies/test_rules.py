"""Rules and allocations: hysteresis, no flapping, the most restrictive wins, absence said."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.decision import ReasonKind
from patchd.policies.following import BACK_OFF_MAX
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.presets_loader import load_preset
from patchd.policies.rules import PolicyState, allocations, initial_state
from patchd.policies.snapshot import Cpu, Power, Snapshot


def band(raise_after_s: float = 10.0, rise_per_s: float = 1.0) -> Policy:
    return parse_policy(
        f'[policy]\nname = "band"\n[inference]\nraise_after_s = {raise_after_s}\nrise_per_s = {rise_per_s}\n'
        '[[rule]]\nname = "busy"\nwhen = [{ signal = "cpu.busy_other", above = 0.6, leave_below = 0.4 }]\n'
        "inference = 0.2\ntraining = 0.0\n",
        "band",
    )


BAND = band()


def busy(t: float, share: float) -> Snapshot:
    return Snapshot(time_s=t, cpu=Cpu(count=2, busy=min(1.0, max(0.0, share)), busy_own=0.0))


def run(shares: list[float], policy: Policy = BAND, period_s: float = 1.0) -> list[float]:
    state, values = initial_state(), []
    for index, share in enumerate(shares):
        inference, _, state = allocations(policy, busy(index * period_s, share), state)
        values.append(inference.value)
    return values


def changes(values: list[float]) -> int:
    return sum(a != b for a, b in itertools.pairwise(values))


@given(st.floats(0, 1), st.lists(st.floats(-0.099, 0.099), min_size=2, max_size=300))
def test_noise_inside_the_hysteresis_band_changes_the_allocation_at_most_once(mean: float, noise: list[float]) -> None:
    # The band is 0.2 wide: samples of a mean above 0.501 may enter but cannot leave, of one below it cannot enter.
    assert changes(run([mean + n for n in noise])) <= 1


@given(st.lists(st.floats(0, 1), min_size=10, max_size=600), st.sampled_from((0.01, 0.05, 1.0)))
def test_under_any_noise_rises_are_apart_by_the_hold_and_back_off(shares: list[float], rise_per_s: float) -> None:
    values = run(shares, band(rise_per_s=rise_per_s))
    rises = [i for i, (a, b) in enumerate(itertools.pairwise(values)) if b > a]
    assert all(later - earlier >= 10 for earlier, later in itertools.pairwise(rises))
    # Between two rises lies at most one fall, for the rule allows one value.
    assert changes(values) <= 2 * (len(shares) / 10) + 2


@given(
    st.lists(st.floats(0, 1), min_size=10, max_size=300),
    st.sampled_from((0.0, 3.0, 10.0)),
    st.sampled_from((0.01, 0.05, 0.2)),
    st.sampled_from((0.5, 1.0)),
)
def test_no_rise_is_steeper_than_the_slope_counted_from_the_change_before(
    shares: list[float], raise_after_s: float, rise_per_s: float, period_s: float
) -> None:
    values = run(shares, band(raise_after_s, rise_per_s), period_s)
    changed = 0.0
    for index, (before, after) in enumerate(itertools.pairwise(values), 1):
        now = index * period_s
        assert after - before <= rise_per_s * (now - changed) + 1e-6
        if after != before:
            changed = now
    assert all(value <= 0.2 for value, share in zip(values, shares, strict=True) if share > 0.6)


def test_after_a_long_pressure_the_allocation_climbs_in_steps_of_the_slope() -> None:
    values = run([0.9] * 60 + [0.1] * 60, band(10.0, 0.03))
    steps = {t: value for t, (before, value) in enumerate(itertools.pairwise(values), 1) if value != before}
    assert steps == {70: 0.5, 80: 0.8, 90: 1.0}


def test_a_rise_that_is_not_finished_is_said_with_its_slope() -> None:
    state = initial_state()
    told = []
    for t, share in enumerate([0.9] * 3 + [0.1] * 12):
        inference, _, state = allocations(band(10.0, 0.03), busy(t, share), state)
        told.append(inference.reasons[0].text)
    assert told[5] == "inference stays at 0.2 for 8 s more before it rises towards 1, by 0.03 a second at most"
    assert told[14] == "inference stays at 0.5 for 9 s more before it rises towards 1, by 0.03 a second at most"


def test_a_signal_that_swings_for_an_hour_changes_the_allocation_ever_more_rarely() -> None:
    swinging = [0.9 if (t // 15) % 2 else 0.1 for t in range(3600)]
    values = run(swinging)
    assert changes(values) <= 2 * math.log2(BACK_OFF_MAX) + 2
    assert changes(values[600:]) == 0


def test_a_step_is_obeyed_at_the_next_sample_and_released_after_the_hold() -> None:
    values = run([0.1] * 5 + [0.9] * 5 + [0.1] * 15)
    assert values[:5] == [1.0] * 5
    assert values[5:10] == [0.2] * 5
    assert values[10:20] == [0.2] * 10
    assert values[20:] == [1.0] * 5


def test_presets_obey_a_sudden_load_within_two_samples() -> None:
    for name in ("balanced", "powersave", "performance"):
        policy, state = load_preset(name), initial_state()
        for t in range(5):
            calm, _, state = allocations(policy, busy(t, 0.05), state)
        values = []
        for t in range(5, 8):
            inference, _, state = allocations(policy, busy(t, 0.99), state)
            values.append(inference.value)
        assert values[1] < calm.value, name


def test_an_allocation_rises_only_to_what_was_allowed_all_the_while() -> None:
    policy = parse_policy(
        '[policy]\nname = "two"\n[[rule]]\nname = "a"\nwhen = [{ signal = "cpu.busy", above = 0.8 }]\ninference = 0.1\n'
        '[[rule]]\nname = "b"\nwhen = [{ signal = "cpu.busy", above = 0.4 }]\ninference = 0.5\n',
        "two",
    )
    state = initial_state()
    shares = [0.9] * 3 + [0.6] * 9 + [0.1] * 30
    values = []
    for t, share in enumerate(shares):
        inference, _, state = allocations(policy, busy(t, share), state)
        values.append(inference.value)
    assert values[13] == 0.5
    assert values[-1] == 1.0
    assert values.index(1.0) - values.index(0.5) >= 9


def test_the_most_restrictive_matching_rule_wins_and_is_named_first() -> None:
    snapshot = Snapshot(
        time_s=0, cpu=Cpu(count=2, busy=0.7, busy_own=0.0), power=Power(on_mains=False, battery_charge=0.15)
    )
    inference, training, _ = allocations(load_preset("balanced"), snapshot, initial_state())
    named = [reason.rule for reason in inference.reasons if reason.kind is ReasonKind.RULE]
    assert named == ["battery-low", "processors-busy", "on-battery"]
    assert inference.value == 0.3
    assert "most restrictive" in inference.reasons[0].text
    assert training.value == 0.0


def test_a_machine_at_rest_on_mains_gets_full_quality_and_training() -> None:
    snapshot = Snapshot(time_s=0, cpu=Cpu(count=2, busy=0.02), power=Power(on_mains=True, battery_charge=0.9))
    inference, training, _ = allocations(load_preset("balanced"), snapshot, initial_state())
    assert (inference.value, training.value) == (1.0, 0.5)
    assert inference.reasons[0].kind is ReasonKind.DEFAULT


def test_an_absent_signal_never_matches_and_is_said_to_be_absent() -> None:
    inference, _, _ = allocations(load_preset("balanced"), Snapshot(time_s=0, cpu=Cpu(count=1)), initial_state())
    assert inference.value == 1.0
    missing = {reason.signal for reason in inference.reasons if reason.kind is ReasonKind.MISSING_SIGNAL}
    assert {"battery.charge", "power.on_mains", "temperature.max", "cpu.busy_other"} <= missing


@given(st.lists(st.tuples(st.floats(-50, 50), st.floats(0, 1)), min_size=1, max_size=60))
def test_a_clock_that_jumps_is_survived_and_every_sample_gets_a_reason(steps: list[tuple[float, float]]) -> None:
    state, now = initial_state(), 1000.0
    for step, share in steps:
        now += step
        inference, training, state = allocations(BAND, busy(now, share), state)
        assert inference.reasons
        assert training.reasons
        assert inference.value <= inference.target or inference.value == inference.target


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_deciding_is_deterministic_and_its_memory_survives_json(shares: list[float]) -> None:
    plain, stored = initial_state(), initial_state()
    for t, share in enumerate(shares):
        first = allocations(BAND, busy(t, share), plain)
        second = allocations(BAND, busy(t, share), PolicyState.model_validate_json(stored.model_dump_json()))
        assert first == second
        plain, stored = first[2], second[2]
