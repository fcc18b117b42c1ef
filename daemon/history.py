"""The history of a daemon: what was seen, decided, served and trained, minute by minute, kept within bounds.

The row of the minute in hand is kept in memory and written, with the training slices that ended in it, in one
transaction when the minute is over: a daemon that is killed forgets that minute. While none runs there are no rows,
and readers show the gap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ..policies.decision import AllocationDecision, Decision
from ..policies.signals import signals
from ..policies.snapshot import Snapshot
from ..policies.training_words import plan_in_words
from .api.history_schemas import TrainingSlice
from .api.schemas import JobView, StageCount
from .backlog import Backlog
from .history_row import Row, Span, TaskRow, encoded, stepped, sum_up, thinned
from .history_store import HistoryStore
from .served import Served
from .training_records import PlanReport

MINUTE_S = 60.0
HOLD_MOST_S = 150.0  # after a longer silence nobody knows what was; the slowest sampling is 60 s
CLOCK_SET_S = 2.0  # the clock was set if it differs by more from where it should be
MOST_SIGNALS = 150  # in a row
MOST_TASKS = 100  # in a row: those that were asked, then the first by name

Stages = Mapping[str, Sequence[tuple[str, StageCount]]]  # of each task: the name of a stage, and its count so far


@dataclass(frozen=True)
class Pending:
    """What is not in the state yet: the minute in hand, as it would be stored, its slices, and added signals' units."""

    row: bytes | None = None
    slices: tuple[TrainingSlice, ...] = ()
    units: Mapping[str, str] = field(default_factory=dict)


