"""How long an idle inference worker stays: the policy's time, another one of a task's, less while a rule says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .decision import Cap, CapKey
from .policy import Policy


def why_unload(policy: Policy, caps: Iterable[Cap], idle_s: Mapping[str, float]) -> str | None:
    """Why an idle worker is unloaded; None while one of its uses keeps it.

    `idle_s` are the seconds since its last use for each task, and since other uses under an empty name.
    """
    cap = next((cap for cap in caps if cap.key is CapKey.KEEP_ALIVE_S), None)
    for task, idle in idle_s.items():
        if idle < (keep_s(policy, task) if cap is None else min(cap.value, keep_s(policy, task))):
            return None
    least = min(idle_s.values(), default=0.0)
    by_rule = cap is not None and any(idle < keep_s(policy, task) for task, idle in idle_s.items())
    return f"idle for {least:.0f} s" + (f", and rule '{cap.rule}' allows {cap.value:g} s" if cap and by_rule else "")


def keep_s(policy: Policy, task: str) -> float:
    """How long a worker stays after its last use for a task, while no rule says less."""
    section = policy.task.get(task)
    own = None if section is None else section.keep_alive_s
    return policy.inference.keep_alive_s if own is None else own
