"""Rules with hysteresis, and allocations that fall at once and rise slowly. Pure: time comes with the snapshot."""

from __future__ import annotations

from pydantic import Field

from .conditions import Condition, Rule
from .decision import AllocationDecision, Reason, ReasonKind
from .dwelling import RungHold
from .following import HoldState, follow
from .policy import Policy
from .policy_tables import Inference, Training
from .signals import signal_spec, signals
from .slowdown import Slowdown
from .snapshot import Frozen, Snapshot


class ConditionState(Frozen):
    """Memory of one condition: whether it is entered, and since when it asks to change."""

    active: bool = False
    since_s: float | None = None


class PolicyState(Frozen):
    """All that deciding remembers between two snapshots."""

    conditions: dict[str, ConditionState] = Field(default_factory=dict)
    inference: HoldState = HoldState()
    training: HoldState = HoldState()
    rungs: dict[str, RungHold] = Field(default_factory=dict, description="by name of the task")
    slowdown: Slowdown = Slowdown()
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
    coming: list[Rule] = []
    missing: list[tuple[Rule, Reason]] = []
    first = state.time_s is None
    for rule in policy.rule:
        holds = soon = True
        reasons = []
        for index, condition in enumerate(rule.when):
            key = f"{rule.name}/{index}"
            value = values.get(condition.signal)
            entered = _step(condition, value, state.conditions.get(key, ConditionState()), now, first)
            memory[key] = entered
            holds = holds and entered.active
            soon = soon and entered.active == (entered.since_s is None)  # entered and stays so, or waits to be
            if value is None:
                missing.append((rule, _missing(rule, condition)))
            else:
                reasons.append(_matched(rule, condition, value))
        if holds:
            matching.append((rule, reasons))
        elif soon:
            coming.append(rule)
    inference, inference_hold = _allocate(
        "inference",
        policy.inference,
        matching,
        missing,
        coming,
        state.inference,
        now,
        state.time_s,
    )
    training, training_hold = _allocate(
        "training",
        policy.training,
        matching,
        missing,
        coming,
        state.training,
        now,
        state.time_s,
    )
    return (
        inference,
        training,
        state.model_copy(
            update={"conditions": memory, "inference": inference_hold, "training": training_hold, "time_s": now}
        ),
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
    table: Inference | Training,
    matching: list[tuple[Rule, list[Reason]]],
    missing: list[tuple[Rule, Reason]],
    coming: list[Rule],
    hold: HoldState,
    now: float,
    last_s: float | None,
) -> tuple[AllocationDecision, HoldState]:
    default = table.allocation
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
    value, after, wait = follow(
        hold, target, raise_after_s=table.raise_after_s, rise_per_s=table.rise_per_s, now=now, last_s=last_s
    )
    if wait is not None:
        stays = f"stays at {value:g} for {wait:.0f} s more before it rises" if wait >= 0.5 else f"rises from {value:g}"
        text = f"{name} {stays} towards {target:g}, by {table.rise_per_s:g} a second at most"
        reasons.insert(0, Reason(kind=ReasonKind.HOLD, value=wait, text=text))
    expected = [limit for rule in coming if (limit := getattr(rule, name)) is not None and limit < value]
    ahead = min(expected, default=None)
    return AllocationDecision(value=value, target=target, ahead=ahead, reasons=(*reasons, *relevant)), after


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
    return state.model_copy(
        update={
            "conditions": conditions,
            "inference": state.inference.rebased(now),
            "training": state.training.rebased(now),
            "slowdown": state.slowdown.rebased(now),
            "rungs": {task: hold.rebased(now) for task, hold in state.rungs.items()},
            "time_s": now,
        }
    )
