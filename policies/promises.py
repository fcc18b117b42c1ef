"""Which promise of a cascade the policy asks for, and whether one that was calibrated is as strong."""

from __future__ import annotations

from dataclasses import dataclass

from .cascade import Promise
from .policy import Policy
from .restrictions import Restrictions
from .sections import CascadeCaps


@dataclass(frozen=True, slots=True)
class Asked:
    """What a task's cascade is calibrated for, where nobody asks for something else."""

    enabled: bool
    epsilon: float
    delta: float


def promise_for(policy: Policy, task: str) -> Asked:
    """What the policy asks for: the task's section, and where that is silent the table `[cascade]`."""
    section, table = policy.task.get(task), policy.cascade
    own = CascadeCaps() if section is None else section.cascade
    return Asked(own.enabled and table.enabled, own.epsilon or table.epsilon, own.delta or table.delta)


def too_weak(promise: Promise, promised: bool, restricted: Restrictions) -> str | None:
    """Why answers may not pass a cascade; None where they may.

    A promise is what was certified when the cascade was calibrated: a policy cannot make it another one, it can only
    refuse what is weaker than it asks for. `promised` is whether the promise is good for these answers: one that is cut
    short carries none.
    """
    for name, limit, value in (
        ("epsilon", restricted.epsilon, promise.epsilon),
        ("delta", restricted.delta, promise.delta),
    ):
        if limit is None:
            continue
        if not promised:
            return f"{limit.by} asks for a promise, and what this allocation affords of the cascade carries none"
        if value > limit.value:
            return f"{limit.by} allows {name} {limit.value:g} at most, and the cascade was calibrated for {value:g}"
    return None
