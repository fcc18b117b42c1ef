"""What the planner is given: the job in hand or next, what its base costs, and the room there is."""

from __future__ import annotations

from collections.abc import Sequence

from ..policies.base_name import packaged
from ..policies.decision import TrainingPlan
from ..policies.policy import Policy
from ..policies.snapshot import Snapshot
from ..policies.training_corrections import PlanUse
from ..policies.training_costs import JobOutline, PlanLimits, TrainingSituation
from ..policies.training_limits import TrainingRoom, lowered, room
from ..policies.training_plan import plan_training
from .api.schemas import JobView
from .backlog import Backlog
from .store import Store
from .task_service import TaskService
from .training_costs import TrainingCostBook
from .training_outline import outline, usual_job
from .training_records import JobFacts, JobNotes, PlanReport, joined


class TrainingOutlook:
    """Makes situations: the same object until something that a plan depends on has changed."""

    def __init__(self, store: Store, tasks: TaskService, costs: TrainingCostBook) -> None:
        self._tasks, self._costs = tasks, costs
        self._notes = store.job_notes()
        self._unsaved: Backlog[str] = Backlog(lambda job_id: store.put_job_notes(job_id, self._notes[job_id]))
        self._room: TrainingRoom | None = None
        self._last_threads = 1
        self._last: TrainingSituation | None = None

    def notes(self, job_id: str) -> JobNotes:
        """What is known of a job beside its progress."""
        return self._notes.get(job_id, JobNotes())

    def put_facts(self, job_id: str, told: JobFacts) -> None:
        """Keep what a worker told of its job; an importance once computed stays."""
        known = self.notes(job_id).facts
        if known is not None and not told.importance:
            told = told.model_copy(update={"importance": known.importance})
        if told != known:
            self._put(job_id, facts=told)

    def observe(self, job: JobView, uses: Sequence[PlanUse]) -> list[PlanReport]:
        """What plans took in a slice: predictions follow it, and the job's reports tell of it; these come back."""
        reports, of_slice = self.notes(job.id).plans_run, self._costs.observe(self.outline(job), uses)
        for report in of_slice:
            reports = joined(reports, report)
        self._put(job.id, plans_run=reports)
        return of_slice

    def forget(self, job_id: str) -> None:
        """The job has ended: how its plans went is history, what it needed is not."""
        if self.notes(job_id).facts is not None:
            self._put(job_id, facts=None)

    def _put(self, job_id: str, **changes: object) -> None:
        self._notes[job_id] = self.notes(job_id).model_copy(update=changes)
        self._unsaved.put(job_id)

    def sides(self, base: str, wanted: tuple[int, ...] = ()) -> tuple[int, ...]:
        """The sides in pixels to measure `base` at: those wanted, and all that tasks train it or a version of it at."""
        specs = (spec for spec, _ in self._tasks.tasks.values() if spec.data is not None)
        used = {
            side
            for spec in specs
            for of, sides in spec.bases.items()
            if packaged(of) == packaged(base)
            for side in sides
        }
        return tuple(sorted({*wanted, *used} or {JobOutline().full_resolution}))

    def outline(self, job: JobView | None) -> JobOutline:
        """A job as the planner sees it; without one, a usual one of the first task that has data."""
        if job is None:
            return usual_job(spec for spec, _ in self._tasks.tasks.values())
        return outline(job, self._tasks.task(job.spec.task), self.notes(job.id).facts)

    def lower(self, job: JobView, plan: TrainingPlan) -> int | None:
        """Memory ran out under `plan`: cap what the job's steps take. The cap in bytes comes back.

        None where it was the smallest plan that was running: then nothing changes.
        """
        outlined = self.outline(job)
        costs = self._costs.costs(outlined.base, self._last_threads)
        limits = PlanLimits(disk_bytes=0 if self._room is None else self._room.disk_bytes)
        for cap in lowered(plan, self.notes(job.id).memory_cap_bytes):
            capped = limits.model_copy(update={"memory_bytes": cap})
            if not plan_training(1.0, costs, outlined, capped).plan.paused:
                self._put(job.id, memory_cap_bytes=cap)
                return cap
        return None

    def situation(self, job: JobView | None, threads: int, snapshot: Snapshot, policy: Policy) -> TrainingSituation:
        """What a plan depends on beside the allocation."""
        outlined = self.outline(job)
        self._last_threads = threads
        costs = self._costs.costs(outlined.base, threads)
        self._room = room(policy.training, snapshot, outlined.kept_bytes, self._room)
        limits = self._room.limits
        cap = None if job is None else self.notes(job.id).memory_cap_bytes
        if cap is not None and (limits.memory_bytes is None or cap < limits.memory_bytes):
            limits = limits.model_copy(update={"memory_bytes": cap})
        last = self._last
        if last is None or last.costs is not costs or last.job != outlined or last.limits != limits:
            self._last = last = TrainingSituation(costs=costs, job=outlined, limits=limits)
        return last
