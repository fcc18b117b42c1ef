"""What each rule of a policy says about a snapshot: whether it matches, and where it does not, why not.

`rules.allocations` acts on the rules that match and leaves behind what it remembers of every condition. Here the same
memory is put into words for all rules, so that nobody needs to guess why a rule is silent.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from .conditions import Condition, Rule
from .policy import Policy
from .rules import ConditionState, PolicyState
from .signal_words import value_in_words
from .signals import SignalSpec, signal_spec, signals
from .snapshot import Frozen, Snapshot


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
        return self.standing in (Standing.HOLDS, Standing.LEAVING)


class RuleVerdict(Frozen):
    """One rule: whether it matches, and why or why not."""

    rule: str
    matches: bool
    standing: Standing = Field(description="of its conditions the one that is furthest from holding")
    conditions: tuple[ConditionVerdict, ...]
    inference: float | None = Field(None, description="inference allocation is at most this while it matches")
    training: float | None = Field(None, description="training allocation is at most this while it matches")
    text: str = Field(description="one sentence without its full stop")


_FURTHEST = (Standing.ABSENT, Standing.FAILS, Standing.WAITS, Standing.LEAVING, Standing.HOLDS)


def verdicts(policy: Policy, snapshot: Snapshot, after: PolicyState) -> tuple[RuleVerdict, ...]:
    """The verdict on every rule, in the policy's order. `after` is what deciding on this snapshot left behind."""
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
        meaning = "" if spec is None else f" ({spec.meaning})"
        return f"this machine has no {name}{meaning}"
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


def _of_rule(rule: Rule, conditions: tuple[ConditionVerdict, ...]) -> RuleVerdict:
    standing = min((each.standing for each in conditions), key=_FURTHEST.index)
    matches = all(each.met for each in conditions)
    missed = [each for each in conditions if not each.met]
    met = len(conditions) - len(missed)
    if matches:
        why = " and ".join(each.text for each in conditions)
        text = f"'{rule.name}' matches: {why}; it allows {effect_in_words(rule)}"
    else:
        verb = {Standing.ABSENT: "cannot match", Standing.WAITS: "waits"}.get(standing, "does not match")
        rest = f" ({met} of its {len(conditions)} conditions {'holds' if met == 1 else 'hold'})" if met else ""
        text = f"'{rule.name}' {verb}: {'; '.join(each.text for each in missed)}{rest}"
    return RuleVerdict(
        rule=rule.name,
        matches=matches,
        standing=standing,
        conditions=conditions,
        inference=rule.inference,
        training=rule.training,
        text=text,
    )


def effect_in_words(rule: Rule) -> str:
    """What a rule restricts while it matches."""
    limits = (("inference", rule.inference), ("training", rule.training))
    return " and ".join(f"{name} at most {limit:g}" for name, limit in limits if limit is not None)
