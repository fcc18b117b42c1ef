"""Traces and offline replay."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.decide import decide
from patchd.policies.decision import Ladder, Rung
from patchd.policies.errors import TraceError
from patchd.policies.explain import flattened, sections
from patchd.policies.presets_loader import load_preset, preset_names, trace_names, trace_text
from patchd.policies.replay import NEUTRAL, replay
from patchd.policies.rules import initial_state
from patchd.policies.signals import SIGNALS, signals
from patchd.policies.snapshot import Cpu, Memory, Power, Snapshot
from patchd.policies.trace import header_line, parse_trace, record_line

LADDER = {
    "imagenet": Ladder(
        task="imagenet", rungs=tuple(Rung(resolution=s, cost_ms=c) for s, c in ((96, 4), (128, 6), (160, 8), (224, 12)))
    )
}
HEADER = header_line("t", "a story", 1.0)


@pytest.mark.parametrize("policy", preset_names())
@pytest.mark.parametrize("trace", trace_names())
def test_every_trace_replays_under_every_preset_in_under_five_seconds(policy: str, trace: str) -> None:
    began = time.monotonic()
    result = replay(parse_trace(trace_text(trace), trace), load_preset(policy), LADDER)
    assert time.monotonic() - began < 5
    assert sum(result.seconds_at["imagenet"].values()) == pytest.approx(result.duration_s)
    assert result.changes


def test_the_demo_trace_falls_twice_and_pauses_training() -> None:
    result = replay(parse_trace(trace_text("demo"), "demo"), load_preset("balanced"), LADDER)
    assert [change.inference for change in result.changes] == [1.0, 0.3, 0.1]
    assert result.training_seconds == 8.0
    assert {"battery-low", "processors-full"} <= set(result.rule_seconds)


def test_sections_that_a_trace_leaves_out_keep_the_devices_own_value() -> None:
    trace = parse_trace(HEADER + '\n{"t": 0, "power": {"on_mains": false}}', "f")
    device = Snapshot(time_s=5.0, cpu=Cpu(count=3), power=Power(on_mains=True))
    merged = trace.at(0.0, device)
    assert merged.power.on_mains is False
    assert merged.cpu == device.cpu
    assert (merged.source, merged.time_s) == ("trace:t", 5.0)


@given(
    st.floats(0, 1),
    st.none() | st.booleans(),
    st.none() | st.floats(0, 1),
    st.integers(1, 2**40),
    st.integers(0, 2**40),
)
def test_what_is_recorded_is_what_is_replayed(
    busy: float, mains: bool | None, charge: float | None, total: int, available: int
) -> None:
    seen = Snapshot(
        time_s=3.0,
        cpu=Cpu(count=2, busy=busy),
        memory=Memory(total_bytes=total, available_bytes=min(total, available)),
        power=Power(on_mains=mains, battery_charge=charge),
    )
    trace = parse_trace(HEADER + "\n" + record_line(0.0, seen), "f")
    assert trace.at(0.0, NEUTRAL).model_copy(update={"source": "device", "traced": (), "time_s": 3.0}) == seen


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "header"),
        ("{}", "f:1"),
        (HEADER, "at least one record"),
        (HEADER + "\nnonsense", "f:2"),
        (HEADER + '\n{"t": 1}\n{"t": 1}', "f:3"),
        (HEADER + '\n{"t": 1, "weather": 3}', "weather"),
        (HEADER + '\n{"t": Infinity}', "f:2"),
        (HEADER.replace('"version":1', '"version":2') + '\n{"t": 0}', "version"),
    ],
)
def test_a_wrong_trace_is_refused_with_file_and_line(text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        parse_trace(text, "f")


def test_a_decision_tells_everything_in_sentences() -> None:
    snapshot = Snapshot(time_s=1.0, cpu=Cpu(count=2, busy=0.9, busy_own=0.0), power=Power(on_mains=True))
    decision, _ = decide(load_preset("balanced"), snapshot, initial_state(), LADDER, None, None, "1")
    told = "\n".join(flattened(sections(decision, snapshot, None)))
    for name in signals(snapshot):
        assert name in told
    for name in set(SIGNALS) - set(signals(snapshot)):
        assert name in told
    verdicts = [c.verdict for c in decision.rungs[0].candidates] + [c.verdict for c in decision.plan.candidates]
    assert all(verdict.casefold() in told.casefold() for verdict in verdicts)


def test_what_changed_is_said_with_its_cause() -> None:
    policy = load_preset("balanced")
    calm = Snapshot(time_s=1.0, cpu=Cpu(count=2), power=Power(on_mains=True, battery_charge=0.5))
    first, state = decide(policy, calm, initial_state(), LADDER, None, None, "1")
    assert first.changed == ()
    low = Snapshot(time_s=2.0, cpu=Cpu(count=2), power=Power(on_mains=False, battery_charge=0.1))
    second, state = decide(policy, low, state, LADDER, None, first, "2")
    assert any("1.00 -> 0.30" in text and "battery-low" in text for text in second.changed)
    assert any("224 px ->" in text for text in second.changed)
    third, _ = decide(policy, low.model_copy(update={"time_s": 3.0}), state, {}, None, second, "3")
    assert third.changed == ("imagenet: answers no more.",)
