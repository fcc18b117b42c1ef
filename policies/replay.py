"""A trace through a policy, offline: what would have been decided, second by second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from .decide import decide
from .decision import Decision, Ladder
from .policy import Policy
from .rules import initial_state
from .snapshot import Cpu, Frozen, Snapshot
from .trace import Trace
from .training_costs import TrainingSituation
from .training_plan import Plans

NEUTRAL = Snapshot(time_s=0.0, cpu=Cpu(count=2))


class ReplayChange(Frozen):
    """A moment at which the decision changed."""

    t: float
    inference: float
    training: float
    changed: tuple[str, ...]


class ReplayResult(Frozen):
    """What a policy would have done over a trace."""

    trace: str
    policy: str
    duration_s: float
    changes: tuple[ReplayChange, ...]
    seconds_at: dict[str, dict[int, float]]
    rule_seconds: dict[str, float]
    training_seconds: float
    mean_inference: float
    mean_training: float


def replay(
    trace: Trace,
    policy: Policy,
    ladders: Mapping[str, Ladder],
    training: TrainingSituation | None = None,
    device: Snapshot = NEUTRAL,
) -> ReplayResult:
    """Decide once a period over the whole trace. `device` fills the sections that the trace leaves out."""
    period, state, previous = trace.header.period_s, initial_state(), None
    plans = Plans()
    changes: list[ReplayChange] = []
    seconds: dict[str, Counter[int]] = {name: Counter() for name in ladders}
    rules: Counter[str] = Counter()
    training_s = inference_sum = training_sum = 0.0
    steps = max(1, round(trace.duration_s / period))
    for step in range(steps):
        t = step * period
        snapshot = trace.at(t, device).model_copy(update={"time_s": device.time_s + t})
        decision, state = decide(policy, snapshot, state, ladders, training, previous, str(step), plans=plans)
        for rung in decision.rungs:
            seconds[rung.task][rung.resolution] += period  # type: ignore[assignment]
        for rule in _firing(decision):
            rules[rule] += period  # type: ignore[assignment]
        training_s += 0.0 if decision.plan.plan.paused else period
        inference_sum += decision.inference.value
        training_sum += decision.training.value
        if previous is None or decision.changed:
            changes.append(
                ReplayChange(
                    t=t,
                    inference=decision.inference.value,
                    training=decision.training.value,
                    changed=decision.changed or ("start.",),
                )
            )
        previous = decision
    return ReplayResult(
        trace=trace.name,
        policy=policy.policy.name,
        duration_s=steps * period,
        changes=tuple(changes),
        seconds_at={task: {side: float(s) for side, s in sorted(c.items())} for task, c in seconds.items()},
        rule_seconds={name: float(s) for name, s in sorted(rules.items())},
        training_seconds=training_s,
        mean_inference=inference_sum / steps,
        mean_training=training_sum / steps,
    )


def _firing(decision: Decision) -> set[str]:
    reasons = (*decision.inference.reasons, *decision.training.reasons)
    return {reason.rule for reason in reasons if reason.rule is not None and reason.kind == "rule"}