class HistoryRecorder:
    """Fills the row of the minute in hand from every sample; `take_served` and `stages` give what was answered."""

    def __init__(
        self,
        store: HistoryStore,
        take_served: Callable[[], Mapping[str, Served]],
        stages: Callable[[], Stages],
        wake_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take_served, self._stages, self._wake_s = take_served, stages, wake_s
        self._counted: dict[tuple[str, str], int] = {}
        self._row: Row | None = None
        self._slices: list[TrainingSlice] = []
        self._seen: dict[str, float] = {}
        self._decision: Decision | None = None
        self._last_s = 0.0
        self._last_wake_s = 0.0
        self._unsaved: Backlog[tuple[Row, tuple[TrainingSlice, ...]]] = Backlog(lambda written: store.put(*written))

    def sample(self, snapshot: Snapshot, decision: Decision | None) -> None:
        """The device was looked at, and this was decided; until now stood what was seen and decided before."""
        now_s, wake_s = snapshot.time_s, self._wake_s()
        held_s = wake_s - self._last_wake_s
        if self._row is not None:
            expected_s = self._last_s + held_s
            if held_s <= HOLD_MOST_S:
                self._hold(expected_s)
            if held_s > HOLD_MOST_S or abs(now_s - expected_s) > CLOCK_SET_S:
                self._close()
        if self._row is None or now_s // MINUTE_S != self._row.first_s // MINUTE_S:
            self._close()
            self._row = Row(now_s, now_s)
        self._seen, self._decision = signals(snapshot), decision
        self._last_s, self._last_wake_s = now_s, wake_s
        _see(self._row, self._seen, decision, now_s)

    def _hold(self, until_s: float) -> None:
        """What was seen last stood until now, over the end of a minute where there is one."""
        assert self._row is not None
        while (end_s := (self._row.first_s // MINUTE_S + 1) * MINUTE_S) < until_s:
            self._held(end_s)
            self._close()
            self._row = Row(end_s, end_s)
            _see(self._row, self._seen, self._decision, end_s)
        self._held(until_s)

    def _held(self, until_s: float) -> None:
        row, decision = self._row, self._decision
        assert row is not None
        seconds = max(0.0, until_s - self._last_s)
        self._last_s = row.last_s = max(row.last_s, until_s)
        for name, span in row.signals.items():
            if name in self._seen:
                span.hold(self._seen[name], seconds)
        if decision is None:
            return
        sum_up(row.policies, {decision.policy: seconds})
        for into, allocation in ((row.inference, decision.inference), (row.training, decision.training)):
            into.value.hold(allocation.value, seconds)
            sum_up(into.held_by, dict.fromkeys(_held_by(allocation), seconds))
        waits = (f"training.{each.key}" for each in decision.times.hindrances)
        sum_up(row.training.held_by, dict.fromkeys(waits, seconds))
        for rung in decision.rungs:
            if (task := row.tasks.get(rung.task)) is not None:
                sum_up(task.pixels, {rung.resolution: seconds})

    def slice_ended(
        self, job: JobView, now_s: float, seconds: float, cpu_seconds: float, reports: Sequence[PlanReport]
    ) -> None:
        """A training slice has ended in order: told apart by the plans that ran in it."""
        whole = TrainingSlice(
            start_s=now_s - seconds,
            end_s=now_s,
            job=job.id,
            task=", ".join(job.spec.tasks),
            plan="without a training step",
            cpu_seconds=cpu_seconds,
        )
        for each in parts(whole, reports) if reports else (whole,):
            self.keep(each)

    def keep(self, ended: TrainingSlice) -> None:
        """Have a slice written with the minute in hand."""
        self._slices.append(ended)

    def pending(self, units: Mapping[str, str]) -> Pending:
        """What readers of the state have to be told beside it."""
        row, slices = self._in_hand()
        return Pending(None if row is None else encoded(row), slices, units)

    def _in_hand(self) -> tuple[Row | None, tuple[TrainingSlice, ...]]:
        """The row of this minute, requests included, and its slices."""
        if self._row is not None:
            self._count(self._row)
            _trim(self._row)
        return self._row, tuple(self._slices)

    def close(self) -> None:
        """Write what is in hand: the daemon ends."""
        if self._row is not None:
            self._hold(self._last_s + max(0.0, min(HOLD_MOST_S, self._wake_s() - self._last_wake_s)))
        self._close()

    def _close(self) -> None:
        row, slices = self._in_hand()
        if row is not None and (row.last_s > row.first_s or row.tasks or slices):
            self._unsaved.put((row, slices))
            self._slices = []
        self._row = None

    def _count(self, row: Row) -> None:
        """Take over what was answered since the last time."""
        for name, served in self._take_served().items():
            task = row.tasks.setdefault(name, TaskRow())
            sum_up(task.classes, served.classes)
            task.most_ms = max(task.most_ms, served.most_ms)
            sum_up(task.refused, served.refused)
        counted: dict[tuple[str, str], int] = {}
        for name, stages in self._stages().items():
            for stage, count in stages:
                before = self._counted.get((name, stage), 0)
                counted[name, stage] = count.answers
                more = count.answers - before if count.answers >= before else count.answers  # of a new cascade
                if more:
                    sum_up(row.tasks.setdefault(name, TaskRow()).stages, {stage: more})
        self._counted = counted


def _see(row: Row, seen: Mapping[str, float], decision: Decision | None, now_s: float) -> None:
    """What stands from a moment on."""
    for name, value in seen.items():
        span = row.signals.get(name)
        if span is None:
            if len(row.signals) >= MOST_SIGNALS:
                continue
            span = row.signals[name] = Span()
        span.see(value)
    if decision is None:
        return
    for into, allocation in ((row.inference, decision.inference), (row.training, decision.training)):
        into.value.see(allocation.value)
        stepped(into.steps, now_s, allocation.value, allocation.target)
    for rung in decision.rungs:
        if rung.task in row.tasks or len(row.tasks) < MOST_TASKS:
            stepped(row.tasks.setdefault(rung.task, TaskRow()).steps, now_s, float(rung.resolution))


def _held_by(allocation: AllocationDecision) -> Iterator[str]:
    """What keeps an allocation where it is: the rule that wins, which is listed first, or the slow rise after it."""
    if allocation.value != allocation.target:
        yield "hold"
        return
    yield from islice((f"rule {each.rule}" for each in allocation.reasons if each.rule and each.kind == "rule"), 1)


def parts(whole: TrainingSlice, reports: Sequence[PlanReport]) -> Iterator[TrainingSlice]:
    """A slice told apart by the plans that ran in it, one after the other."""
    all_cpu_s, began_s = sum(report.cpu_seconds for report in reports), whole.start_s
    for report in reports:
        share = report.cpu_seconds / all_cpu_s if all_cpu_s > 0 else 1 / len(reports)
        ended_s = began_s + share * (whole.end_s - whole.start_s)
        full_ms = report.full_step_ms
        yield whole.model_copy(
            update={
                "start_s": began_s,
                "end_s": ended_s,
                "resolution": report.resolution,
                "plan": plan_in_words(report.plan.model_copy(update={"resolution": None})),
                "cost": report.plan.cost,
                "measured_cost": report.measured_step_ms / full_ms if full_ms else None,
                "cpu_seconds": share * whole.cpu_seconds,
                "steps": report.steps,
                "samples": report.samples,
            }
        )
        began_s = ended_s


def _trim(row: Row) -> None:
    """Keep a row within its bounds: tasks that were asked first."""
    for allocated in (row.inference, row.training):
        allocated.steps = thinned(allocated.steps, row.first_s, row.last_s)
    for task in row.tasks.values():
        task.steps = thinned(task.steps, row.first_s, row.last_s)
    if len(row.tasks) > MOST_TASKS:
        asked = sorted(row.tasks, key=lambda name: (-sum(row.tasks[name].classes.values()), name))
        for name in asked[MOST_TASKS:]:
            del row.tasks[name]
