"""Every rule says whether it matches, and where it does not, why not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.conditions import Condition, Rule
from patchd.policies.decide import decide
from patchd.policies.decision import Ladder, Rung
from patchd.policies.explain import flattened, sections
from patchd.policies.policy import Policy, parse_policy
from patchd.policies.policy_tables import Head
from patchd.policies.presets_loader import load_preset
from patchd.policies.rules import allocations, initial_state
from patchd.policies.signal_words import value_in_words
from patchd.policies.snapshot import Cpu, Disk, Power, Sensor, Snapshot
from patchd.policies.verdicts import RuleVerdict, Standing, verdicts

BUSY = '{ signal = "cpu.busy_other", above = 0.6, leave_below = 0.4, for_s = 0.5, leave_for_s = 2.0 }'


def policy(*conditions: str, name: str = "busy") -> Policy:
    when = ", ".join(conditions)
    return parse_policy(
        f'[policy]\nname = "p"\n[[rule]]\nname = "{name}"\nwhen = [{when}]\ninference = 0.2\ntraining = 0.0\n', "p"
    )


def seen(t: float, busy: float | None = None, **sections: object) -> Snapshot:
    return Snapshot(time_s=t, cpu=Cpu(count=2, busy=busy, busy_own=0.0), **sections)


def last(of: Policy, *snapshots: Snapshot) -> tuple[RuleVerdict, ...]:
    state = initial_state()
    for snapshot in snapshots:
        _, _, state = allocations(of, snapshot, state)
    return verdicts(of, snapshots[-1], state)


@pytest.mark.parametrize(
    ("shares", "standing", "text"),
    [
        ((0.1, 0.2), Standing.FAILS, "'busy' does not match: cpu.busy_other is 0.2, and it is entered above 0.6"),
        (
            (0.1, 0.9, 0.9),
            Standing.WAITS,
            "'busy' waits: cpu.busy_other has been above 0.6 for 0.2 of 0.5 s (now 0.9)",
        ),
        (
            (0.9, 0.7),
            Standing.HOLDS,
            "'busy' matches: cpu.busy_other is 0.7, above 0.6 (left at 0.4); it allows inference at most 0.2 and "
            "training at most 0",
        ),
        (
            (0.9, 0.5),
            Standing.HOLDS,
            "'busy' matches: cpu.busy_other is 0.5; it was above 0.6, and is left at 0.4; it allows inference at most "
            "0.2 and training at most 0",
        ),
        (
            (0.9, 0.3, 0.3),
            Standing.LEAVING,
            "'busy' matches: cpu.busy_other is 0.3, and has been below 0.4 for 0.2 of 2 s; it allows inference at most "
            "0.2 and training at most 0",
        ),
    ],
    ids=["fails", "waits", "holds", "between", "leaving"],
)
def test_a_rule_says_where_it_stands(shares: tuple[float, ...], standing: Standing, text: str) -> None:
    (verdict,) = last(policy(BUSY), *(seen(0.2 * turn, share) for turn, share in enumerate(shares)))
    assert verdict.text == text
    assert verdict.standing is standing
    assert verdict.matches == (standing in (Standing.HOLDS, Standing.LEAVING))


def test_a_rule_on_a_signal_that_the_machine_lacks_cannot_match_and_says_what_it_is() -> None:
    (verdict,) = last(policy('{ signal = "temperature.max", above = 85.0 }', name="hot"), seen(0.0))
    assert verdict.text == "'hot' cannot match: this machine has no temperature.max (hottest sensor)"
    assert verdict.standing is Standing.ABSENT
    assert verdict.conditions[0].value is None


def test_of_several_conditions_those_that_fail_are_named() -> None:
    on_battery = '{ signal = "power.on_mains", is = false }'
    low = '{ signal = "battery.charge", below = 0.2, leave_above = 0.25 }'
    rule = policy(on_battery, low, name="low")
    mains = last(rule, seen(0.0, power=Power(on_mains=True, battery_charge=0.1)))[0].text
    assert mains == (
        "'low' does not match: power.on_mains is true, and it asks for false (1 of its 2 conditions holds)"
    )
    both = last(rule, seen(0.0, power=Power(on_mains=False, battery_charge=0.1)))[0].text
    assert both.startswith(
        "'low' matches: power.on_mains is false and battery.charge is 0.1, below 0.2 (left at 0.25);"
    )
    neither = last(rule, seen(0.0, power=Power(on_mains=True)))[0].text
    assert neither == (
        "'low' cannot match: power.on_mains is true, and it asks for false; this machine has no battery.charge "
        "(charge of all batteries)"
    )


def test_values_are_told_in_the_words_of_their_unit() -> None:
    disk = policy('{ signal = "disk.free_bytes", below = 500000000, leave_above = 700000000 }', name="full")
    told = last(disk, seen(0.0, disk=Disk(total_bytes=10**12, free_bytes=31_400_000_000)))[0].text
    assert told == "'full' does not match: disk.free_bytes is 31.4 GB, and it is entered below 500 MB"
    hot = policy('{ signal = "temperature.max", above = 85.0 }', name="hot")
    told = last(hot, seen(0.0, temperatures=(Sensor(name="cpu", celsius=61.0),)))[0].text
    assert told == (
        "'hot' does not match: temperature.max is 61 degrees Celsius, and it is entered above 85 degrees Celsius"
    )
    assert value_in_words(172_800.4, "seconds") == "172800 s"
    assert value_in_words(12, "") == "12"
    assert value_in_words(0, "bytes") == "0 bytes"


SHARES = st.floats(0, 1)
CONDITIONS = st.one_of(
    st.builds(
        lambda v, s: Condition(signal="cpu.busy_other", above=v, for_s=s, leave_for_s=s), SHARES, st.floats(0, 3)
    ),
    st.builds(lambda v: Condition(signal="battery.charge", below=v), SHARES),
    st.builds(lambda v: Condition(**{"signal": "power.on_mains", "is": v}), st.booleans()),
)
SNAPSHOTS = st.builds(
    lambda busy, charge, mains: {"busy": busy, "power": Power(on_mains=mains, battery_charge=charge)},
    st.none() | SHARES,
    st.none() | SHARES,
    st.none() | st.booleans(),
)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.lists(CONDITIONS, min_size=1, max_size=3), SHARES), min_size=1, max_size=4),
    st.lists(SNAPSHOTS, min_size=1, max_size=8),
)
def test_the_verdicts_are_what_the_allocations_acted_on(
    rules: list[tuple[list[Condition], float]], trace: list[dict[str, Any]]
) -> None:
    made = Policy(
        policy=Head(name="p"),
        rule=tuple(
            Rule(name=f"r{place}", when=tuple(when), inference=limit) for place, (when, limit) in enumerate(rules)
        ),
    )
    state = initial_state()
    for t, fields in enumerate(trace):
        snapshot = seen(float(t), **fields)
        decision, state = decide(made, snapshot, state, {}, None, None, str(t))
        found = verdicts(made, snapshot, state)
        acted = {reason.rule for reason in decision.inference.reasons if reason.kind == "rule"}
        assert {each.rule for each in found if each.matches} == acted
        assert [each.rule for each in found] == [rule.name for rule in made.rule]
        for verdict in found:
            assert verdict.text.startswith(f"'{verdict.rule}' ")
            assert verdict.matches == all(each.met for each in verdict.conditions)
            for condition in verdict.conditions:
                assert (condition.value is None) == (condition.standing is Standing.ABSENT)
                assert (condition.elapsed_s is None) == (condition.wait_s is None)


def test_an_explanation_tells_each_rule_once_under_its_heading() -> None:
    balanced = load_preset("balanced")
    snapshot = seen(0.0, 0.9, power=Power(on_mains=True))
    decision, state = decide(balanced, snapshot, initial_state(), {}, None, None, "1")
    told = sections(decision, snapshot, verdicts(balanced, snapshot, state))
    by_key = {section.key: section for section in told}
    items = (*by_key["rules.match"].items, *by_key["rules.other"].items)
    assert [sum(f"'{rule.name}' " in item for item in items) for rule in balanced.rule] == [1] * len(balanced.rule)
    assert len(by_key["rules.match"].items) == 2  # processors-busy and processors-full
    assert not any("cannot match" in item for item in by_key["inference"].items)
    assert all(sentence.endswith((".", ":")) for sentence in flattened(told))


def test_an_explanation_of_one_task_leaves_training_and_other_tasks_out() -> None:
    ladders = {name: Ladder(task=name, rungs=(Rung(resolution=96, cost_ms=1.0),)) for name in ("a", "b")}
    snapshot = seen(0.0, 0.1)
    decision, _ = decide(load_preset("balanced"), snapshot, initial_state(), ladders, None, None, "1")
    keys = [section.key for section in sections(decision, snapshot, (), "a")]
    assert "task:a" in keys
    assert not {"task:b", "training", "plan"} & set(keys)
