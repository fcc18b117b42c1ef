"""The services of one running daemon, as the API sees them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .api.sampling_schemas import SamplingState
from .api.schemas import StageAnswers, TaskServing, TaskView
from .base_service import BaseService
from .calibration_service import CalibrationService
from .cascade_service import CascadeService
from .deciding import DecisionService
from .events import EventLog
from .example_service import ExampleService
from .explaining import ExplainService
from .export_service import ExportService
from .history_service import HistoryService
from .inference_service import InferenceService
from .monitor.monitor import Monitor
from .permissions import Permissions
from .policy_service import PolicyService
from .posted_signals import PostedSignals
from .request_log import RequestLog
from .store import Store
from .task_service import TaskService
from .training_account import TrainingAccount
from .training_curves import TrainingCurves
from .training_service import TrainingService


@dataclass(frozen=True)
class Services:
    """Each owns one matter; together with where the daemon lives and since when (Unix time, seconds)."""

    store: Store
    events: EventLog
    policies: PolicyService
    tasks: TaskService
    monitor: Monitor
    deciding: DecisionService
    explaining: ExplainService
    requests: RequestLog
    inference: InferenceService
    permissions: Permissions
    training: TrainingService
    bases: BaseService
    account: TrainingAccount
    curves: TrainingCurves
    exports: ExportService
    cascades: CascadeService
    calibration: CalibrationService
    examples: ExampleService
    history: HistoryService
    posted: PostedSignals
    sampling: Callable[[], SamplingState]
    state_dir: Path
    socket_path: Path
    listen: str | None
    started_s: float

    def task_view(self, name: str) -> TaskView:
        """A task with its ladder. Raises NotFoundError."""
        spec = self.tasks.task(name)
        return TaskView(
            spec=spec,
            created_s=self.tasks.tasks[name][1],
            ladder=self.tasks.ladders.get(name),
            pool=self.tasks.pool(name),
            predictions=self.inference.predictions_of(name),
        )

    def serving(self) -> tuple[TaskServing, ...]:
        """What came for each task since the start."""
        counts, stages = self.inference.served, self.cascades.counted()
        return tuple(
            TaskServing(
                task=name,
                times=counts.since_start(name).classes,
                most_ms=counts.since_start(name).most_ms,
                refused=counts.since_start(name).refused,
                stages=tuple(StageAnswers(stage=each, answers=of.answers) for each, of in stages.get(name, ())),
            )
            for name in counts.tasks()
            if name in self.tasks.tasks
        )
