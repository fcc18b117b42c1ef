"""A trace through one policy, step by step: what was in force, for how long.

The daemon decides at every sampling period. Over a trace that would be done mostly in vain, so runs of steps that
the policy cannot tell apart (`Sight`) are decided at their ends alone, once nothing waits to change: no condition waits
out its time, and a decision far in the future, on the same state, comes out the same. What is about to change by time
alone is therefore decided step by step. `every_step` decides them all; both give the same, which tests hold against
each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property

from .choices import Choices
from .decide import decide
from .decision import AllocationDecision, Decision, Ladder, ReasonKind, RungDecision
from .ladder import choose_rung
from .policy import Policy
from .rules import PolicyState, initial_state
from .sight import Seeing, Sight
from .signals import signals
from .snapshot import Snapshot
from .trace import Trace
from .training_costs import TrainingSituation
from .training_plan import Plans
from .training_times import TrainingDay

FAR_S = 1e8  # three years: longer than anything a policy waits for
LOOK_AFTER = 2  # steps without a difference before it is asked whether anything waits to change
EPSILON_S = 1e-6  # steps are multiples of a period, moments of a trace are decimals


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that counts of a decision. Two equal ones are the same thing done."""

    inference: float
    training: float
    rungs: tuple[tuple[str, int], ...]  # task, resolution
    costs_ms: tuple[float, ...]  # of those rungs
    trains: bool
    waits: tuple[str, ...]  # conditions that keep training from running
    plan_cost: float
    step_ms: float | None
    rules: frozenset[str]  # that matched
    over: tuple[str, ...]  # tasks whose rung costs more than the rules ask for now
    trains_over: bool


@dataclass(slots=True)
class Span:
    """Steps next to each other with one outcome, over one record of the trace."""

    outcome: Outcome
    record: int
    first: int
    steps: int = 1


@dataclass(frozen=True, slots=True)
class Change:
    """A step whose decision differs from the one before it, in words."""

    step: int
    decision: Decision


@dataclass(frozen=True)
class Course:
    """What a policy did over a part of a trace."""

    spans: Sequence[Span]
    changes: Sequence[Change]
    step_s: float
    from_s: float
    decided: int  # how many steps were decided, not skipped

    @property
    def steps(self) -> int:
        """How many there are."""
        return sum(span.steps for span in self.spans)

    @cached_property
    def outcomes(self) -> Mapping[Outcome, float]:
        """Seconds of each outcome."""
        counted: dict[Outcome, int] = {}
        for span in self.spans:
            counted[span.outcome] = counted.get(span.outcome, 0) + span.steps
        return {outcome: steps * self.step_s for outcome, steps in counted.items()}


class Signals:
    """A trace's signals by record, read once for all policies."""

    def __init__(self, trace: Trace, device: Snapshot, names: Sequence[str]) -> None:
        self._values: list[Mapping[str, float]] = []
        before: Mapping[str, object] | None = None
        for record in trace.records:
            if before is not None and record.given is before:
                self._values.append(self._values[-1])
                continue
            before = record.given
            self._values.append(signals(trace.over(record, device), names))

    def of(self, record: int) -> Mapping[str, float]:
        """The signals of a record."""
        return self._values[record]


@dataclass(frozen=True)
class Terms:
    """What is replayed, and on what."""

    trace: Trace
    ladders: Mapping[str, Ladder]
    training: TrainingSituation | None
    device: Snapshot  # for what the trace leaves out
    step_s: float
    from_s: float
    until_s: float
    training_threads: float = 1.0  # processors that training uses while it runs

    @property
    def steps(self) -> int:
        """How often is decided, one step at least."""
        return max(1, round((self.until_s - self.from_s) / self.step_s))

    def moment(self, step: int) -> float:
        """Where in the trace a step lies, seconds."""
        return self.from_s + step * self.step_s


