"""Rules with hysteresis, and allocations that fall at once and rise slowly. Pure: time comes with the snapshot."""

from __future__ import annotations

from pydantic import Field

from .conditions import Condition, Rule
from .decision import AllocationDecision, Reason, ReasonKind
from .policy import Policy
from .signals import signal_spec, signals
from .snapshot import Frozen, Snapshot

BACK_OFF_WINDOW_S = 60.0  # a fall this soon after a rise says that the rise was too early
BACK_OFF_FACTOR, BACK_OFF_MAX = 2.0, 32.0


class ConditionState(Frozen):
    """Memory of one condition: whether it is entered, and since when it asks to change."""

    active: bool = False
    since_s: float | None = None


class HoldState(Frozen):
    """Memory of one allocation: its value, what has been asked for since when, and the back-off in force."""

    value: float | None = None
    target: float | None = None
    target_since_s: float = 0.0
    allowed_since_s: float | None = None
    allowed: float | None = Field(None, description="the least that has been allowed since then")
    raised_s: float | None = None
    back_off: float = 1.0


class PolicyState(Frozen):
    """All that deciding remembers between two snapshots."""

    conditions: dict[str, ConditionState] = Field(default_factory=dict)
    inference: HoldState = HoldState()
    training: HoldState = HoldState()
    time_s: float | None = None


def initial_state() -> PolicyState:
    """Nothing remembered: the first snapshot's targets count at once."""
    return PolicyState()


def allocations(
    policy: Policy, snapshot: Snapshot, state: PolicyState
) -> tuple[AllocationDecision, AllocationDecision, PolicyState]:
    """The two allocations under a policy, with reasons, and the memory for the next snapshot."""
    now = snapshot.time_s
    if state.time_s is not None and now < state.time_s:  # the clock was set back: no span measured across it counts
        state = _rebased(state, now)
    values = signals(snapshot)
    memory: dict[str, ConditionState] = {}
    matching: list[tuple[Rule, list[Reason]]] = []
    missing: list[tuple[Rule, Reason]] = []
    first = state.time_s is None
    for rule in policy.rule:
        holds = True
        reasons = []
        for index, condition in enumerate(rule.when):
            key = f"{rule.name}/{index}"
            value = values.get(condition.signal)
            entered = _step(condition, value, state.conditions.get(key, ConditionState()), now, first)
            memory[key] = entered
            holds = holds and entered.active
            if value is None:
                missing.append((rule, _missing(rule, condition)))
            else:
                reasons.append(_matched(rule, condition, value))
        if holds:
            matching.append((rule, reasons))
    inference, inference_hold = _allocate(
        "inference",
        policy.inference.allocation,
        policy.inference.raise_after_s,
        matching,
        missing,
        state.inference,
        now,
    )
    training, training_hold = _allocate(
        "training",
        policy.training.allocation,
        policy.training.raise_after_s,
        matching,
        missing,
        state.training,
        now,
    )
    return (
        inference,
        training,
        PolicyState(conditions=memory, inference=inference_hold, training=training_hold, time_s=now),
    )


def _step(condition: Condition, value: float | None, state: ConditionState, now: float, first: bool) -> ConditionState:
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


