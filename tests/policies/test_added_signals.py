"""Signals that applications and plug-ins add: which names they may have, and what policies make of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.added_signals import MAX_NAME, is_added
from patchd.policies.decide import decide
from patchd.policies.errors import PolicyError
from patchd.policies.explain import flattened, sections
from patchd.policies.policy import parse_policy
from patchd.policies.rules import initial_state
from patchd.policies.signals import SIGNALS, signal_spec, signals
from patchd.policies.snapshot import AddedReading, Cpu, Snapshot

WORD = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True)
POLICY = """
[policy]
name = "x"
[[rule]]
name = "talking"
when = [{{ signal = "{signal}", above = 0.5 }}]
inference = 0.2
"""


def snapshot(*readings: AddedReading) -> Snapshot:
    return Snapshot(time_s=10.0, cpu=Cpu(count=2), added=readings)


def reading(name: str, value: float = 1.0) -> AddedReading:
    return AddedReading(name=name, value=value, unit="people", meaning="people in view", source="anna", taken_s=9.0)


@given(st.sampled_from(["app", "plugin"]), st.lists(WORD, min_size=1, max_size=4))
@settings(max_examples=50)
def test_words_behind_either_prefix_are_a_name(prefix: str, words: list[str]) -> None:
    assert is_added(".".join([prefix, *words]))


@pytest.mark.parametrize(
    "name",
    ["app", "app.", "app..x", "app.X", "app.x y", "app.-x", "cpu.busy", "apps.x", "app.x\n", "app." + "x" * MAX_NAME],
)
def test_other_names_are_none(name: str) -> None:
    assert not is_added(name)


def test_no_signal_of_the_table_can_be_taken_for_an_added_one() -> None:
    assert not any(is_added(name) for name in SIGNALS)


@pytest.mark.parametrize("name", ["app.people", "plugin.weather.rain"])
def test_a_policy_may_name_an_added_signal_that_is_not_there_yet(name: str) -> None:
    policy = parse_policy(POLICY.format(signal=name), "f")
    decision, _ = decide(policy, snapshot(), initial_state(), {}, None, None, "1")
    assert decision.inference.value == 1.0
    assert f"this machine has no {name}" in " ".join(reason.text for reason in decision.inference.reasons)


def test_a_rule_on_an_added_signal_matches_while_it_is_there() -> None:
    policy = parse_policy(POLICY.format(signal="app.people"), "f")
    seen = snapshot(reading("app.people", 3.0))
    decision, _ = decide(policy, seen, initial_state(), {}, None, None, "1")
    assert decision.inference.value == 0.2
    assert "app.people is 3 people, 1.0 s old, from anna." in flattened(sections(decision, seen, None))


def test_a_name_that_only_begins_like_one_is_refused_with_the_rule_for_names() -> None:
    with pytest.raises(PolicyError, match=r"f:6:\d+: .*'app.People' is no name of an added signal: two or more words"):
        parse_policy(POLICY.format(signal="app.People"), "f")


def test_another_unknown_name_is_still_refused_with_the_one_that_was_meant() -> None:
    with pytest.raises(PolicyError, match=r"unknown signal 'cpu.bussy', did you mean 'cpu.busy'"):
        parse_policy(POLICY.format(signal="cpu.bussy"), "f")


def test_an_added_signal_has_the_unit_and_meaning_that_were_given_with_it() -> None:
    spec = signal_spec("app.people", snapshot(reading("app.people")))
    assert spec is not None
    assert (spec.unit, spec.meaning) == ("people", "people in view")
    assert spec.read(snapshot(reading("app.people", 4.0))) == 4.0
    assert signals(snapshot(reading("app.people", 4.0)))["app.people"] == 4.0
    assert signal_spec("app.other") is not None
    assert signal_spec("nothing.like_it") is None
