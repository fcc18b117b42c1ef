"""Training that begins by itself when a task has been given enough new examples."""

from __future__ import annotations

from ..policies.errors import PatchdError
from ..policies.task import TrainSpec
from .events import EventLog
from .example_service import ExampleService
from .policy_service import PolicyService
from .task_service import TaskService
from .training_service import TrainingService


class PersonalisingService:
    """Queues one job for a task at a time; when it may run is for the policy's allocation to say, as for any job."""

    def __init__(
        self,
        events: EventLog,
        policies: PolicyService,
        tasks: TaskService,
        examples: ExampleService,
        training: TrainingService,
    ) -> None:
        self._events, self._policies, self._tasks = events, policies, tasks
        self._examples, self._training = examples, training
        self._refused: dict[str, str] = {}  # task: why it could not be queued, to be said once

    def tick(self) -> None:
        """Look whether a task has as many new examples as the policy asks for, and none of its jobs is open."""
        rules = self._policies.policy.examples
        if not rules.train_after or not rules.consent:
            return
        for task in self._tasks.tasks:
            if not self._training.records.of_task(task):
                self._consider(task, rules.train_after)

    def _consider(self, task: str, wanted: int) -> None:
        """Queue a job for a task if `wanted` examples came after the last job that could use them was asked for."""
        since_s = max((job.created_s for job in self._training.records.with_examples(task)), default=0.0)
        fresh = self._examples.count_since(task, since_s)
        if fresh < wanted:
            return
        try:
            job = self._training.submit(TrainSpec(task=task))
        except PatchdError as error:
            if self._refused.get(task) != str(error):
                self._refused[task] = str(error)
                self._events.emit("examples.waiting", f"Task {task} is not trained by itself: {error}", task=task)
            return
        self._refused.pop(task, None)
        text = f"Task {task} has {fresh} new examples; job {job.id} learns from them."
        self._events.emit("examples.enough", text, task=task, job=job.id, count=fresh)
