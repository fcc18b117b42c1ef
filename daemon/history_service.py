"""The history in the daemon: fed by samples, slices and counters, trimmed by the hour, read by the API."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .api.schemas import JobView
from .cascade_service import CascadeService
from .deciding import DecisionService
from .history import HistoryRecorder, Pending
from .history_store import HistoryStore
from .inference_service import InferenceService
from .store import Store
from .training_records import PlanReport
from .training_service import TrainingService


class HistoryService:
    """Owns the tables of the history."""

    def __init__(
        self,
        store: Store,
        deciding: DecisionService,
        inference: InferenceService,
        cascades: CascadeService,
        training: TrainingService,
    ) -> None:
        """Watches samples and training slices from now on."""
        self._store, self._deciding = HistoryStore(store), deciding
        self._recorder = HistoryRecorder(self._store, inference.served.take, cascades.counted)
        deciding.on_sample(self._recorder.sample)
        training.on_slice(self._slice_ended)

    def pending(self) -> Pending:
        """What is not in the state yet."""
        snapshot = self._deciding.snapshot
        return self._recorder.pending({} if snapshot is None else {each.name: each.unit for each in snapshot.added})

    def trim(self) -> None:
        """Keep the tables within their bounds. Raises StateError."""
        self._store.trim(time.time())

    def close(self) -> None:
        """Write what is in hand."""
        self._recorder.close()

    def _slice_ended(self, job: JobView, seconds: float, cpu_seconds: float, reports: Sequence[PlanReport]) -> None:
        self._recorder.slice_ended(job, time.time(), seconds, cpu_seconds, reports)
