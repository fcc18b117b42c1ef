"""What training used, by job and local day, kept in the state: a day's limit counts across jobs and restarts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import date, datetime, timedelta, tzinfo

from ..policies.training_times import TrainingDay
from ..policies.training_use import TrainingUse, UseRow
from .api.training_schemas import DayUse, JobUse, TrainingUsage
from .backlog import Backlog
from .store import Store

MEASURING = "measuring"  # stands in a job's place for what training costs were measured with, on request
KEPT_DAYS = 400  # what a job used in all is told as long as its days are kept
WRITE_EVERY_S = 10.0  # a daemon that is killed forgets at most so much of the slice in hand


class TrainingAccount:
    """Adds up use by day and job. Days begin at local midnight; `clock` gives Unix time."""

    def __init__(self, store: Store, zone: tzinfo, clock: Callable[[], float] = time.time) -> None:
        self._store, self._zone, self._clock = store, zone, clock
        self._rows = {(row.day, row.job): row.use for row in store.training_use()}
        self._dirty: set[tuple[date, str]] = set()
        self._unsaved: Backlog[UseRow] = Backlog(store.put_training_use)
        self._written_s = time.monotonic()

    def today(self, now_s: float) -> TrainingDay:
        """The local time of a Unix time, and the processor seconds that training has used of that day."""
        local = datetime.fromtimestamp(now_s, self._zone)
        return TrainingDay(local, self._of_day(local.date()).cpu_seconds)

    def add(self, job: str, use: TrainingUse, *, write: bool = False) -> None:
        """Count what a job has just used. It is in the state at once with `write`, else within `WRITE_EVERY_S`."""
        key = datetime.fromtimestamp(self._clock(), self._zone).date(), job
        self._rows[key] = self._rows.get(key, TrainingUse()) + use
        self._dirty.add(key)
        if write or time.monotonic() - self._written_s >= WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Bring into the state what is not there yet."""
        for day, job in sorted(self._dirty):
            self._unsaved.put(UseRow(day=day, job=job, use=self._rows[day, job]))
        self._unsaved.flush()
        self._dirty.clear()
        self._written_s = time.monotonic()

    def total(self) -> TrainingUse:
        """What all jobs have used on all days that are kept."""
        return _total(self._rows.values())

    def of_job(self, job: str) -> TrainingUse:
        """What a job has used on all its days."""
        return _total(use for (_, name), use in self._rows.items() if name == job)

    def usage(self, days: int, max_minutes_per_day: float | None) -> TrainingUsage:
        """What was used on the last `days` local days, today included."""
        today = datetime.fromtimestamp(self._clock(), self._zone).date()
        first = today - timedelta(days=days - 1)
        told = tuple(
            DayUse(day=day, use=self._of_day(day), jobs=tuple(self._jobs_of_day(day)))
            for day in sorted({day for day, _ in self._rows if day >= first}, reverse=True)
        )
        return TrainingUsage(
            today=today,
            today_cpu_seconds=self._of_day(today).cpu_seconds,
            max_minutes_per_day=max_minutes_per_day,
            days=told,
            use=_total(day.use for day in told),
        )

    def trim(self) -> None:
        """Forget days that are over `KEPT_DAYS` old."""
        first = datetime.fromtimestamp(self._clock(), self._zone).date() - timedelta(days=KEPT_DAYS)
        self._rows = {key: use for key, use in self._rows.items() if key[0] >= first}
        self._dirty &= self._rows.keys()
        self._store.trim_training_use(first)

    def _of_day(self, day: date) -> TrainingUse:
        return _total(use for (of, _), use in self._rows.items() if of == day)

    def _jobs_of_day(self, day: date) -> Iterator[JobUse]:
        return (JobUse(job=job, use=use) for (of, job), use in sorted(self._rows.items()) if of == day)


def _total(uses: Iterable[TrainingUse]) -> TrainingUse:
    return sum(uses, TrainingUse())
