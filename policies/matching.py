"""Which rules of a policy match a moment: conditions with hysteresis, windows of the day, curves over signals.

Pure: what is remembered of the moment before comes in, and what is to be remembered comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import Field

from .conditions import Condition, Rule
from .decision import Reason, ReasonKind
from .known_signals import absent_in_words
from .policy import Policy
from .signals import signal_spec
from .snapshot import Frozen
from .windows import day_and_time, is_open

NO_CLOCK = "the trace does not tell the time of day"


class ConditionState(Frozen):
    """Memory of one condition: whether it is entered, and since when it asks to change."""

    active: bool = False
    since_s: float | None = None


class RuleMemory(Frozen):
    """Memory of all conditions and curves."""

    conditions: dict[str, ConditionState] = Field(default_factory=dict)
    curves: dict[str, float] = Field(default_factory=dict, description="the values that curves are read at")


@dataclass(frozen=True, slots=True)
class Match:
    """A rule with what it allows now, and why it matches."""

    rule: Rule
    why: tuple[Reason, ...]
    levels: Mapping[str, float]  # of `inference` and `training`, curves read
    read: Mapping[str, str]  # how a curve gave its level, in words

    def reason(self, what: str, verdict: str) -> Reason:
        """Why the rule does `what`, with the numbers of its first condition on a signal."""
        because = f" because {' and '.join(reason.text for reason in self.why)}" if self.why else ""
        head = next((reason for reason in self.why if reason.signal is not None), None)
        return Reason(
            kind=ReasonKind.RULE,
            rule=self.rule.name,
            signal=None if head is None else head.signal,
            value=None if head is None else head.value,
            threshold=None if head is None else head.threshold,
            text=f"rule '{self.rule.name}' {what}{because}; {verdict}",
        )


@dataclass(frozen=True, slots=True)
class Matched:
    """All rules at one moment."""

    matching: tuple[Match, ...]
    coming: tuple[Match, ...]  # match if the conditions that wait out their `for_s` hold on
    missing: tuple[tuple[Rule, Reason], ...]  # cannot match, and why
    memory: RuleMemory


def match_rules(
    policy: Policy, values: Mapping[str, float], before: RuleMemory, now: float, first: bool, local: datetime | None
) -> Matched:
    """What each rule says of the signals' `values` at Unix time `now`; `first` where nothing was seen before.

    Without a `local` time no window is open.
    """
    conditions: dict[str, ConditionState] = {}
    curves: dict[str, float] = {}
    matching: list[Match] = []
    coming: list[Match] = []
    missing: list[tuple[Rule, Reason]] = []
    for rule in policy.rule:
        holds, soon, why = _window(rule, local)
        seen: list[tuple[Condition, float]] = []
        if rule.windows and local is None:
            missing.append((rule, _cannot(rule, None, NO_CLOCK)))
        for index, condition in enumerate(rule.when):
            key = f"{rule.name}/{index}"
            value = values.get(condition.signal)
            entered = step(condition, value, before.conditions.get(key, ConditionState()), now, first)
            conditions[key] = entered
            holds = holds and entered.active
            soon = soon and entered.active == (entered.since_s is None)  # entered and stays so, or waits to be
            if value is None:
                missing.append((rule, _absent(rule, condition.signal)))
            else:
                seen.append((condition, value))
        levels = {
            name: float(level)
            for name, level in (("inference", rule.inference), ("training", rule.training))
            if isinstance(level, int | float)
        }
        read = {}
        for name, curve in rule.curves:
            key, value = f"{rule.name}/{name}", values.get(curve.over)
            if value is None:
                holds = soon = False
                missing.append((rule, _absent(rule, curve.over)))
                continue
            curves[key] = curve.held(value, before.curves.get(key))
            levels[name] = curve.level(curves[key])
            read[name] = f" (its curve over {curve.over} at {value:.3g})"
        if holds or soon:  # what is told of others is not read, and sentences take most of the time
            why += [_reason(rule, condition, value) for condition, value in seen]
            (matching if holds else coming).append(Match(rule, tuple(why), levels, read))
    return Matched(tuple(matching), tuple(coming), tuple(missing), RuleMemory(conditions=conditions, curves=curves))


def step(condition: Condition, value: float | None, state: ConditionState, now: float, first: bool) -> ConditionState:
    """The memory of a condition after a signal's value at `now`."""
    if value is None:
        return ConditionState()
    if condition.equals is not None:
        wants = (value >= 0.5) == condition.equals
    elif condition.above is not None:
        wants = value > (condition.leave if state.active else condition.enter)
    else:
        wants = value < (condition.leave if state.active else condition.enter)
    if wants == state.active:
        return ConditionState(active=state.active)
    since = now if state.since_s is None else state.since_s
    wait = 0.0 if first else condition.for_s if wants else condition.leave_for_s
    return ConditionState(active=wants) if now - since >= wait else ConditionState(active=state.active, since_s=since)


def _window(rule: Rule, local: datetime | None) -> tuple[bool, bool, list[Reason]]:
    """Whether a rule's windows let it match, now and soon, and the reason where it has any."""
    if not rule.windows:
        return True, True, []
    inside = local is not None and is_open(rule.parsed_windows, local)
    if not inside or local is None:
        return False, False, []
    text = f"it is {day_and_time(local)}, within {', '.join(rule.windows)}"
    return True, True, [Reason(kind=ReasonKind.RULE, rule=rule.name, text=text)]


def _reason(rule: Rule, condition: Condition, value: float) -> Reason:
    if condition.equals is not None:
        text = f"{condition.signal} is {'true' if condition.equals else 'false'}"
    else:
        word = "above" if condition.above is not None else "below"
        text = f"{condition.signal} is {value:.3g}, {word} {condition.enter:g} (left at {condition.leave:g})"
    return Reason(
        kind=ReasonKind.RULE, rule=rule.name, signal=condition.signal, value=value, threshold=condition.enter, text=text
    )


def _absent(rule: Rule, signal: str) -> Reason:
    return _cannot(rule, signal, absent_in_words(signal, signal_spec(signal)))


def _cannot(rule: Rule, signal: str | None, why: str) -> Reason:
    return Reason(
        kind=ReasonKind.MISSING_SIGNAL,
        rule=rule.name,
        signal=signal,
        text=f"rule '{rule.name}' cannot match: {why}",
    )
