"""What is allowed in a policy and hardly meant: rules that never count, thresholds that interlock, absent signals.

Pure. Each finding is certain in what it claims: a rule that is called unreachable is never matched by any snapshot, and
one that is called shadowed never decides anything.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import combinations
from math import inf

from pydantic import Field

from .conditions import Condition, Rule
from .curves import Curve
from .known_signals import absent_in_words
from .policy import LoadedPolicy, Policy
from .rule_caps import caps_of_rule, own_bounds
from .signals import SWITCH, signal_spec
from .snapshot import Frozen
from .toml_source import Path

BOUNDS = {"share": (0.0, 1.0), SWITCH: (0.0, 1.0), "bytes": (0.0, inf), "seconds": (0.0, inf)}  # of a signal's values


class FindingKind(StrEnum):
    """What is found."""

    UNREACHABLE = "unreachable"
    SHADOWED = "shadowed"
    NO_EFFECT = "no_effect"
    INTERLOCKED = "interlocked"
    NO_BAND = "no_band"
    MISSING_SIGNAL = "missing_signal"
    UNKNOWN_TASK = "unknown_task"
    REMOVES_NOTHING = "removes_nothing"


class Finding(Frozen):
    """One thing that is hardly meant: where it stands, what is so, and what to do."""

    kind: FindingKind
    file: str
    line: int
    column: int
    rule: str | None = None
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.text} {self.advice}"


def check_policy(
    loaded: LoadedPolicy, present: Collection[str] | None = None, tasks: Collection[str] | None = None
) -> tuple[Finding, ...]:
    """All findings, in the order of the policy's keys. `present` are the signals of a machine, `tasks` a daemon's."""
    policy = loaded.policy
    found = [
        *_unreachable(policy),
        *_without_effect(policy),
        *_shadowed(policy),
        *_interlocked(policy),
        *_without_band(policy),
        *(_missing(policy, present) if present is not None else ()),
        *(_unknown(policy, tasks) if tasks is not None else ()),
    ]
    said = []
    for each in found:
        origin = loaded.where(each.path)
        said.append(
            Finding(
                kind=each.kind,
                file=origin.file,
                line=origin.line,
                column=origin.column,
                rule=each.rule,
                text=each.text,
                advice=each.advice,
            )
        )
    for removal in loaded.merged.removals:
        if not removal.found:
            said.append(
                Finding(
                    kind=FindingKind.REMOVES_NOTHING,
                    **removal.origin._asdict(),
                    rule=removal.rule,
                    text=f"No earlier file has a rule '{removal.rule}' to remove.",
                    advice="Mend the name, or take it out.",
                )
            )
    return tuple(said)


class CheckReport(Frozen):
    """What `patchctl policy check` has to say of a policy that is no mistake."""

    policy: str
    files: tuple[str, ...]
    machine: str | None = Field(description="whose signals and tasks were looked at; absent: nobody's")
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    kind: FindingKind
    path: Path
    rule: str | None
    text: str
    advice: str


def _conditions(policy: Policy) -> Iterator[tuple[Path, Rule, Condition]]:
    for index, rule in enumerate(policy.rule):
        for place, condition in enumerate(rule.when):
            yield ("rule", index, "when", place), rule, condition


# rules that never match


def _unreachable(policy: Policy) -> Iterator[_Found]:
    for index, rule in enumerate(policy.rule):
        place, why = _contradiction(rule)
        if why:
            yield _Found(
                FindingKind.UNREACHABLE,
                ("rule", index, "when", place),
                rule.name,
                f"Rule '{rule.name}' never matches: {why}.",
                "Mend the condition, or take the rule out.",
            )


def _contradiction(rule: Rule) -> tuple[int, str]:
    """Which condition rules the rule out, and why; no words where none does."""
    for place, condition in enumerate(rule.when):
        low, high = _bounds(condition.signal)
        if condition.above is not None and condition.above >= high:
            return place, f"{condition.signal} is {high:g} at most, and cannot be above {condition.above:g}"
        if condition.below is not None and condition.below <= low:
            return place, f"{condition.signal} is {low:g} at least, and cannot be below {condition.below:g}"
        for earlier in rule.when[:place]:
            if earlier.signal == condition.signal and not _meet(earlier, condition):
                return place, f"{_in_words(earlier)} and {_in_words(condition)} cannot hold at once"
    return 0, ""


def _bounds(signal: str) -> tuple[float, float]:
    spec = signal_spec(signal)
    return BOUNDS.get("" if spec is None else spec.unit, (-inf, inf))


def _meet(one: Condition, other: Condition) -> bool:
    """Whether some value leaves both conditions entered. One that is left late may hold at any value."""
    if one.leave_for_s or other.leave_for_s:
        return True
    (low, low_open), (high, high_open) = max(_lowest(one), _lowest(other)), min(_highest(one), _highest(other))
    # An open end is marked by 1 below and by -1 above, so that of two equal ends the open one is the tighter.
    return low < high or (low == high and not low_open and not high_open)


def _lowest(condition: Condition) -> tuple[float, int]:
    if condition.above is not None:
        return condition.leave, 1
    return (0.5, 0) if condition.equals else (-inf, 1)


def _highest(condition: Condition) -> tuple[float, int]:
    if condition.below is not None:
        return condition.leave, -1
    return (0.5, -1) if condition.equals is False else (inf, -1)


def _in_words(condition: Condition) -> str:
    if condition.equals is not None:
        return f"{condition.signal} {'true' if condition.equals else 'false'}"
    side = "above" if condition.above is not None else "below"
    return f"{condition.signal} {side} {condition.enter:g} (left at {condition.leave:g})"


# rules that match and decide nothing


def _results(rule: Rule) -> dict[str, float | Curve]:
    """All that a rule restricts, by name; smaller is more restrictive."""
    found: dict[str, float | Curve] = {f"cap {key}": value for key, value in caps_of_rule(rule).items()}
    for name, level in (("inference", rule.inference), ("training", rule.training)):
        if level is not None:
            found[name] = level if isinstance(level, Curve) else float(level)
    return found


def _least(level: float | Curve) -> float:
    return min(y for _, y in level.points) if isinstance(level, Curve) else level


def _without_effect(policy: Policy) -> Iterator[_Found]:
    own: dict[str, float] = {f"cap {key}": bound for key, bound in own_bounds(policy).items()}
    own |= {"inference": policy.inference.allocation, "training": policy.training.allocation}
    for index, rule in enumerate(policy.rule):
        results = _results(rule)
        if all(name in own and _least(level) >= own[name] for name, level in results.items()):
            yield _Found(
                FindingKind.NO_EFFECT,
                ("rule", index, "name"),
                rule.name,
                f"Rule '{rule.name}' changes nothing: the policy's tables restrict as much already.",
                "Let it restrict more, or take it out.",
            )


def _shadowed(policy: Policy) -> Iterator[_Found]:
    for index, rule in enumerate(policy.rule):
        if _contradiction(rule)[1]:
            continue
        for place, other in enumerate(policy.rule):
            if place == index or not _covers(other, rule) or (place > index and _covers(rule, other)):
                continue  # of two that say the same the later one is told of
            yield _Found(
                FindingKind.SHADOWED,
                ("rule", index, "name"),
                rule.name,
                f"Rule '{rule.name}' never decides: whenever it matches, '{other.name}' does, and allows no more.",
                "Let it restrict more, or take one of the two out.",
            )
            break


def _covers(wider: Rule, rule: Rule) -> bool:
    """Whether `wider` matches whenever `rule` does, and restricts everything as much that `rule` does."""
    if wider.curves or (wider.windows and set(wider.windows) != set(rule.windows)):
        return False
    if not all(any(_implies(own, asked) for own in rule.when) for asked in wider.when):
        return False
    limits = _results(wider)
    return all(name in limits and _least(limits[name]) <= _least(level) for name, level in _results(rule).items())


def _implies(own: Condition, asked: Condition) -> bool:
    """Whether one condition on a signal is never entered without the other, hysteresis and times included."""
    if own.signal != asked.signal or own.for_s < asked.for_s or own.leave_for_s > asked.leave_for_s:
        return False
    if own.equals is not None or asked.equals is not None:
        return own.equals == asked.equals
    if own.above is not None and asked.above is not None:
        return own.enter >= asked.enter and own.leave >= asked.leave
    if own.below is not None and asked.below is not None:
        return own.enter <= asked.enter and own.leave <= asked.leave
    return False


# thresholds


def _interlocked(policy: Policy) -> Iterator[_Found]:
    for (_, one, first), (path, two, second) in combinations(_conditions(policy), 2):
        if one is two or first.signal != second.signal or not _results(one).keys() & _results(two).keys():
            continue
        upper, lower = (first, second) if first.above is not None else (second, first)
        if upper.above is None or lower.below is None or lower.enter > upper.enter:
            continue
        if lower.enter > upper.leave or lower.leave > upper.enter:
            both = f"from {min(upper.leave, lower.enter):g} to {max(upper.enter, lower.leave):g}"
            yield _Found(
                FindingKind.INTERLOCKED,
                (*path, "above" if second.above is not None else "below"),
                two.name,
                f"Rules '{one.name}' and '{two.name}' interlock on {first.signal}: {_in_words(first)} against "
                f"{_in_words(second)}; {both} one may be entered while the other still holds.",
                "Let each be left before the other is entered.",
            )


def _without_band(policy: Policy) -> Iterator[_Found]:
    for path, rule, condition in _conditions(policy):
        if _contradiction(rule)[1]:
            continue
        if condition.equals is None and condition.enter == condition.leave and not condition.leave_for_s:
            key, leave = ("above", "leave_below") if condition.above is not None else ("below", "leave_above")
            yield _Found(
                FindingKind.NO_BAND,
                (*path, key),
                rule.name,
                f"Rule '{rule.name}' is entered and left at {condition.enter:g} alike, so noise in {condition.signal} "
                "switches it to and fro.",
                f"Give {leave}, or leave_for_s.",
            )


# what this machine has


def _missing(policy: Policy, present: Collection[str]) -> Iterator[_Found]:
    asked = [((*path, "signal"), rule, condition.signal) for path, rule, condition in _conditions(policy)]
    for index, rule in enumerate(policy.rule):
        asked += [(("rule", index, name, "over"), rule, curve.over) for name, curve in rule.curves]
    for path, rule, signal in asked:
        if signal not in present:
            why = absent_in_words(signal, signal_spec(signal))
            yield _Found(
                FindingKind.MISSING_SIGNAL,
                path,
                rule.name,
                f"Rule '{rule.name}' cannot match now: {why}.",
                "Leave the rule for machines that have it, or take it out.",
            )


def _unknown(policy: Policy, tasks: Collection[str]) -> Iterator[_Found]:
    named: list[tuple[Path, str]] = [(("task", name), name) for name in policy.task]
    named += [(("retrain", index, "task"), each.task) for index, each in enumerate(policy.retrain)]
    for path, name in named:
        if name not in tasks:
            near = difflib.get_close_matches(name, tasks, 1)
            yield _Found(
                FindingKind.UNKNOWN_TASK,
                path,
                None,
                f"The daemon has no task '{name}'.",
                f"Did you mean '{near[0]}'?" if near else "Add the task, or take the table out.",
            )
