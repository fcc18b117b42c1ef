"""How often the device is sampled: the rule of `policies.sampling`, on any history of readings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.decide import decide
from patchd.policies.policy import parse_policy
from patchd.policies.presets_loader import load_preset
from patchd.policies.rules import initial_state
from patchd.policies.sampling import ALWAYS, CALM_PERIODS, Stillness, due_in_s, pace, signals_that_count, stir, watch
from patchd.policies.snapshot import AddedReading, Cpu, Memory, Power, Sensor, Snapshot, User
from patchd.policies.training_plan import Plans

NAMES = frozenset(ALWAYS)
SECONDS = st.floats(0.0, 1000.0, allow_nan=False)
PERIODS = st.floats(0.1, 10.0, allow_nan=False)


def snapshot(
    *,
    busy: float | None = 0.1,
    available: int = 500,
    celsius: float = 40.0,
    on_mains: bool | None = True,
    idle_s: float | None = 100.0,
    added: tuple[AddedReading, ...] = (),
) -> Snapshot:
    return Snapshot(
        time_s=0.0,
        cpu=Cpu(count=2, busy=busy, busy_own=0.0),
        memory=Memory(total_bytes=1000, available_bytes=available),
        power=Power(on_mains=on_mains),
        temperatures=(Sensor(name="zone", celsius=celsius),),
        user=User(idle_s=idle_s),
        added=added,
    )


@given(SECONDS, PERIODS, PERIODS, st.none() | SECONDS, st.none() | st.just("work"))
@settings(max_examples=200)
def test_the_period_lies_between_the_two_and_work_makes_it_the_fast_one(
    calm_s: float, fast_s: float, more_s: float, due_s: float | None, work: str | None
) -> None:
    slow_s = fast_s + more_s
    found = pace(Stillness({}, 0.0), calm_s, fast_s=fast_s, slow_s=slow_s, work=work, due_in_s=due_s)
    assert fast_s <= found.period_s <= slow_s
    if work is not None or calm_s < CALM_PERIODS * fast_s:
        assert found.period_s == fast_s
    if due_s is not None:
        assert found.period_s <= max(fast_s, due_s)
    assert found.why


@given(PERIODS, PERIODS, st.lists(SECONDS, min_size=2, max_size=6))
@settings(max_examples=100)
def test_the_longer_nothing_has_moved_the_longer_the_period_until_it_is_the_slow_one(
    fast_s: float, more_s: float, moments: list[float]
) -> None:
    slow_s = fast_s + more_s

    def period(calm_s: float) -> float:
        still = Stillness({}, 0.0)
        return pace(still, calm_s, fast_s=fast_s, slow_s=slow_s, work=None, due_in_s=None).period_s

    periods = [period(moment) for moment in sorted(moments)]
    assert periods == sorted(periods)
    assert period(CALM_PERIODS * fast_s * 8) == slow_s


@given(st.lists(st.floats(0.0, 1.0, allow_nan=False), min_size=1, max_size=30))
@settings(max_examples=100)
def test_noise_within_the_tolerance_of_where_it_began_moves_nothing(noise: list[float]) -> None:
    still = watch(Stillness(), snapshot(), NAMES, 0.0)
    for step, each in enumerate(noise, start=1):
        seen = snapshot(busy=0.1 + 0.04 * each, available=500 + int(40 * each), celsius=40.0 + 1.9 * each)
        still = watch(still, seen, NAMES, float(step))
    assert still.moved_s == 0.0


def test_a_drift_too_slow_for_two_samples_counts_when_it_has_gone_far_enough() -> None:
    still = watch(Stillness(), snapshot(busy=0.1), NAMES, 0.0)
    moved = []
    for step in range(1, 21):
        still = watch(still, snapshot(busy=0.1 + 0.011 * step), NAMES, float(step))
        moved.append(still.moved_s)
    assert sorted({each for each in moved if each is not None}) == [0.0, 5.0, 10.0, 15.0, 20.0]


@pytest.mark.parametrize(
    ("after", "name"),
    [
        ({"busy": 0.2}, "cpu.busy_other"),
        ({"available": 400}, "memory.available"),
        ({"celsius": 43.0}, "temperature.max"),
        ({"on_mains": False}, "power.on_mains"),
        ({"on_mains": None}, "power.on_mains"),
        ({"idle_s": 0.0}, "user.idle_s"),
    ],
)
def test_a_signal_that_moves_comes_or_goes_is_noticed_and_named(after: dict[str, float], name: str) -> None:
    still = watch(Stillness(), snapshot(), NAMES, 0.0)
    still = watch(still, snapshot(**after), NAMES, 5.0)  # type: ignore[arg-type]
    assert (still.moved_s, still.moved) == (5.0, f"{name} moved")


def test_time_that_passes_without_a_user_is_no_movement() -> None:
    still = watch(Stillness(), snapshot(idle_s=0.0), NAMES, 0.0)
    for step in range(1, 5):
        still = watch(still, snapshot(idle_s=1000.0 * step), NAMES, 1000.0 * step)
    assert still.moved_s == 0.0


def test_a_signal_counts_when_the_policy_names_it_and_not_otherwise() -> None:
    def reading(value: float) -> AddedReading:
        return AddedReading(name="app.people", value=value, unit="people", taken_s=0.0)

    rule = (
        '[policy]\nname = "x"\n[[rule]]\nname = "r"\nwhen = [{ signal = "app.people", above = 1.0 }]\ninference = 0.5\n'
    )
    for policy, expected in ((parse_policy(rule, "f"), 5.0), (parse_policy('[policy]\nname = "x"\n', "f"), 0.0)):
        names = signals_that_count(policy)
        still = watch(Stillness(), snapshot(added=(reading(0.0),)), names, 0.0)
        assert watch(still, snapshot(added=(reading(3.0),)), names, 5.0).moved_s == expected


def test_the_presets_name_what_they_act_on() -> None:
    names = signals_that_count(load_preset("balanced"))
    assert {condition.signal for rule in load_preset("balanced").rule for condition in rule.when} <= names
    assert names >= NAMES


def test_what_calls_for_attention_starts_the_calm_anew_and_keeps_what_was_seen() -> None:
    still = stir(watch(Stillness(), snapshot(), NAMES, 0.0), 60.0, "a request came")
    assert (still.moved_s, still.moved) == (60.0, "a request came")
    assert watch(still, snapshot(), NAMES, 61.0) == still


POLICY = """
[policy]
name = "x"
[inference]
raise_after_s = 30.0
[[rule]]
name = "busy"
when = [{ signal = "cpu.busy_other", above = 0.5, for_s = 20.0, leave_for_s = 8.0 }]
inference = 0.5
"""


def test_what_a_policy_waits_for_is_told_to_the_second() -> None:
    policy, memory, previous = parse_policy(POLICY, "f"), initial_state(), None
    due = []
    for now_s, busy in ((0.0, 0.1), (10.0, 0.9), (20.0, 0.9), (30.0, 0.9), (40.0, 0.1), (48.0, 0.1), (78.0, 0.1)):
        seen = snapshot(busy=busy).model_copy(update={"time_s": now_s})
        previous, memory = decide(policy, seen, memory, {}, None, previous, str(now_s))
        due.append(due_in_s(policy, memory, previous, now_s))
    # Nothing; the rule in 20 s, in 10 s; it holds; its leaving in 8 s; the rise in 30 s; nothing.
    assert due == [None, 20.0, 10.0, None, 8.0, 30.0, None]


@given(st.lists(st.sampled_from([0.1, 0.9]), min_size=5, max_size=20))
@settings(max_examples=20)
def test_a_wait_ends_within_a_fast_period_of_its_time_whatever_the_period_was(values: list[float]) -> None:
    """A device that is sampled by the rule enters a condition as soon as one that is sampled each second does."""
    fast_s, slow_s = 1.0, 8.0
    policy, memory, previous, still = parse_policy(POLICY, "f"), initial_state(), None, Stillness()
    now_s, since, plans = 0.0, None, Plans()
    while now_s < 10.0 * len(values):
        busy = values[int(now_s // 10)]
        seen = snapshot(busy=busy).model_copy(update={"time_s": now_s})
        previous, memory = decide(policy, seen, memory, {}, None, previous, str(now_s), plans=plans)
        still = watch(still, seen, signals_that_count(policy), now_s)
        state = memory.conditions["busy/0"]
        since = now_s if since is None and busy > 0.5 and not state.active else since if busy > 0.5 else None
        if since is not None and not state.active:
            assert now_s - since < 20.0
        due = due_in_s(policy, memory, previous, now_s)
        now_s += pace(still, now_s, fast_s=fast_s, slow_s=slow_s, work=None, due_in_s=due).period_s
        if since is not None and due is not None:
            assert now_s - since <= 20.0 + fast_s
