"""Which examples a training job learns from: those of its first start, less what may no longer be used since."""

from __future__ import annotations

from collections.abc import Collection

from ..policies.examples import ExampleFile
from .api.schemas import JobView
from .example_service import ExampleService
from .example_store import ExampleStore


class JobExamples:
    """The choice is made when a job first starts and kept with it, so that a job that goes on is the job it was."""

    def __init__(self, store: ExampleStore, examples: ExampleService) -> None:
        self._store, self._examples = store, examples
        self._told: tuple[ExampleFile, ...] = ()  # to the worker that runs

    def of_task(self, task: str) -> tuple[ExampleFile, ...]:
        """What a job of the task that started now would learn from."""
        return self._examples.usable(task)

    def choose(self, job: JobView) -> JobView:
        """The job with its choice made, where it was not yet. Raises StateError."""
        if job.examples is not None:
            return job
        learns = job.spec.examples and job.spec.unlabelled is None
        chosen = self._usable(job) if learns else ()
        self._store.choose(job.id, (example.id for example in chosen))
        return job.model_copy(update={"examples": len(chosen)})

    def of_job(self, job: JobView) -> tuple[ExampleFile, ...]:
        """What the job may learn from now."""
        if not job.examples:
            return ()
        chosen = self._store.chosen(job.id)
        return tuple(example for example in self._usable(job) if example.id in chosen)

    def _usable(self, job: JobView) -> tuple[ExampleFile, ...]:
        return tuple(example for task in job.spec.tasks for example in self._examples.usable(task))

    def told(self, job: JobView) -> tuple[ExampleFile, ...]:
        """What the job may learn from now, which the worker is told with this call."""
        self._told = self.of_job(job)
        return self._told

    def changed(self, job: JobView) -> bool:
        """Whether the job may no longer learn from all that its worker was told, or not as it was told."""
        return self.of_job(job) != self._told

    def forget(self, but: Collection[str]) -> None:
        """Forget the choices of all jobs but those that have not ended. Raises StateError."""
        self._store.forget_jobs(but)
