"""The cascade of each task: whether it is in force, which stages a prediction passes, and what its answers show.

A cascade is made by `calibration_service`. Here it is followed: who answered, at what cost, and whether audits, in
which the reference answers again, still find what calibrating found. One that has drifted is put out of force at once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..policies.cascade import Cascade, Row, RungId
from ..policies.cascade_choice import AffordedCascade, afforded
from ..policies.drift import calibrated_bound, describe, drifted, onset, update
from ..policies.policy_tables import Cascades
from ..policies.promises import too_weak
from ..policies.restrictions import Restrictions
from .api.schemas import CascadeAnswer, CascadeState, StageCount
from .backlog import Backlog
from .events import EventLog
from .policy_service import PolicyService
from .store import Store
from .task_service import TaskService
from .workers.protocol import Audited, InferResult, RungRef, StageRef

MOST_ROWS = 20_000  # audited inputs kept for a task; the oldest go first
MOST_ASKED = 1000  # audits that may be under way
AFTER_DRIFT_SHARE = 0.2  # of the answers are audited while a cascade that drifted waits for a new one


@dataclass(frozen=True)
class Plan:
    """The stages that a prediction passes now (none: its rung alone), and the rungs to run on it in idle time."""

    cascade: Cascade | None = None
    afforded: AffordedCascade | None = None
    stages: tuple[StageRef, ...] = ()
    audit: tuple[RungRef, ...] = ()
    refused: str | None = None  # why the task's cascade is not passed, where the policy forbids it


NOTHING = Plan()


@dataclass(frozen=True)
class _Asked:
    """An audit that was asked for: what its numbers are of, and the cascade whose promise the answer carries."""

    task: str
    rungs: tuple[RungId, ...]
    promised: Cascade | None


class CascadeService:
    """Owns the tables of cascades and audits, and keeps in memory what every prediction needs."""

    def __init__(self, store: Store, events: EventLog, tasks: TaskService, policies: PolicyService) -> None:
        self._store, self._events, self._tasks, self._policies = store, events, tasks, policies
        self._states = {state.task: state for state in store.cascades()}
        self._counts: dict[str, list[StageCount]] = {}
        self._asked: dict[int, _Asked] = {}  # audits by request
        self._random = random.Random()
        self._unsaved_states = Backlog(store.put_cascade)
        self._unsaved_audits: Backlog[tuple[str, str, Row, float, int]] = Backlog(lambda audit: store.put_audit(*audit))

    # what is known

    def state(self, task: str) -> CascadeState | None:
        """A task's cascade with its standing; None before the first calibration.

        It is put out of force here if one of its rungs has another patch than it was calibrated with.
        """
        state = self._states.get(task)
        if state is None or not state.in_force:
            return state
        pool = set(self.pool(task))
        for rung in (*state.cascade.rungs, state.cascade.reference):
            if rung not in pool:
                self._disable(task, "cascade.outdated", f"the rung {rung} is no longer the one it was calibrated with")
                return self._states[task]
        return state

    def counts(self, task: str) -> tuple[StageCount, ...]:
        """What each stage has answered since the cascade was made or the daemon started."""
        return tuple(self._counts.get(task, ()))

    def counted(self) -> dict[str, list[tuple[str, StageCount]]]:
        """Of each task that has answered through a cascade, its stages by name and what they have answered."""
        return {
            task: [
                (f"{place} {stage.rung}", count)
                for place, (stage, count) in enumerate(
                    zip(self._states[task].cascade.stages, counts, strict=True), start=1
                )
            ]
            for task, counts in self._counts.items()
        }

    def rows(self, task: str) -> tuple[tuple[RungId, ...], tuple[Row, ...]]:
        """The audited inputs since the task's cascade last drifted: the rungs, and what they said."""
        rungs, since_s = self.audited(task), self._since_s(task)
        return rungs, tuple(self._store.audits(task, _key(rungs), since_s))

    def count_rows(self, task: str) -> int:
        """How many such inputs there are."""
        return self._store.count_audits(task, _key(self.audited(task)), self._since_s(task))

    def _since_s(self, task: str) -> float:
        state = self._states.get(task)
        return 0.0 if state is None or state.drifted_since_s is None else state.drifted_since_s

    def pool(self, task: str) -> tuple[RungId, ...]:
        """Every rung of a task that can answer and whose cost is known."""
        return tuple(
            RungId(base=rung.base, resolution=rung.resolution, patch_id=rung.patch_id)
            for rung in self._tasks.pool(task)
            if rung.cost_ms is not None
        )

    def audited(self, task: str) -> tuple[RungId, ...]:
        """The rungs that audits run: of the bases that predictions load anyway, the task's own and its cascade's."""
        bases, state = {self._tasks.task(task).base}, self._states.get(task)
        if state is not None:
            bases |= {rung.base for rung in (*state.cascade.rungs, state.cascade.reference)}
        return tuple(rung for rung in self.pool(task) if rung.base in bases)

    # predictions

    def plan(self, task: str, allocation: float, restricted: Restrictions) -> Plan:
        """What a prediction passes at this inference allocation, under what restricts it; nothing without cascades."""
        policy = self._policies.policy.cascade
        if not policy.enabled:
            return NOTHING
        if restricted.no_cascade is not None:
            return Plan(refused=f"{restricted.no_cascade} switches cascades off")
        state = self.state(task)
        audit = self._audit(task, state, policy)
        if state is None or not state.in_force:
            return Plan(audit=audit)
        run = afforded(
            state.cascade,
            allocation,
            shorten=policy.shorten,
            costs_ms=self._costs(task),
            max_resolution=restricted.resolutions[1],
        )
        if (weaker := too_weak(state.cascade.promise, run.promised, restricted)) is not None:
            return Plan(audit=audit, refused=weaker)
        stages = tuple(
            StageRef(rung=self._ref(task, stage.rung), rule=stage.rule, cost_ms=stage.cost_ms) for stage in run.stages
        )
        return Plan(state.cascade, run, stages, audit)

    def sent(self, request: int, task: str, plan: Plan) -> None:
        """Remember what the audit of a request is of: what comes back names the request only."""
        if not plan.audit:
            return
        promised = plan.cascade if plan.afforded is not None and plan.afforded.promised else None
        self._asked[request] = _Asked(task, tuple(map(_id, plan.audit)), promised)
        while len(self._asked) > MOST_ASKED:
            self._asked.pop(next(iter(self._asked)))

    def answered(self, request: int, task: str, plan: Plan, result: InferResult) -> CascadeAnswer | None:
        """Count an answer; what the caller is told of its way through the cascade, None where it passed none."""
        passage, run, cascade = result.passage, plan.afforded, plan.cascade
        if passage is None or run is None or cascade is None:
            if plan.stages:  # it went past the cascade, and is not audited
                self._asked.pop(request, None)
            return None
        place = run.places[passage.stage]
        state = self._states.get(task)
        if state is not None and state.cascade is cascade:  # and not one made since the request came
            counts = self._counts.setdefault(task, [StageCount() for _ in cascade.stages])
            counts[place] = StageCount(
                answers=counts[place].answers + 1, spent_ms=counts[place].spent_ms + result.timing.spent_ms
            )
        if passage.late and request in self._asked:
            self._asked[request] = replace(self._asked[request], promised=None)
        late = "; the deadline left no time for a further stage, so this answer carries no promise"
        return CascadeAnswer(
            stage=place,
            stages=len(cascade.stages),
            confidence=passage.confidence,
            cost_ms=sum(stage.cost_ms for stage in run.stages[: passage.stage + 1]),
            late=passage.late,
            shortened=not run.whole,
            promise=cascade.promise if run.promised and not passage.late else None,
            text=f"{run.text}{late if passage.late else ''}",
        )

    def heard(self, audited: Audited, now_s: float) -> None:
        """Keep what an audit found, and see whether the answers have drifted from the reference's."""
        asked = self._asked.pop(audited.id, None)
        if asked is None or asked.task not in self._tasks.tasks or asked.rungs != self.audited(asked.task):
            return  # the task's rungs are others by now
        row = Row(answers=audited.answers, features=audited.features)
        self._unsaved_audits.put((asked.task, _key(asked.rungs), row, now_s, MOST_ROWS))
        state = self.state(asked.task)
        if state is None or not state.in_force or state.cascade is not asked.promised:
            return
        differs = audited.given != audited.answers[asked.rungs.index(state.cascade.reference)]
        bound = calibrated_bound(state.cascade.promise)
        drift = update(state.drift, differs, bound, now_s)
        state = state.model_copy(update={"drift": drift})
        if drifted(drift, self._policies.policy.cascade.false_alarm_every):
            found = onset(drift)
            since_s = now_s if found is None else found.at_s
            self._put(state.model_copy(update={"drifted_since_s": since_s}))
            self._disable(asked.task, "cascade.drifted", f"it has drifted: {describe(drift, bound)}")
        else:
            self._put(state)

    def _audit(self, task: str, state: CascadeState | None, policy: Cascades) -> tuple[RungRef, ...]:
        """The rungs to run on this input as well, for a share of all."""
        share = policy.audit_share
        if share and state is not None and state.drifted_since_s is not None:
            share = max(share, AFTER_DRIFT_SHARE)
        if self._random.random() >= share:
            return ()
        rungs = self.audited(task)
        return tuple(self._ref(task, rung) for rung in rungs) if len(rungs) > 1 else ()

    def _ref(self, task: str, rung: RungId) -> RungRef:
        return self._tasks.rung_ref(task, rung.resolution, rung.base)

    def _costs(self, task: str) -> Mapping[RungId, float]:
        """The present cost of each rung on its own."""
        return {
            RungId(base=rung.base, resolution=rung.resolution, patch_id=rung.patch_id): rung.cost_ms
            for rung in self._tasks.pool(task)
            if rung.cost_ms is not None
        }

    # standing

    def put(self, state: CascadeState) -> None:
        """A new cascade takes the place of the task's old one."""
        self._counts.pop(state.task, None)
        self._put(state)

    def forget(self, task: str) -> None:
        """Drop what is known of a task that is removed; the store has forgotten it with the task."""
        self._states.pop(task, None)
        self._counts.pop(task, None)

    def _disable(self, task: str, kind: str, why: str) -> None:
        self._put(self._states[task].model_copy(update={"in_force": False, "reason": why}))
        self._events.emit(kind, f"The cascade of task {task} is out of force: {why}.", level="warning", task=task)

    def _put(self, state: CascadeState) -> None:
        self._states[state.task] = state
        self._unsaved_states.put(state)


def _id(ref: RungRef) -> RungId:
    return RungId(base=ref.base, resolution=ref.resolution, patch_id=ref.patch_id)


def _key(rungs: tuple[RungId, ...]) -> str:
    """A name for the rungs that an audit's numbers are of: other patches, other name."""
    return " ".join(f"{rung.base}:{rung.resolution}:{(rung.patch_id or '')[:16]}" for rung in rungs)
