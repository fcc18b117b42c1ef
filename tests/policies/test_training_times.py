"""When training may run: each condition alone, what the machine does not tell, and what the decision says of it."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from patchd.policies.decide import decide
from patchd.policies.explain import flattened, sections
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.policy_tables import Training
from patchd.policies.rules import initial_state
from patchd.policies.snapshot import Cpu, Power, Sensor, Snapshot, User
from patchd.policies.training_times import Bar, TrainingDay, next_boundary, training_times

ZONE = ZoneInfo("Europe/Berlin")
BARE = Snapshot(time_s=0.0, cpu=Cpu(count=2))
NIGHT = TrainingDay(datetime(2026, 6, 2, 3, 0, tzinfo=ZONE))
NOON = TrainingDay(datetime(2026, 6, 2, 12, 0, tzinfo=ZONE), used_s=660.0)


def keys(policy: Training, snapshot: Snapshot = BARE, day: TrainingDay | None = NOON, before: tuple[Bar, ...] = ()):
    return [each.key for each in training_times(policy, snapshot, day, before).hindrances]


def text(policy: Training, snapshot: Snapshot = BARE, day: TrainingDay | None = NOON) -> str:
    return training_times(policy, snapshot, day).text


def heat(celsius: float) -> Snapshot:
    return BARE.model_copy(update={"temperatures": (Sensor(name="cpu", celsius=celsius),)})


def test_a_policy_that_asks_for_nothing_hinders_nothing() -> None:
    assert keys(Training()) == []
    assert text(Training()) == ""
    assert next_boundary(Training(), NOON.local) is None


def test_outside_the_windows_training_waits_and_says_when_the_next_opens() -> None:
    policy = Training(windows=("01:00-05:00", "sat 10:00-12:00"))
    assert keys(policy, day=NIGHT) == []
    assert text(policy) == (
        "training waits: tue 12:00 is outside the policy's windows (01:00-05:00, sat 10:00-12:00); "
        "the next opens wed 01:00"
    )
    assert next_boundary(policy, NOON.local) == datetime(2026, 6, 3, 1, 0, tzinfo=ZONE)
    assert next_boundary(policy, NIGHT.local) == datetime(2026, 6, 2, 5, 0, tzinfo=ZONE)
    assert keys(policy, day=None) == []


def test_the_daily_limit_counts_processor_minutes_and_ends_with_the_local_day() -> None:
    assert keys(Training(max_minutes_per_day=11.5)) == []
    policy = Training(max_minutes_per_day=11)
    assert text(policy) == "training waits: training has used 11.0 of the 11 processor minutes of this day"
    assert next_boundary(policy, NOON.local) == datetime(2026, 6, 3, 0, 0, tzinfo=ZONE)


def test_on_battery_it_waits_and_without_a_battery_it_is_on_mains() -> None:
    policy = Training(only_on_mains=True)
    assert keys(policy, BARE.model_copy(update={"power": Power(on_mains=False)})) == [Bar.ONLY_ON_MAINS]
    assert keys(policy, BARE.model_copy(update={"power": Power(on_mains=True)})) == []
    assert training_times(policy, BARE, NOON).assumed == (
        "only_on_mains: this machine has neither a battery nor an adapter to read, so it is on mains",
    )


def test_a_user_who_is_there_makes_it_wait_and_so_does_a_machine_that_does_not_tell() -> None:
    policy = Training(idle_for_s=600)
    assert keys(policy, BARE.model_copy(update={"user": User(idle_s=600.0)})) == []
    used = text(policy, BARE.model_copy(update={"user": User(idle_s=40.0)}))
    assert used == "training waits: the device was used 40 s ago, and must be idle for 600 s"
    assert text(policy).endswith("this machine does not tell (no user.idle_s)")


def test_heat_has_a_band_and_a_machine_without_a_sensor_is_never_too_hot() -> None:
    policy = Training(max_celsius=80)
    assert keys(policy, heat(80.0)) == []
    assert keys(policy, heat(81.0)) == [Bar.MAX_CELSIUS]
    assert keys(policy, heat(76.0), before=(Bar.MAX_CELSIUS,)) == [Bar.MAX_CELSIUS]
    assert keys(policy, heat(75.0), before=(Bar.MAX_CELSIUS,)) == []
    assert training_times(policy, BARE, NOON).assumed == (
        "max_celsius: this machine has no temperature to read, so none is too high",
    )


@pytest.fixture
def policy() -> Policy:
    return parse_policy(
        """
[policy]
name = "night"
[training]
windows = ["01:00-05:00"]
max_celsius = 80
only_on_mains = true
""",
        "f",
    )


def test_a_decision_names_every_hindrance_once_and_tells_when_one_comes_or_goes(policy: Policy) -> None:
    state, costs = initial_state(), None
    first, state = decide(policy, heat(90.0), state, {}, costs, None, "1", None, NOON)
    assert [each.key for each in first.times.hindrances] == [Bar.WINDOWS, Bar.MAX_CELSIUS]
    assert not first.plan.plan.paused  # the allocation would let it
    told = flattened(sections(first, heat(90.0), None))
    assert "Training waits, whatever the allocation:" in told
    assert sum("the policy's windows" in sentence for sentence in told) == 1
    assert any("so it is on mains" in sentence for sentence in told)
    second, state = decide(policy, heat(90.0), state, {}, costs, first, "2", None, NOON)
    assert second.changed == ()
    cooler, state = decide(policy, heat(70.0), state, {}, costs, second, "3", None, NOON)
    assert [said for said in cooler.changed if said.startswith("training waits")] == [f"{cooler.times.text}."]
    night, _ = decide(policy, heat(76.0), state, {}, costs, cooler, "4", None, NIGHT)
    assert night.changed == ("training waits for nothing any more.",)
    assert "Training waits, whatever the allocation:" not in flattened(sections(night, heat(70.0), None))
