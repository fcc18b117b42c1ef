"""Training by the clock: when its windows open and close, and tasks that are trained again by themselves.

Both are date jobs of the one scheduler, set anew after each that has come and whenever the policy, a job or a task
changes what comes next.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.cron import CronTrigger

from ..policies.errors import PatchdError
from ..policies.policy_tables import Retrain
from ..policies.task import TrainSpec
from ..policies.training_times import next_boundary
from ..policies.windows import WeeklyTime, next_change
from .events import EventLog
from .policy_service import PolicyService
from .rhythm import until_cancelled
from .task_service import TaskService
from .training_jobs import FINAL
from .training_service import TrainingService

BOUNDARY, RETRAIN = "training-boundary", "retrain"
LOOK_AGAIN = timedelta(hours=1)  # a clock may be set, a missing task added, a job ended
SECONDS_A_DAY = 86400.0


class TrainingCalendar:
    """Keeps two jobs in the scheduler. `wake` decides and trains anew; `clock` gives Unix time."""

    def __init__(
        self,
        scheduler: BaseScheduler,
        events: EventLog,
        policies: PolicyService,
        tasks: TaskService,
        training: TrainingService,
        wake: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._scheduler, self._events, self._policies = scheduler, events, policies
        self._tasks, self._training, self._wake, self._clock = tasks, training, wake, clock
        self._refused: set[Retrain] = set()  # told once, and left alone until the policy changes

    def plan(self) -> None:
        """Set both jobs by the policy in force: at the start, and whenever it has changed."""
        self._refused.clear()
        self._set_boundary()
        self._set_retrain()

    # the windows' bounds

    def next_boundary(self) -> datetime | None:
        """When the clock alone next changes what the policy allows, training or a rule's window; None for never."""
        policy, now = self._policies.policy, self._now()
        changes = [next_change(rule.parsed_windows, now) for rule in policy.rule if rule.windows]
        return min((each for each in (next_boundary(policy.training, now), *changes) if each is not None), default=None)

    def _set_boundary(self) -> None:
        bound = self.next_boundary()
        self._set(BOUNDARY, self._pass_boundary, None if bound is None else min(bound, self._now() + LOOK_AGAIN))

    async def _pass_boundary(self) -> None:
        await self._wake()
        self._set_boundary()

    # training again

    async def _pass_retrain(self) -> None:
        for each in self._policies.policy.retrain:
            due = self.due(each)
            if due is not None and due <= self._now():
                self._submit(each)
        self._set_retrain()

    def _set_retrain(self) -> None:
        table = self._policies.policy.retrain
        known = [due for each in table if (due := self.due(each)) is not None]
        self._set(RETRAIN, self._pass_retrain, min([*known, self._now() + LOOK_AGAIN]) if table else None)

    def due(self, each: Retrain) -> datetime | None:
        """When a task is to be trained again, perhaps in the past; None while that cannot be."""
        known = self._tasks.tasks.get(each.task)
        if known is None or each in self._refused:
            return None
        base = each.base or known[0].base
        jobs = [job for job in self._training.jobs() if (job.spec.task, job.spec.base) == (each.task, base)]
        if any(job.state not in FINAL for job in jobs):
            return None
        last_s = max((job.created_s for job in jobs), default=None)
        if each.weekly is not None:
            since_s = self._policies.state.loaded_s if last_s is None else last_s
            return self._first_at(each.weekly, self._local(since_s))
        return self._now() if last_s is None else self._local(last_s + SECONDS_A_DAY * (each.every_days or 0.0))

    def _first_at(self, weekly: WeeklyTime, since: datetime) -> datetime:
        hour, minute = divmod(weekly.minute, 60)
        zone = self._scheduler.timezone
        trigger = CronTrigger(day_of_week=weekly.day_names, hour=hour, minute=minute, timezone=zone)
        found = trigger.get_next_fire_time(None, since + timedelta(seconds=1))
        assert isinstance(found, datetime)  # every week has such a time
        return found

    def _submit(self, each: Retrain) -> None:
        spec = TrainSpec(
            task=each.task, base=each.base, kinds=each.kinds, resolutions=each.resolutions, epochs=each.epochs
        )
        try:
            job = self._training.submit(spec)
        except PatchdError as error:
            self._refused.add(each)
            said = f"The policy asks to train task {each.task} again, which cannot be: {error}"
            self._events.emit("retrain.refused", said, level="error", task=each.task)
            return
        said = f"Job {job.id} trains task {each.task} again, as the policy asks."
        self._events.emit("retrain.queued", said, job=job.id, task=each.task)

    # the scheduler

    def _set(self, name: str, run: Callable[[], Awaitable[None]], when: datetime | None) -> None:
        if when is None:
            with contextlib.suppress(JobLookupError):
                self._scheduler.remove_job(name)
            return
        self._scheduler.add_job(
            until_cancelled(run),
            "date",
            run_date=max(when, self._now()),
            id=name,
            replace_existing=True,
            misfire_grace_time=None,
        )

    def _now(self) -> datetime:
        return self._local(self._clock())

    def _local(self, time_s: float) -> datetime:
        return datetime.fromtimestamp(time_s, self._scheduler.timezone)
