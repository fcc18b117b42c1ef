"""The curves of training jobs: kept in the state, a bounded number of points each."""

from __future__ import annotations

import time

from ..policies.task import JobProgress, RungResult
from ..policies.training_curve import CurvePoint, extended, point_of, spacing
from .backlog import Backlog
from .store import Store

WRITE_EVERY_S = 10.0  # a daemon that is killed forgets at most so much of a curve


class TrainingCurves:
    """Adds what the worker reports; the curve of the job in hand is in memory, all are in the state."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._job: str | None = None
        self._points: tuple[CurvePoint, ...] = ()
        self._unsaved: Backlog[tuple[str, tuple[CurvePoint, ...]]] = Backlog(
            lambda row: store.put_curve(*row), most=100
        )
        self._written_s = time.monotonic()

    def add(self, job: str, progress: JobProgress) -> None:
        """Take a report of a job's progress into its curve."""
        point = point_of(progress, time.time())
        if point is not None:
            self._take_up(job)
            self._points = extended(self._points, point, spacing(progress))
            if time.monotonic() - self._written_s >= WRITE_EVERY_S:
                self.write()

    def end_rung(self, job: str, result: RungResult) -> None:
        """Let the last point of a rung carry the validation accuracy of what it gave."""
        self._take_up(job)
        last = self._points[-1] if self._points else None
        if last is not None and last.resolution == result.resolution:
            done = last.model_copy(update={"validation": result.validation.accuracy})
            self._points = (*self._points[:-1], done)
        self.write()

    def write(self) -> None:
        """Bring the curve of the job in hand into the state."""
        if self._job is not None:
            self._unsaved.put((self._job, self._points))
        self._written_s = time.monotonic()

    def of(self, job: str) -> tuple[CurvePoint, ...]:
        """A job's curve; empty before its first step."""
        return self._points if job == self._job else self._store.curve(job)

    def _take_up(self, job: str) -> None:
        if job != self._job:
            self.write()
            self._job, self._points = job, self._store.curve(job)
