"""Explanations: of now, of a past moment, of a decision or a request; of all tasks or of one."""

from __future__ import annotations

import time
from datetime import datetime

from ..policies.decision import Decision
from ..policies.errors import BadInputError, NotFoundError
from ..policies.explain import Section, sections
from ..policies.signal_readings import Origin, SignalReading, readings
from ..policies.snapshot import Snapshot
from .api.explain_schemas import Explain, RequestRecord
from .cascade_service import CascadeService
from .deciding import DecisionService
from .monitor.monitor import Monitor
from .request_log import RequestLog
from .request_words import request_section
from .store import Store, Stored
from .task_service import TaskService

ABSENT_THEN = "they were absent then"
FUTURE_S = 2.0  # a moment so little ahead is now, by a clock that reads differently


class ExplainService:
    """Finds what was decided and on what grounds, and has it told."""

    def __init__(
        self,
        store: Store,
        deciding: DecisionService,
        requests: RequestLog,
        tasks: TaskService,
        cascades: CascadeService,
        monitor: Monitor,
    ) -> None:
        self._store, self._deciding, self._requests = store, deciding, requests
        self._tasks, self._cascades, self._monitor = tasks, cascades, monitor

    def now(self, task: str | None = None) -> Explain:
        """The decision in force on what was last seen. Raises NotFoundError for an unknown task."""
        found = self._deciding.in_force()
        if found is None:
            raise NotFoundError("Nothing has been decided yet.", hint="Ask again in a second.")
        span = self._store.decision_span(found.decision.id)
        since = "" if span is None else f"; what follows from them has been the same since {_clock(span[0])}"
        as_of = f"Signals, rules and reasons are of the last sample, at {_clock(found.snapshot.time_s)}{since}."
        told = self._told(found, task, as_of, present=True)
        *others, signals = told.sections
        return told.model_copy(update={"sections": (*others, *self._of_cascades(found.decision, task), signals)})

    def at(self, time_s: float, task: str | None = None) -> Explain:
        """The decision in force at a moment. Raises NotFoundError where none is stored, BadInputError for the future.

        The reasons are of when it was taken: while the same is decided again nothing is stored.
        """
        if time_s > time.time() + FUTURE_S:
            raise BadInputError(
                f"{_clock(time_s)} has not come yet.", hint="Ask about a moment that has been, such as -10m."
            )
        found = self._store.decision_at(time_s=time_s)
        if found is None:
            raise NotFoundError(f"No decision is stored of {_clock(time_s)} or before it: {self._reach()}.")
        stopped_s = self._store.stopped_at(time_s)
        if stopped_s is not None and stopped_s >= found.decision.time_s:
            missing = f"patchd was not running at {_clock(time_s)}, it had stopped at {_clock(stopped_s)}; its last "
            as_of = f"{missing}decision was taken at {_clock(found.decision.time_s)}, and all below is of then."
            as_of = as_of[0].upper() + as_of[1:]
        else:
            as_of = f"At {_clock(time_s)} the decision {_taken(self._store, found.decision)}."
        return self._told(found, task, as_of).model_copy(update={"asked": "moment", "at_s": time_s})

    def of_decision(self, decision_id: str, task: str | None = None) -> Explain:
        """A stored decision. Raises NotFoundError."""
        found = self._stored(decision_id)
        if found is None:
            raise NotFoundError(
                f"No decision '{decision_id}' is stored: {self._reach()}.",
                hint="Decisions are stored when something changes in them.",
            )
        as_of = f"This decision {_taken(self._store, found.decision)}."
        return self._told(found, task, as_of).model_copy(update={"asked": "decision"})

    def of_request(self, request_id: str) -> Explain:
        """What became of a prediction, and the decision in force then. Raises NotFoundError without a record of it."""
        record = self._requests.find(request_id)
        found = None if record.decision_id is None else self._stored(record.decision_id)
        if found is None:
            gone = f"The decision in force then, {record.decision_id}, is not stored any more: {self._reach()}."
            as_of = gone if record.decision_id is not None else "Nothing had been decided when it was answered."
            return Explain(
                asked="request", task=record.task, as_of=as_of, request=record, sections=(request_section(record),)
            )
        as_of = f"The decision in force when it was answered {_taken(self._store, found.decision)}."
        return self._told(found, record.task, as_of, record)

    def _stored(self, decision_id: str) -> Stored | None:
        """As it was stored; the one in force even where the state could not take it."""
        found = self._store.decision_at(decision_id=decision_id)
        if found is None and (present := self._deciding.in_force()) and present.decision.id == decision_id:
            return present
        return found

    def _told(
        self,
        found: Stored,
        task: str | None,
        as_of: str,
        request: RequestRecord | None = None,
        *,
        present: bool = False,
    ) -> Explain:
        decision, snapshot, policy, rules = found
        if task is not None and request is None and task not in {rung.task for rung in decision.rungs}:
            self._tasks.task(task)  # an unknown one is said to be unknown
            raise NotFoundError(
                f"Task '{task}' has nothing to answer with in decision {decision.id}.",
                hint=f"`patchctl task show {task}` shows its rungs.",
            )
        signals = self._signals(snapshot, present)
        told = sections(decision, snapshot, rules, task, signals)
        if task is not None:
            rungs = tuple(rung for rung in decision.rungs if rung.task == task)
            decision = decision.model_copy(update={"rungs": rungs})
        span = self._store.decision_span(decision.id)
        return Explain(
            asked="now" if request is None else "request",
            task=task,
            as_of=as_of,
            decision=decision,
            until_s=None if span is None else span[1],
            snapshot=snapshot,
            policy=policy,
            signals=signals,
            rules=rules,
            request=request,
            sections=told if request is None else (request_section(request), *told),
        )

    def _signals(self, snapshot: Snapshot, present: bool) -> tuple[SignalReading, ...]:
        """The snapshot's signals with their sources; why one was absent in the past nobody has kept."""
        origins = self._monitor.origins(snapshot)
        if present:
            return readings(snapshot, origins, time.time())
        then = {name: Origin(origin.source, ABSENT_THEN) for name, origin in origins.items()}
        return readings(snapshot, then, snapshot.time_s)

    def _of_cascades(self, decision: Decision, task: str | None) -> list[Section]:
        """The cascades as they stand now: they are not part of a decision."""
        told = []
        for rung in decision.rungs:
            state = self._cascades.state(rung.task) if task in (None, rung.task) else None
            if state is None:
                continue
            restricted = self._deciding.restrictions(rung.task)
            plan = self._cascades.plan(rung.task, restricted.allocation(decision.inference.value), restricted)
            standing = "is in force" if state.in_force else "is out of force"
            said = [f"It {standing}: {state.reason}."]
            if plan.afforded is not None:
                said.append(f"At this inference allocation: {plan.afforded.text}.")
            elif state.in_force:
                why = plan.refused or "the policy has cascades switched off"
                said.append(f"One rung answers: {why}.")
            told.append(
                Section(key=f"cascade:{rung.task}", heading=f"Cascade of task {rung.task}", sentences=tuple(said))
            )
        return told

    def _reach(self) -> str:
        first_s = self._store.first_decision_s()
        return "none has been stored yet" if first_s is None else f"stored decisions go back to {_clock(first_s)}"


def _taken(store: Store, decision: Decision) -> str:
    """How long a decision stood, and of when its grounds are."""
    span = store.decision_span(decision.id)
    until = "is in force still" if span is None or span[1] is None else f"held until {_clock(span[1])}"
    return f"was taken at {_clock(decision.time_s)} and {until}; signals, rules and reasons are of when it was taken"


def _clock(time_s: float) -> str:
    """Local date and time; of today the time alone."""
    moment = datetime.fromtimestamp(time_s).astimezone()
    today = moment.date() == datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
