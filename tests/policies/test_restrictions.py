"""What sections and rules take away: of everything the most restrictive counts, and is named."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.cascade import Basis, Promise
from patchd.policies.decide import decide
from patchd.policies.decision import CapKey, Decision, Ladder, Rung
from patchd.policies.errors import ForbiddenError
from patchd.policies.keep_alive import why_unload
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.promises import promise_for, too_weak
from patchd.policies.restrictions import FREE, Limit, Restrictions, of_applications, of_section, of_task, together
from patchd.policies.rules import initial_state
from patchd.policies.sections import ApplicationSection, CascadeCaps, TaskSection
from patchd.policies.snapshot import Cpu, Power, Sensor, Snapshot
from patchd.policies.task_rungs import check_may_ask, rung_for
from patchd.policies.training_times import Bar, TrainingDay

HEAD = '[policy]\nname = "p"\n'
HOT = 'when = [{ signal = "temperature.max", above = 80.0, leave_below = 70.0 }]\n'
LADDER = Ladder(
    task="t",
    rungs=tuple(Rung(resolution=side, cost_ms=float(side), accuracy=side / 512) for side in (96, 128, 192, 224)),
)
MONDAY = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)


def policy(text: str) -> Policy:
    return parse_policy(HEAD + text, "p.toml")


def decided(
    text: str, snapshot: Snapshot, local: datetime | None = MONDAY, ladders: tuple[Ladder, ...] = (LADDER,)
) -> Decision:
    day = None if local is None else TrainingDay(local)
    named = {ladder.task: ladder for ladder in ladders}
    return decide(policy(text), snapshot, initial_state(), named, None, None, "d", day=day)[0]


def at(celsius: float = 90.0, charge: float | None = None) -> Snapshot:
    power = Power() if charge is None else Power(on_mains=False, battery_charge=charge)
    return Snapshot(time_s=0.0, cpu=Cpu(count=2), temperatures=(Sensor(name="s", celsius=celsius),), power=power)


# of several

LIMITS = st.none() | st.builds(Limit, st.integers(1, 9).map(float), st.sampled_from(["a", "b", "c"]))
NAMES = st.none() | st.sampled_from(["a", "b"])
RESTRICTIONS = st.builds(Restrictions, *[LIMITS] * 5, *[NAMES] * 3)


@given(st.lists(RESTRICTIONS, max_size=4))
@settings(max_examples=60)
def test_together_nothing_is_freer_than_each_alone_and_each_bound_is_one_of_theirs(many: list[Restrictions]) -> None:
    whole = together(many)
    for name, pick in (("inference", min), ("max_resolution", min), ("epsilon", min), ("min_resolution", max)):
        given_limits = [limit for each in many if (limit := getattr(each, name)) is not None]
        found = getattr(whole, name)
        assert (found is None) == (not given_limits)
        if given_limits:
            assert found in given_limits
            assert found.value == pick(limit.value for limit in given_limits)
    assert (whole.no_training is None) == all(each.no_training is None for each in many)
    low, high = whole.resolutions
    assert low is None or high is None or low <= high


@given(RESTRICTIONS, RESTRICTIONS)
@settings(max_examples=60)
def test_the_order_of_restrictions_changes_no_bound(one: Restrictions, other: Restrictions) -> None:
    def bounds(of: Restrictions) -> list[float | bool | None]:
        limits = (of.inference, of.min_resolution, of.max_resolution, of.epsilon, of.delta)
        forbidden = (of.no_cascade, of.no_training, of.no_examples)
        return [None if each is None else each.value for each in limits] + [each is None for each in forbidden]

    assert bounds(one.and_also(other)) == bounds(other.and_also(one))
    assert one.and_also(FREE) == one


# tasks


def test_a_task_has_its_own_caps_and_says_who_set_them() -> None:
    other = LADDER.model_copy(update={"task": "other"})
    text = "[task.t]\ninference = 0.3\nmax_resolution = 192\n"
    found = {rung.task: rung for rung in decided(text, at(20.0), ladders=(LADDER, other)).rungs}
    assert found["other"].resolution == 224
    assert found["t"].resolution == 96
    assert "[task.t] allows an allocation of 0.30 at most; [task.t] allows 192 px at most" in found["t"].text


@given(st.floats(0, 1), st.none() | st.floats(0, 1), st.none() | st.sampled_from([96, 160, 224]))
@settings(max_examples=40)
def test_no_task_answers_above_its_caps(allocation: float, cap: float | None, high: int | None) -> None:
    caps = (("inference", cap), ("max_resolution", high))
    section = "".join(f"{key} = {value}\n" for key, value in caps if value is not None)
    rung = decided(f"[inference]\nallocation = {allocation}\n[task.t]\n{section}", at(20.0)).rungs[0]
    assert high is None or rung.resolution <= high
    chosen = next(each for each in rung.candidates if each.chosen)
    bound = 224 if high is None else max(each for each in (96, 128, 192, 224) if each <= high)
    assert chosen.cost_ms <= 96 + min(allocation, 1.0 if cap is None else cap) * (bound - 96) + 1e-6


def test_a_worker_stays_as_long_as_one_of_its_tasks_keeps_it_and_no_rule_says_less() -> None:
    text = "[inference]\nkeep_alive_s = 100\n[task.t]\nkeep_alive_s = 1000\n[task.brief]\nkeep_alive_s = 5\n"
    kept = policy(f"{text}[[rule]]\nname = 'hot'\n{HOT}keep_alive_s = 20\n")
    assert why_unload(kept, (), {"": 500, "t": 900}) is None
    assert why_unload(kept, (), {"": 500, "t": 1001}) == "idle for 500 s"
    assert why_unload(kept, (), {"": 500, "brief": 6}) == "idle for 6 s"
    assert why_unload(kept, (), {"brief": 4}) is None
    caps = decided(f"{text}[[rule]]\nname = 'hot'\n{HOT}keep_alive_s = 20\n", at()).caps
    assert why_unload(kept, caps, {"t": 21}) == "idle for 21 s, and rule 'hot' allows 20 s"
    assert why_unload(kept, caps, {"t": 19}) is None


# applications and single requests


def test_a_section_is_for_the_callers_that_match_all_it_says() -> None:
    camera = ApplicationSection(user="cam*", unit="camera-?.service", program="grab")
    assert camera.matches("cam1", ("system.slice", "camera-2.service"), "grab")
    assert not camera.matches("anna", ("camera-2.service",), "grab")
    assert not camera.matches("cam1", ("camera-22.service",), "grab")
    assert not camera.matches("cam1", ("camera-2.service",), None)
    assert ApplicationSection(user="*").matches("an unknown caller", (), None)


def test_a_caller_with_less_gets_a_smaller_rung_and_the_reason() -> None:
    whole = decided("", at(20.0)).rungs[0]
    camera = ApplicationSection(user="*", max_resolution=160)
    own = of_applications([("camera", camera), ("b", ApplicationSection(user="*"))])
    rung = rung_for(LADDER, whole, 1.0, FREE, own)
    assert rung.resolution == 128
    assert rung.text.endswith("[application.camera] allows 160 px at most")
    assert rung_for(LADDER, whole, 1.0, FREE, of_section(TaskSection(training=False), "x")) is whole
    assert rung_for(LADDER, None, 0.0, FREE, FREE).resolution == 96


@given(st.floats(0, 1), RESTRICTIONS)
@settings(max_examples=60)
def test_no_caller_gets_more_than_it_may(device: float, own: Restrictions) -> None:
    scaled = Restrictions(
        inference=None if own.inference is None else Limit(own.inference.value / 9, "a"),
        max_resolution=None if own.max_resolution is None else Limit(32 * own.max_resolution.value, "a"),
    )
    whole = decided(f"[inference]\nallocation = {device}\n", at(20.0)).rungs[0]
    rung = rung_for(LADDER, whole, device, FREE, scaled)
    high = scaled.resolutions[1]
    assert high is None or rung.resolution <= high or rung.resolution == 96  # the nearest where none is left
    assert next(each for each in rung.candidates if each.chosen).cost_ms <= 96 + scaled.allocation(device) * 128 + 1e-6


@pytest.mark.parametrize(
    ("section", "resolution", "said"),
    [
        ({"max_resolution": 160}, 192, "may not ask for 192 px: the policy's x allows it 160 px at most"),
        ({"min_resolution": 128}, 96, "x allows it 128 px at least"),
        (
            {"inference": 0.3},
            224,
            "x allows it an allocation of 0.30 at most, a budget of 134.4 ms; that rung costs 224.0",
        ),
    ],
)
def test_asking_by_name_for_more_than_allowed_is_refused_in_one_sentence(
    section: dict[str, float], resolution: int, said: str
) -> None:
    own = of_section(ApplicationSection.model_validate({"user": "*", **section}), "x")
    with pytest.raises(ForbiddenError, match=said):
        check_may_ask(LADDER, resolution, own)
    check_may_ask(LADDER, 128, own)
    check_may_ask(LADDER, resolution, FREE)


# rules


def test_of_each_result_the_most_restrictive_matching_rule_counts_and_says_so() -> None:
    text = (
        f"[[rule]]\nname = 'warm'\n{HOT}max_resolution = 192\nmemory_bytes = 1e8\n"
        f"[[rule]]\nname = 'hot'\n{HOT}max_resolution = 128\nmemory_bytes = 2e8\ncascade = {{ enabled = false }}\n"
        f"[[rule]]\nname = 'cold'\nwhen = [{{ signal = 'temperature.max', below = 10.0 }}]\nmax_resolution = 96\n"
    )
    found = {cap.key: cap for cap in decided(text, at()).caps}
    assert {key: (cap.value, cap.rule) for key, cap in found.items()} == {
        CapKey.MAX_RESOLUTION: (128.0, "hot"),
        CapKey.MEMORY_BYTES: (1e8, "warm"),
        CapKey.CASCADE: (0.0, "hot"),
    }
    texts = [reason.text for reason in found[CapKey.MAX_RESOLUTION].reasons]
    assert texts[0] == (
        "rule 'hot' allows 128 px at most because temperature.max is 90, above 80 (left at 70); "
        "the most restrictive matching rule"
    )
    assert texts[1].endswith("matches too, but is less restrictive")
    assert decided(text, at()).rungs[0].resolution == 128
    assert decided(text, at()).plan.memory_bytes == int(1e8)


def test_a_rule_that_the_tables_already_go_beyond_restricts_nothing() -> None:
    text = f"[inference]\nmax_resolution = 96\n[[rule]]\nname = 'hot'\n{HOT}max_resolution = 128\n"
    assert decided(text, at()).caps == ()


def test_a_rule_may_forbid_training_and_lower_its_day() -> None:
    text = f"[[rule]]\nname = 'hot'\n{HOT}training = false\nmax_minutes_per_day = 5\n"
    day = TrainingDay(MONDAY, used_s=600.0)
    now = decide(policy(text), at(), initial_state(), {}, None, None, "d", day=day)[0]
    assert [each.key for each in now.times.hindrances] == [Bar.PERMISSION, Bar.MAX_MINUTES_PER_DAY]
    assert "rule 'hot' does not permit training because temperature.max is 90" in now.times.text
    assert now.training.value == 0.0


@pytest.mark.parametrize(
    ("local", "resolution", "said"),
    [(MONDAY, 128, "it is mon 09:30, within mon-fri 08:00-18:00"), (MONDAY.replace(day=1), 224, ""), (None, 224, "")],
    ids=["inside", "outside", "no clock"],
)
def test_a_rule_with_windows_counts_within_them_only(local: datetime | None, resolution: int, said: str) -> None:
    text = "[[rule]]\nname = 'office'\nwindows = ['mon-fri 08:00-18:00']\nmax_resolution = 160\ntraining = 0.1\n"
    decision = decided(text, at(), local)
    assert decision.rungs[0].resolution == resolution
    assert said in "".join(reason.text for cap in decision.caps for reason in cap.reasons)
    if local is None:
        assert "rule 'office' cannot match: the trace does not tell the time of day" in [
            r.text for r in decision.training.reasons
        ]


def test_a_curve_gives_the_allocation_and_without_its_signal_the_rule_does_not_match() -> None:
    curve = "{ over = 'battery.charge', points = [[0.1, 0.2], [0.5, 1.0]] }"
    text = f"[[rule]]\nname = 'battery'\ninference = {curve}\ntraining = 0.0\n"
    decision = decided(text, at(charge=0.3))
    assert decision.inference.value == 0.6
    assert decision.training.value == 0.0
    assert decision.inference.reasons[0].text == (
        "rule 'battery' allows inference at most 0.6 (its curve over battery.charge at 0.3); "
        "the most restrictive matching rule"
    )
    absent = decided(text, at())
    assert (absent.inference.value, absent.training.value) == (1.0, 0.5)
    assert "cannot match: this machine has no battery.charge" in absent.inference.reasons[-1].text


# promises


def test_a_policy_refuses_what_promises_less_and_cannot_promise_more() -> None:
    promise = Promise(basis=Basis.AGREEMENT, epsilon=0.01, delta=0.05, samples=300, holds=True)
    assert too_weak(promise, True, FREE) is None
    strict = of_section(TaskSection(cascade=CascadeCaps(epsilon=0.005)), "[task.t]")
    assert too_weak(promise, True, strict) == (
        "[task.t] allows epsilon 0.005 at most, and the cascade was calibrated for 0.01"
    )
    loose = of_section(TaskSection(cascade=CascadeCaps(epsilon=0.02, delta=0.05)), "[task.t]")
    assert too_weak(promise, True, loose) is None
    assert "carries none" in str(too_weak(promise, False, loose))


def test_a_task_is_calibrated_for_its_own_promise_else_for_the_tables() -> None:
    both = policy("[cascade]\nepsilon = 0.02\n[task.t.cascade]\nepsilon = 0.005\n[task.off.cascade]\nenabled = false\n")
    assert (promise_for(both, "t").epsilon, promise_for(both, "t").delta) == (0.005, 0.05)
    assert promise_for(both, "other").epsilon == 0.02
    assert not promise_for(both, "off").enabled
    assert of_task(both, (), "off").no_cascade == "[task.off]"