class Replaying:
    """One policy on its way through a trace."""

    def __init__(self, terms: Terms, policy: Policy) -> None:
        self._terms, self._policy = terms, policy
        self._memory = initial_state()
        self._choices, self._plans = Choices(), Plans()
        self._previous: Decision | None = None
        self._used: dict[date, int] = {}  # steps in which training ran, by local day
        self._used_before = 0  # of the last step's day, before that step
        self._budgets: dict[tuple[str, float], float] = {}
        self._outcomes: dict[Outcome, Outcome] = {}
        self._decided = 0

    def run(self, seen: Signals, sight: Sight, *, by_record: bool, every_step: bool = False) -> Course:
        """Decide over the whole part. `by_record` keeps spans of different records apart."""
        terms = self._terms
        trace = terms.trace
        times = [record.t for record in trace.records]
        record = trace.index_at(terms.from_s + EPSILON_S)
        sides, exact = sight.sides(seen.of(record)), sight.values(seen.of(record))
        seeing = Seeing(sight)
        curves = seeing.curves(seen.of(record))
        local = trace.local(terms.from_s)
        begun_s = None if local is None else local.timestamp() + EPSILON_S
        minute = -1
        clock: tuple[bool, ...] = ()
        spans: list[Span] = []
        changes: list[Change] = []
        settled = skipped = False
        before: tuple[object, ...] | None = None
        same, look_at = 0, LOOK_AFTER
        for step in range(terms.steps):
            t = terms.moment(step)
            if record + 1 < len(times) and times[record + 1] <= t + EPSILON_S:
                record = trace.index_at(t + EPSILON_S)
                sides, exact = sight.sides(seen.of(record)), sight.values(seen.of(record))
                curves = seeing.curves(seen.of(record))
            if begun_s is not None and (now := int((begun_s + step * terms.step_s) // 60)) != minute:
                minute, local = now, trace.local(t)
                clock = () if local is None else sight.clock(local)
            key = (seeing.sides(sides, t), exact, curves, clock, self._spent(sight, local))
            if key != before:
                if skipped:  # bring the memory to the step before this one
                    self._decide(step - 1, spans[-1].record, self._used_before)
                settled = skipped = False
                same, look_at, before = 0, LOOK_AFTER, key
            if settled:
                skipped, outcome = True, spans[-1].outcome
            else:
                used = 0 if local is None else self._used.get(local.date(), 0)
                decision = self._decide(step, record, used)
                seeing.decided(t)
                outcome = self._outcome(decision)
                same = same + 1 if spans and outcome is spans[-1].outcome else 0
                if decision.changed or step == 0:
                    changes.append(Change(step, decision))
                if same >= look_at and not every_step:
                    settled = self._stands_still(step, record, used, outcome)
                    look_at = 2 * same
            if local is not None:
                self._used_before = self._used.get(local.date(), 0)
                self._used[local.date()] = self._used_before + outcome.trains
            last = spans[-1] if spans else None
            if last is not None and outcome is last.outcome and (record == last.record or not by_record):
                last.steps += 1
                last.record = record
            else:
                spans.append(Span(outcome, record, step))
        return Course(spans, changes, terms.step_s, terms.from_s, self._decided)

    def _spent(self, sight: Sight, local: datetime | None) -> int:
        """How many of the daily limits on training are reached."""
        if local is None or not sight.daily_limits_s:
            return 0
        used_s = self._processor_s(self._used.get(local.date(), 0))
        return sum(used_s >= limit_s for limit_s in sight.daily_limits_s)

    def _processor_s(self, steps: int) -> float:
        return steps * self._terms.step_s * self._terms.training_threads

    def _decide(self, step: int, record: int, used: int) -> Decision:
        """Decide a step for which training has used so many steps of the day."""
        decision, self._memory = self._decision(step, record, used)
        self._previous = decision
        self._decided += 1
        return decision

    def _decision(self, step: int, record: int, used: int, later_s: float = 0.0) -> tuple[Decision, PolicyState]:
        terms = self._terms
        t = terms.moment(step)
        snapshot = terms.trace.over(terms.trace.records[record], terms.device)
        snapshot = snapshot.model_copy(update={"time_s": terms.device.time_s + t + later_s})
        local = terms.trace.local(t)
        day = None if local is None else TrainingDay(local, self._processor_s(used))
        return decide(
            self._policy,
            snapshot,
            self._memory,
            terms.ladders,
            terms.training,
            self._previous,
            str(step),
            choices=self._choices,
            day=day,
            plans=self._plans,
        )

    def _stands_still(self, step: int, record: int, used: int, outcome: Outcome) -> bool:
        """Whether nothing waits to change: with everything as it is, time alone will change nothing any more.

        Allocations and rungs go one way while nothing else moves, so that a look at the end of it is enough. Conditions
        that wait out their times do not: two of one rule may hold together for a while.
        """
        if any(condition.since_s is not None for condition in self._memory.conditions.values()):
            return False
        later, _ = self._decision(step, record, used, FAR_S)
        return not later.changed and self._outcome(later) is outcome

    def _outcome(self, decision: Decision) -> Outcome:
        plan, waits = decision.plan.plan, tuple(each.key.value for each in decision.times.hindrances)
        trains = not plan.paused and not waits
        reasons = [*decision.inference.reasons, *decision.training.reasons]
        reasons += [reason for cap in decision.caps for reason in cap.reasons]
        made = Outcome(
            inference=decision.inference.value,
            training=decision.training.value,
            rungs=tuple((rung.task, rung.resolution) for rung in decision.rungs),
            costs_ms=tuple(_cost_ms(rung) for rung in decision.rungs),
            trains=trains,
            waits=waits,
            plan_cost=plan.cost,
            step_ms=plan.step_ms,
            rules=frozenset(r.rule for r in reasons if r.rule is not None and r.kind is ReasonKind.RULE),
            over=tuple(rung.task for rung in decision.rungs if self._is_over(rung, decision.inference)),
            trains_over=trains and plan.cost > decision.training.target,
        )
        return self._outcomes.setdefault(made, made)  # one object each: they are compared at every step

    def _is_over(self, rung: RungDecision, inference: AllocationDecision) -> bool:
        """Whether a rung costs more than what the rules ask for now affords: it is held, or has not followed yet."""
        key = rung.task, inference.target
        if key not in self._budgets:
            caps = self._policy.inference
            choice = choose_rung(
                self._terms.ladders[rung.task],
                inference.target,
                min_resolution=caps.min_resolution,
                max_resolution=caps.max_resolution,
            )
            self._budgets[key] = choice.budget_ms
        return _cost_ms(rung) > self._budgets[key]


def _cost_ms(rung: RungDecision) -> float:
    return next(candidate.cost_ms for candidate in rung.candidates if candidate.chosen)