def _allocate(
    name: str,
    default: float,
    raise_after_s: float,
    matching: list[tuple[Rule, list[Reason]]],
    missing: list[tuple[Rule, Reason]],
    hold: HoldState,
    now: float,
) -> tuple[AllocationDecision, HoldState]:
    limits = [(getattr(rule, name), rule, why) for rule, why in matching if getattr(rule, name) is not None]
    limits.sort(key=lambda limit: limit[0])
    target = min([default, *(limit[0] for limit in limits)])
    reasons: list[Reason] = []
    for position, (limit, rule, why) in enumerate(limits):
        because = " and ".join(reason.text for reason in why)
        if position == 0 and limit <= default:
            verdict = "the most restrictive matching rule"
        elif limit == target:
            verdict = "matches too and asks for the same"
        else:
            verdict = "matches too, but is less restrictive"
        head = why[0]
        reasons.append(
            Reason(
                kind=ReasonKind.RULE,
                rule=rule.name,
                signal=head.signal,
                value=head.value,
                threshold=head.threshold,
                text=f"rule '{rule.name}' allows {name} at most {limit:g} because {because}; {verdict}",
            )
        )
    if not limits or limits[0][0] > default:
        reasons.insert(
            0, Reason(kind=ReasonKind.DEFAULT, text=f"no rule restricts {name}; the policy's {default:g} holds")
        )
    relevant = tuple(reason for rule, reason in missing if getattr(rule, name) is not None)
    value, after, wait = _follow(hold, target, raise_after_s, now)
    if wait is not None:
        reasons.insert(
            0,
            Reason(
                kind=ReasonKind.HOLD,
                value=wait,
                text=f"{name} stays at {value:g} for {wait:.0f} s more before it rises to {target:g}",
            ),
        )
    return AllocationDecision(value=value, target=target, reasons=(*reasons, *relevant)), after


def _follow(hold: HoldState, target: float, raise_after_s: float, now: float) -> tuple[float, HoldState, float | None]:
    """The value that follows `target`, what to remember, and the seconds it still waits where it is to rise.

    It falls at once and rises after `raise_after_s` times the back-off. A fall soon after a rise doubles the back-off;
    only a target that has stood still for a while ends it, so a signal that swings for hours is followed ever more
    rarely.
    """
    if hold.value is None:
        return target, HoldState(value=target, target=target, target_since_s=now), None
    since = hold.target_since_s if target == hold.target else now
    back_off = 1.0 if now - since >= BACK_OFF_WINDOW_S else hold.back_off
    seen = HoldState(value=hold.value, target=target, target_since_s=since, raised_s=hold.raised_s, back_off=back_off)
    if target < hold.value:
        if hold.raised_s is not None and now - hold.raised_s < BACK_OFF_WINDOW_S * back_off:
            back_off = min(BACK_OFF_MAX, back_off * BACK_OFF_FACTOR)
        return target, seen.model_copy(update={"value": target, "back_off": back_off}), None
    if target == hold.value:
        return target, seen, None
    rising_since = now if hold.allowed_since_s is None else hold.allowed_since_s
    allowed = target if hold.allowed is None else min(target, hold.allowed)
    left = raise_after_s * back_off - (now - rising_since)
    if left <= 0:
        # What was allowed only lately waits its own time.
        return allowed, seen.model_copy(update={"value": allowed, "raised_s": now}), None
    return hold.value, seen.model_copy(update={"allowed_since_s": rising_since, "allowed": allowed}), left


def _matched(rule: Rule, condition: Condition, value: float) -> Reason:
    if condition.equals is not None:
        text = f"{condition.signal} is {'true' if condition.equals else 'false'}"
    else:
        word = "above" if condition.above is not None else "below"
        text = f"{condition.signal} is {value:.3g}, {word} {condition.enter:g} (left at {condition.leave:g})"
    return Reason(
        kind=ReasonKind.RULE, rule=rule.name, signal=condition.signal, value=value, threshold=condition.enter, text=text
    )


def _missing(rule: Rule, condition: Condition) -> Reason:
    spec = signal_spec(condition.signal)
    meaning = f" ({spec.meaning})" if spec is not None else ""
    return Reason(
        kind=ReasonKind.MISSING_SIGNAL,
        rule=rule.name,
        signal=condition.signal,
        text=f"rule '{rule.name}' cannot match: this machine has no {condition.signal}{meaning}",
    )


def _rebased(state: PolicyState, now: float) -> PolicyState:
    conditions = {
        key: c if c.since_s is None else c.model_copy(update={"since_s": now}) for key, c in state.conditions.items()
    }

    def hold(h: HoldState) -> HoldState:
        return h.model_copy(
            update={
                "allowed_since_s": None if h.allowed_since_s is None else now,
                "raised_s": None if h.raised_s is None else now,
                "target_since_s": now,
            }
        )

    return PolicyState(
        conditions=conditions, inference=hold(state.inference), training=hold(state.training), time_s=now
    )
