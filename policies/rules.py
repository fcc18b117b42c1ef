"""Rules with hysteresis, and allocations that fall at once and rise slowly. Pure: time comes with the snapshot."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from .decision import AllocationDecision, Reason, ReasonKind
from .dwelling import RungHold
from .following import HoldState, follow
from .matching import ConditionState, Matched, RuleMemory, match_rules
from .policy import Policy
from .policy_tables import Inference, Training
from .signals import signals
from .slowdown import Slowdown
from .snapshot import Frozen, Snapshot


class PolicyState(Frozen):
    """All that deciding remembers between two snapshots."""

    conditions: dict[str, ConditionState] = Field(default_factory=dict)
    curves: dict[str, float] = Field(default_factory=dict, description="the values that curves are read at")
    inference: HoldState = HoldState()
    training: HoldState = HoldState()
    rungs: dict[str, RungHold] = Field(default_factory=dict, description="by name of the task")
    slowdown: Slowdown = Slowdown()
    time_s: float | None = None


def initial_state() -> PolicyState:
    """Nothing remembered: the first snapshot's targets count at once."""
    return PolicyState()


def rules_at(policy: Policy, snapshot: Snapshot, state: PolicyState, local: datetime | None = None) -> Matched:
    """What each rule says of a snapshot. `local` is its time of day; without one no window of a rule is open."""
    before = _in_order(state, snapshot.time_s)
    memory = RuleMemory(conditions=before.conditions, curves=before.curves)
    return match_rules(policy, signals(snapshot), memory, snapshot.time_s, before.time_s is None, local)


def allocations(
    policy: Policy, snapshot: Snapshot, state: PolicyState, matched: Matched | None = None
) -> tuple[AllocationDecision, AllocationDecision, PolicyState]:
    """The two allocations under a policy, with reasons, and the memory for the next snapshot.

    `matched` is what `rules_at` says of the same three, where it has been asked already.
    """
    matched = matched or rules_at(policy, snapshot, state)
    now = snapshot.time_s
    state = _in_order(state, now)
    inference, inference_hold = _allocate("inference", policy.inference, matched, state.inference, now, state.time_s)
    training, training_hold = _allocate("training", policy.training, matched, state.training, now, state.time_s)
    after = {
        "conditions": matched.memory.conditions,
        "curves": matched.memory.curves,
        "inference": inference_hold,
        "training": training_hold,
        "time_s": now,
    }
    return inference, training, state.model_copy(update=after)


def _in_order(state: PolicyState, now: float) -> PolicyState:
    """The memory; after the clock was set back one in which no span measured across that counts."""
    return state if state.time_s is None or now >= state.time_s else _rebased(state, now)


def _allocate(
    name: str,
    table: Inference | Training,
    matched: Matched,
    hold: HoldState,
    now: float,
    last_s: float | None,
) -> tuple[AllocationDecision, HoldState]:
    default = table.allocation
    limits = [(match.levels[name], match) for match in matched.matching if name in match.levels]
    limits.sort(key=lambda limit: limit[0])
    target = min([default, *(limit[0] for limit in limits)])
    reasons: list[Reason] = []
    for position, (limit, match) in enumerate(limits):
        if position == 0 and limit <= default:
            verdict = "the most restrictive matching rule"
        elif limit == target:
            verdict = "matches too and asks for the same"
        else:
            verdict = "matches too, but is less restrictive"
        allows = f"allows {name} at most {limit:g}{match.read.get(name, '')}"
        reasons.append(match.reason(allows, verdict))
    if not limits or limits[0][0] > default:
        reasons.insert(
            0, Reason(kind=ReasonKind.DEFAULT, text=f"no rule restricts {name}; the policy's {default:g} holds")
        )
    relevant = tuple(reason for rule, reason in matched.missing if getattr(rule, name) is not None)
    value, after, wait = follow(
        hold, target, raise_after_s=table.raise_after_s, rise_per_s=table.rise_per_s, now=now, last_s=last_s
    )
    if wait is not None:
        stays = f"stays at {value:g} for {wait:.0f} s more before it rises" if wait >= 0.5 else f"rises from {value:g}"
        text = f"{name} {stays} towards {target:g}, by {table.rise_per_s:g} a second at most"
        reasons.insert(0, Reason(kind=ReasonKind.HOLD, value=wait, text=text))
    expected = [lower for match in matched.coming if (lower := match.levels.get(name)) is not None and lower < value]
    ahead = min(expected, default=None)
    return AllocationDecision(value=value, target=target, ahead=ahead, reasons=(*reasons, *relevant)), after


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
