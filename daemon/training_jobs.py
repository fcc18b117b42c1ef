"""The training jobs there are: looked up by what they are about, each change written down."""

from __future__ import annotations

import time

from ..policies.errors import ConflictError, NotFoundError
from ..policies.policy import Policy
from ..policies.restrictions import training_forbidden
from ..policies.task import JobState
from .api.schemas import JobView
from .backlog import Backlog
from .events import EventLog
from .store import Store

FINAL = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
RUNNABLE = (JobState.RUNNING, JobState.QUEUED)


class TrainingJobs:
    """All jobs in the order in which they came; a change that the state cannot take at once waits."""

    def __init__(self, store: Store, events: EventLog) -> None:
        """Read the jobs; those that a dead daemon left in the middle are queued again, for their checkpoint knows."""
        self._store = store
        self._jobs = {job.id: job for job in store.jobs()}
        self._unsaved: Backlog[str] = Backlog(lambda job_id: store.put_job(self._jobs[job_id]))
        for job in self.all():
            if job.state is JobState.RUNNING:
                self.update(job, state=JobState.QUEUED)
                events.emit("job.recovered", f"Job {job.id} goes on from its last checkpoint.", job=job.id)

    def add(self, job: JobView) -> None:
        """A new job, which is in the state when this returns. Raises StateError: there is none then."""
        self._store.put_job(job)
        self._jobs[job.id] = job

    def keep(self, job: JobView) -> JobView:
        """A job as it is now, written down with its next update only."""
        self._jobs[job.id] = job
        return job

    def update(self, job: JobView, *, state: JobState | None = None, error: str | None = None) -> JobView:
        """A job as it is now, in another state perhaps, written down."""
        changes: dict[str, object] = {"updated_s": time.time()}
        if state is not None:
            changes["state"] = state
        if error is not None:
            changes["error"] = error
        self._jobs[job.id] = job.model_copy(update=changes)
        self._unsaved.put(job.id)
        return self._jobs[job.id]

    def flush(self) -> None:
        """Try again to write what waits."""
        self._unsaved.flush()

    def all(self) -> tuple[JobView, ...]:
        """All jobs, oldest first."""
        return tuple(self._jobs.values())

    def find(self, job_id: str | None) -> JobView | None:
        """A job by id, or None."""
        return self._jobs.get(job_id or "")

    def get(self, job_id: str) -> JobView:
        """A job by id. Raises NotFoundError."""
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFoundError(f"There is no job '{job_id}'.", hint="`patchctl train list` shows them.")
        return job

    def not_ended(self, job_id: str) -> JobView:
        """A job by id that can still go on. Raises NotFoundError, or ConflictError when it has ended."""
        job = self.get(job_id)
        if job.state in FINAL:
            raise ConflictError(f"Job {job_id} has ended: {job.state}.")
        return job

    def next(self, active: str | None, policy: Policy) -> JobView | None:
        """The job to train now: the one in hand while it may go on, else the oldest that may."""
        runnable = [
            job
            for job in self._jobs.values()
            if job.state in RUNNABLE and training_forbidden(policy, job.spec.tasks) is None
        ]
        in_hand = [job for job in runnable if job.id == active]
        return next(iter(in_hand or runnable), None)

    def open(self) -> tuple[JobView, ...]:
        """The jobs that have not ended."""
        return tuple(job for job in self._jobs.values() if job.state not in FINAL)

    def of_task(self, task: str) -> tuple[JobView, ...]:
        """Jobs of a task, alone or with others, that have not ended."""
        return tuple(job for job in self.open() if task in job.spec.tasks)

    def on_base(self, base: str) -> tuple[str, ...]:
        """Ids of the jobs on a base that have not ended."""
        return tuple(job.id for job in self.open() if job.spec.base == base)

    def with_examples(self, task: str) -> tuple[JobView, ...]:
        """Jobs of a task that learn or learned from its examples, whether they have ended or not."""
        learning = (job for job in self._jobs.values() if job.spec.examples and job.spec.unlabelled is None)
        return tuple(job for job in learning if task in job.spec.tasks)
