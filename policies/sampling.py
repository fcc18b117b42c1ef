"""How often the device is sampled: often while something moves or works, ever more rarely while nothing does.

The rule, from the fast period F up to the slow period S:

1. While work is in hand (a prediction, a training slice, a calibration), a trace plays or a client follows what
   happens, the period is F.
2. Else it is F until every signal that the policy can act on has stood still for CALM_PERIODS of F. A signal has moved
   when it came, went, or left the value it had at its last movement by more than its unit's tolerance: a slow drift
   counts too.
3. From then on the period doubles each time it has stood still for so long again, up to S.
4. No period reaches over the moment at which something that was waited for comes due, such as a condition's `for_s` or
   the rise of an allocation, by more than F.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from .decision import Decision, ReasonKind
from .dwelling import DWELL_S
from .policy import Policy
from .rules import PolicyState
from .signals import SWITCH, signal_spec, signals
from .snapshot import Snapshot

CALM_PERIODS = 10  # at 1 s, as long as an allocation waits before it rises
SHARE_TOLERANCE = 0.05
CELSIUS_TOLERANCE = 2.0
RELATIVE_TOLERANCE = 0.1  # of all other units
LEAST_TOLERANCE = 0.1  # of all other units: load averages and currents near zero are noise
# What decides without any rule naming it: whether a worker fits, and whether training may run.
ALWAYS = ("memory.available", "power.on_mains", "temperature.max", "user.idle_s", "cpu.busy_other")


@dataclass(frozen=True, slots=True)
class Stillness:
    """Memory between two samples: what each signal was when it last moved, and when the last one did."""

    anchors: Mapping[str, float] = field(default_factory=dict)
    moved_s: float | None = None
    moved: str = "the first sample"  # in words, after "because"


@dataclass(frozen=True, slots=True)
class Pace:
    """The seconds to the next sample, and why so many."""

    period_s: float
    why: str


def signals_that_count(policy: Policy) -> frozenset[str]:
    """The signals that can change a decision: those the policy names, wherever it does, and those that always count."""
    return frozenset(ALWAYS) | {text for text in _texts(policy) if signal_spec(text) is not None}


def watch(before: Stillness, snapshot: Snapshot, names: Collection[str], now_s: float) -> Stillness:
    """What is remembered after a sample at `now_s`, on any clock that does not go back."""
    seen = signals(snapshot, names)
    if before.moved_s is None:
        return Stillness(seen, now_s)
    both = {**seen, **before.anchors}
    moved = [name for name in both if _moved(name, before.anchors.get(name), seen.get(name), snapshot)]
    if not moved:
        return before
    anchors = {name: seen[name] if name in moved else before.anchors[name] for name in seen}
    return Stillness(anchors, now_s, f"{min(moved)} moved")


def stir(before: Stillness, now_s: float, what: str) -> Stillness:
    """What is remembered when something else than a signal calls for attention, such as a request."""
    return Stillness(before.anchors, now_s, what)


def pace(
    stillness: Stillness, now_s: float, *, fast_s: float, slow_s: float, work: str | None, due_in_s: float | None
) -> Pace:
    """The period that follows: `work` says in words what is in hand, `due_in_s` when something waited for comes due."""
    if work is not None:
        return Pace(fast_s, work)
    calm_s = 0.0 if stillness.moved_s is None else max(0.0, now_s - stillness.moved_s)
    still_s = CALM_PERIODS * fast_s
    if calm_s < still_s:
        return Pace(fast_s, f"{stillness.moved} {calm_s:.0f} s ago")
    period_s, why = fast_s, f"nothing that counts has moved for {calm_s:.0f} s"
    for _ in range(int(calm_s // still_s)):
        if period_s >= slow_s:
            break
        period_s = min(2 * period_s, slow_s)
    while due_in_s is not None and period_s > fast_s and period_s > due_in_s:
        period_s, why = max(fast_s, period_s / 2), f"something waited for comes due in {max(0.0, due_in_s):.0f} s"
    return Pace(period_s, why)


def due_in_s(policy: Policy, memory: PolicyState, decision: Decision, now_s: float) -> float | None:
    """Seconds until the first of what the policy waits for comes due, by the snapshots' clock; None without."""
    waits = {f"{rule.name}/{index}": condition for rule in policy.rule for index, condition in enumerate(rule.when)}
    left = []
    for key, state in memory.conditions.items():
        if state.since_s is not None:
            condition = waits.get(key)
            wait = 0.0 if condition is None else condition.leave_for_s if state.active else condition.for_s
            left.append(state.since_s + wait - now_s)
    for rung in memory.rungs.values():
        if rung.allowed_since_s is not None:
            earned_in_s = max(rung.allowed_since_s, rung.changed_s or 0.0) + DWELL_S - now_s
            if earned_in_s >= 0:  # else the better resolution waits for the allocation alone
                left.append(earned_in_s)
    for allocation in (decision.inference, decision.training):
        left += [r.value for r in allocation.reasons if r.kind is ReasonKind.HOLD and r.value is not None]
    return min(left, default=None)


def _moved(name: str, was: float | None, now: float | None, snapshot: Snapshot) -> bool:
    if was is None or now is None:
        return was is not now
    spec = signal_spec(name, snapshot)
    unit = "" if spec is None else spec.unit
    if unit == SWITCH:
        return was != now
    if unit == "share":
        return abs(now - was) > SHARE_TOLERANCE
    if unit == "degrees Celsius":
        return abs(now - was) > CELSIUS_TOLERANCE
    if unit == "seconds":  # what has been idle longer, or will last longer, is no news
        return was - now > max(LEAST_TOLERANCE, RELATIVE_TOLERANCE * abs(was))
    return abs(now - was) > max(LEAST_TOLERANCE, RELATIVE_TOLERANCE * abs(was))


def _texts(value: object) -> list[str]:
    """Every text in a record, however deep."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, BaseModel):
        return [text for name in type(value).model_fields for text in _texts(getattr(value, name))]
    if isinstance(value, Mapping):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, tuple | list | frozenset | set):
        return [text for inner in value for text in _texts(inner)]
    return []
