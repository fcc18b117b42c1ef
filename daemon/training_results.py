"""What becomes of a rung that training has finished."""

from __future__ import annotations

from ..policies.errors import BadInputError, NotFoundError
from ..policies.task import PatchMetadata, RungResult
from .events import EventLog
from .store import Store
from .task_service import TaskService


class TrainingResults:
    """Registers the patches that jobs make, and keeps each job's results."""

    def __init__(self, store: Store, events: EventLog, tasks: TaskService) -> None:
        self._store, self._events, self._tasks = store, events, tasks

    def take(self, made: RungResult, metadata: PatchMetadata, job_id: str) -> RungResult:
        """Register a rung's patch and keep the job's result. Raises StateError where neither could be stored."""
        try:
            result = self._tasks.take_result(made, metadata)
        except (BadInputError, NotFoundError) as error:  # the task has gone or is another one by now
            result = made.model_copy(update={"note": str(error)})
            self._events.emit("patch.refused", str(error), level="warning", job=job_id)
        self._store.put_job_result(job_id, result)
        return result
