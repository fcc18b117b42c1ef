"""What each rule of a policy says about a snapshot: whether it matches, and where it does not, why not.

`rules.allocations` acts on the rules that match and leaves behind what it remembers of every condition. Here the same
memory is put into words for all rules, so that nobody needs to guess why a rule is silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from .conditions import Condition, Rule
from .curves import Curve
from .known_signals import absent_in_words
from .matching import NO_CLOCK, ConditionState
from .policy import Policy
from .rule_caps import effects_in_words
from .rules import PolicyState
from .signal_words import value_in_words
from .signals import SignalSpec, signal_spec, signals
from .snapshot import Frozen, Snapshot
from .windows import day_and_time, is_open


class Standing(StrEnum):
    """Where a condition, or a rule with all its conditions, stands."""

    HOLDS = "holds"
    LEAVING = "leaving"  # holds still, but the leave threshold is passed for less than `leave_for_s`
    WAITS = "waits"  # what it asks for is there, for less than `for_s`
    FAILS = "fails"
    ABSENT = "absent"  # the machine lacks the signal


class ConditionVerdict(Frozen):
    """One condition of a rule beside the signal it is about."""

    signal: str
    standing: Standing
    value: float | None = Field(None, description="of the signal, in its unit; absent where the machine lacks it")
    enter: float = Field(description="the threshold that enters it; 0.5 for a signal that is true or false")
    leave: float = Field(description="the threshold that leaves it")
    elapsed_s: float | None = Field(None, description="how long it has been about to change")
    wait_s: float | None = Field(None, description="how long it must be, before it does")
    text: str

    @property
    def met(self) -> bool:
        """Whether the rule may match as far as this condition goes."""
        return self.standing in _MET


class RuleVerdict(Frozen):
    """One rule: whether it matches, and why or why not."""

    rule: str
    matches: bool
    standing: Standing = Field(description="of its conditions the one that is furthest from holding")
    conditions: tuple[ConditionVerdict, ...]
    inference: float | None = Field(None, description="inference allocation is at most this while it matches")
    training: float | None = Field(None, description="training allocation is at most this while it matches")
    effects: tuple[str, ...] = Field((), description="what else it restricts while it matches, in words")
    text: str = Field(description="one sentence without its full stop")


@dataclass(frozen=True, slots=True)
class _Other:
    """What has to hold beside conditions on signals."""

    standing: Standing
    text: str


_MET = (Standing.HOLDS, Standing.LEAVING)
_FURTHEST = (Standing.ABSENT, Standing.FAILS, Standing.WAITS, Standing.LEAVING, Standing.HOLDS)


def verdicts(
    policy: Policy, snapshot: Snapshot, after: PolicyState, local: datetime | None = None
) -> tuple[RuleVerdict, ...]:
    """The verdict on every rule, in the policy's order. `after` is what deciding on this snapshot left behind.

    `local` is its time of day, which a trace has none of.
    """
    values, now = signals(snapshot), snapshot.time_s
    return tuple(
        _of_rule(
            rule,
            tuple(
                _of_condition(
                    condition,
                    values.get(condition.signal),
                    signal_spec(condition.signal, snapshot),
                    _memory(after, rule, index),
                    now,
                )
                for index, condition in enumerate(rule.when)
            ),
            tuple(_others(rule, values, snapshot, local)),
            _levels(rule, after),
        )
        for rule in policy.rule
    )


def _memory(after: PolicyState, rule: Rule, index: int) -> ConditionState:
    return after.conditions.get(f"{rule.name}/{index}", ConditionState())


def _of_condition(
    condition: Condition, value: float | None, spec: SignalSpec | None, state: ConditionState, now: float
) -> ConditionVerdict:
    elapsed = None if state.since_s is None else max(0.0, now - state.since_s)
    wait = None
    if value is None:
        standing = Standing.ABSENT
    elif state.active:
        standing, wait = (Standing.HOLDS, None) if elapsed is None else (Standing.LEAVING, condition.leave_for_s)
    else:
        standing, wait = (Standing.FAILS, None) if elapsed is None else (Standing.WAITS, condition.for_s)
    return ConditionVerdict(
        signal=condition.signal,
        standing=standing,
        value=value,
        enter=condition.enter,
        leave=condition.leave,
        elapsed_s=elapsed,
        wait_s=wait,
        text=_condition_text(condition, value, spec, standing, elapsed or 0.0, wait or 0.0),
    )


def _condition_text(
    condition: Condition,
    value: float | None,
    spec: SignalSpec | None,
    standing: Standing,
    elapsed_s: float,
    wait_s: float,
) -> str:
    name, unit = condition.signal, "" if spec is None else spec.unit
    if value is None:
        return absent_in_words(name, spec)
    seen = f"{name} is {value_in_words(value, unit)}"
    so_long = f"for {elapsed_s:.1f} of {wait_s:g} s"
    if condition.equals is not None:
        asked = "true" if condition.equals else "false"
        return {
            Standing.HOLDS: seen,
            Standing.LEAVING: f"{name} was {asked}, and has been otherwise {so_long}",
            Standing.WAITS: f"{name} has been {asked} {so_long}",
        }.get(standing, f"{seen}, and it asks for {asked}")
    side, back = ("above", "below") if condition.above is not None else ("below", "above")
    enter, leave = value_in_words(condition.enter, unit), value_in_words(condition.leave, unit)
    between = value <= condition.enter if condition.above is not None else value >= condition.enter
    return {
        Standing.HOLDS: f"{seen}, {side} {enter} (left at {leave})"
        if not between
        else f"{seen}; it was {side} {enter}, and is left at {leave}",
        Standing.LEAVING: f"{seen}, and has been {back} {leave} {so_long}",
        Standing.WAITS: f"{name} has been {side} {enter} {so_long} (now {value_in_words(value, unit)})",
    }.get(standing, f"{seen}, and it is entered {side} {enter}")


def _of_rule(
    rule: Rule, conditions: tuple[ConditionVerdict, ...], others: tuple[_Other, ...], levels: Mapping[str, float]
) -> RuleVerdict:
    parts = [(each.standing, each.text) for each in others] + [(each.standing, each.text) for each in conditions]
    standing = min((each for each, _ in parts), key=_FURTHEST.index)
    missed = [text for each, text in parts if each not in _MET]
    met = len(parts) - len(missed)
    if missed:
        verb = {Standing.ABSENT: "cannot match", Standing.WAITS: "waits"}.get(standing, "does not match")
        rest = f" ({met} of its {len(parts)} conditions {'holds' if met == 1 else 'hold'})" if met else ""
        text = f"'{rule.name}' {verb}: {'; '.join(missed)}{rest}"
    else:
        why = " and ".join(text for _, text in parts)
        text = f"'{rule.name}' matches: {why}; it {effect_in_words(rule, levels)}"
    return RuleVerdict(
        rule=rule.name,
        matches=not missed,
        standing=standing,
        conditions=conditions,
        inference=levels.get("inference"),
        training=levels.get("training"),
        effects=effects_in_words(rule),
        text=text,
    )


def _others(rule: Rule, values: Mapping[str, float], snapshot: Snapshot, local: datetime | None) -> Iterator[_Other]:
    """What has to hold beside the conditions: a window is open, and the signals of curves are there."""
    if rule.windows:
        within = ", ".join(rule.windows)
        if local is None:
            yield _Other(Standing.ABSENT, NO_CLOCK)
        elif is_open(rule.parsed_windows, local):
            yield _Other(Standing.HOLDS, f"it is {day_and_time(local)}, within {within}")
        else:
            yield _Other(Standing.FAILS, f"it is {day_and_time(local)}, outside {within}")
    for name, curve in rule.curves:
        spec = signal_spec(curve.over, snapshot)
        if curve.over in values:
            unit = "" if spec is None else spec.unit
            yield _Other(Standing.HOLDS, f"{name} follows {curve.over}, {value_in_words(values[curve.over], unit)}")
        else:
            yield _Other(Standing.ABSENT, absent_in_words(curve.over, spec))


def _levels(rule: Rule, after: PolicyState) -> dict[str, float]:
    """The allocations that a rule allows, curves read where they were read last."""
    found = {}
    for name, level in (("inference", rule.inference), ("training", rule.training)):
        if isinstance(level, Curve):
            held = after.curves.get(f"{rule.name}/{name}")
            if held is not None:
                found[name] = level.level(held)
        elif level is not None:
            found[name] = float(level)
    return found


def effect_in_words(rule: Rule, levels: Mapping[str, float]) -> str:
    """What a rule restricts while it matches, at these levels of its allocations."""
    limits = [
        f"{name} at most {level:g}"
        for name, level in levels.items()
        if name != "training" or rule.training is not False
    ]
    allows = [f"allows {' and '.join(limits)}"] if limits else []
    return ", ".join((*allows, *effects_in_words(rule)))
