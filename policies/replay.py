"""A trace through policies, offline: what each would have decided, and what that would have cost and given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from .decision import Ladder
from .errors import BadInputError
from .policy import Policy
from .replay_account import Account, EnergyUse, InferenceUse, TaskReplay, TrainingReplay
from .replay_steps import Course, Replaying, Signals, Terms
from .sight import Sight
from .snapshot import Cpu, Frozen, Snapshot
from .trace import Trace
from .training_costs import TrainingSituation

NEUTRAL = Snapshot(time_s=0.0, cpu=Cpu(count=2))
DECIDES_EVERY_S = 1.0  # the daemon's own sampling period


class ReplayChange(Frozen):
    """A moment at which the decision changed."""

    t: float
    inference: float
    training: float
    changed: tuple[str, ...]


class RuleReplay(Frozen):
    """How often a rule came to match, and for how long it did in all."""

    times: int
    seconds: float


class ReplayResult(Frozen):
    """What a policy would have done over a trace."""

    trace: str
    policy: str
    from_s: float = Field(description="where in the trace it began")
    duration_s: float
    step_s: float = Field(description="seconds between two decisions")
    mean_inference: float
    mean_training: float
    tasks: tuple[TaskReplay, ...]
    inference: InferenceUse
    training: TrainingReplay
    energy: EnergyUse
    rules: dict[str, RuleReplay]
    changes: tuple[ReplayChange, ...]
    notes: tuple[str, ...] = Field((), description="what was left out or taken for granted")


class ReplayTerms(Frozen):
    """What a replay is told beside trace and policies."""

    from_s: float = Field(0.0, ge=0)
    until_s: float | None = Field(None, gt=0, description="absent: to the end")
    step_s: float | None = Field(None, gt=0, description="absent: the daemon's period, or the trace's where finer")
    rate: float | None = Field(None, ge=0, description="predictions a second of each task; absent: the trace's")
    watts_per_core: float | None = Field(None, ge=0, description="what a busy processor takes")
    measured: bool = Field(False, description="the ladders' costs are milliseconds measured on a machine")
    threads: float = Field(1.0, gt=0, description="processors that a prediction uses")
    every_step: bool = Field(False, description="decide every step, also those that cannot differ")


def replay(
    trace: Trace,
    policies: Sequence[Policy],
    ladders: Mapping[str, Ladder],
    training: TrainingSituation | None = None,
    device: Snapshot = NEUTRAL,
    terms: ReplayTerms | None = None,
) -> tuple[ReplayResult, ...]:
    """What each policy does over the trace. `device` fills the sections that the trace leaves out.

    Raises BadInputError where the part asked for is not in the trace.
    """
    told = terms or ReplayTerms()
    until_s = trace.duration_s if told.until_s is None else min(told.until_s, trace.duration_s)
    if told.from_s >= until_s:
        raise BadInputError(
            f"The trace {trace.name} has nothing between {told.from_s:g} s and {until_s:g} s.",
            hint=f"It lasts {trace.duration_s:g} s.",
        )
    step_s = told.step_s or min(DECIDES_EVERY_S, trace.header.period_s)
    threads = 1.0 if training is None else float(training.costs.threads)
    run = Terms(trace, ladders, training, device, step_s, told.from_s, until_s, threads)
    sights = [Sight(policy) for policy in policies]
    seen = Signals(trace, device, tuple(dict.fromkeys(name for sight in sights for name in sight.signals)))
    account = Account(
        run, rate=told.rate, watts_per_core=told.watts_per_core, measured=told.measured, threads=told.threads
    )
    results = []
    for policy, sight in zip(policies, sights, strict=True):
        course = Replaying(run, policy).run(seen, sight, by_record=account.by_record, every_step=told.every_step)
        results.append(_result(run, policy, course, account))
    return tuple(results)


def _result(run: Terms, policy: Policy, course: Course, account: Account) -> ReplayResult:
    steps = course.steps
    seconds = course.outcomes
    used = account.of(policy, course)
    return ReplayResult(
        trace=run.trace.name,
        policy=policy.policy.name,
        from_s=run.from_s,
        duration_s=steps * run.step_s,
        step_s=run.step_s,
        mean_inference=sum(o.inference * s for o, s in seconds.items()) / (steps * run.step_s),
        mean_training=sum(o.training * s for o, s in seconds.items()) / (steps * run.step_s),
        tasks=used.tasks,
        inference=used.inference,
        training=used.training,
        energy=used.energy,
        rules=_rules(course),
        changes=tuple(
            ReplayChange(
                t=run.moment(change.step),
                inference=change.decision.inference.value,
                training=change.decision.training.value,
                changed=change.decision.changed or ("start.",),
            )
            for change in course.changes
        ),
        notes=_notes(run, policy),
    )


def _rules(course: Course) -> dict[str, RuleReplay]:
    times: dict[str, int] = {}
    steps: dict[str, int] = {}
    before: frozenset[str] = frozenset()
    for span in course.spans:
        for rule in span.outcome.rules:
            steps[rule] = steps.get(rule, 0) + span.steps
            times[rule] = times.get(rule, 0) + (rule not in before)
        before = span.outcome.rules
    return {rule: RuleReplay(times=times[rule], seconds=steps[rule] * course.step_s) for rule in sorted(steps)}


def _notes(run: Terms, policy: Policy) -> tuple[str, ...]:
    timed = [
        key
        for key, given in (
            ("training.windows", bool(policy.training.windows)),
            ("the daily limits on training", bool(Sight(policy).daily_limits_s)),
            *((f"rule '{rule.name}'", bool(rule.windows)) for rule in policy.rule),
        )
        if given
    ]
    if run.trace.header.start is not None or not timed:
        return ()
    left_out = ", ".join(timed)
    return (f"'{policy.policy.name}': {left_out} left out, as the trace does not tell the time of day; --start does",)
