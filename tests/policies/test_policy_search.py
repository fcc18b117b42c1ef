"""The search over random policies and traces: it finds nothing, and would find what is broken and make it small."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from patchd.policies import dwelling
from patchd.policies.policy import parse_policy
from policy_search import examine, search, shrunk
from random_policies import Case, random_case


def test_a_hundred_decisions_of_random_policies_keep_what_must_hold() -> None:
    seen, number = search(range(12), seed=1, samples=40)
    assert number is None
    assert seen.turns > 100
    assert seen.counts["rules in force"]


def test_a_controller_that_flaps_is_found_and_the_case_made_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dwelling, "DWELL_S", 0.2)
    rules = [
        {"name": f"r{limit}", "when": [{"signal": signal, "above": above}], "inference": limit}
        for signal, above, limit in (
            ("cpu.busy_other", 0.5, 0.5),
            ("cpu.busy_other", 0.8, 0.1),
            ("battery.charge", 0.9, 0.9),
        )
    ]
    flapping = Case(
        policy={"policy": {"name": "flaps"}, "inference": {"raise_after_s": 0.0}, "training": {}, "rule": rules},
        rungs=tuple({"resolution": side} for side in (96, 128, 160, 192, 224)),
        samples=tuple(
            (float(t), {"cpu.busy_other": share, "battery.charge": 0.5}, None)
            for t, share in enumerate([0.1] * 8 + [0.6, 0.9] + [0.1] * 8)
        ),
        memory_bytes=None,
    )
    broken = examine(flapping).broken
    assert broken is not None
    assert "the resolution changes after 1.0 s" in broken
    small = shrunk(flapping)
    assert examine(small).broken is not None
    assert len(small.samples) < len(flapping.samples) / 2
    assert len(small.rungs) < len(flapping.rungs)
    assert len(small.policy["rule"]) < len(rules)
    assert {name for _, values, _ in small.samples for name in values} == {"cpu.busy_other"}


def test_a_case_is_printed_as_a_policy_that_can_be_read_again() -> None:
    case = random_case(random.Random("a case"), 30)
    policy = parse_policy(case.toml, "case.toml")
    assert len(policy.rule) == len(case.policy["rule"])
    assert replace(case, policy={**case.policy, "rule": []}).toml in case.toml
