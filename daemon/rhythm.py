"""When the daemon turns: one period for sampling and for all jobs that look at things regularly, fast or slow.

All of them are interval jobs of the one scheduler and begin at the same moment, so an idle daemon wakes once a period,
not once for each. `policies.sampling` says which period follows.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import wraps
from typing import Any

from apscheduler.schedulers.base import BaseScheduler
from apscheduler.triggers.interval import IntervalTrigger

from ..policies.policy import Policy
from ..policies.sampling import Pace, Stillness, due_in_s, pace, signals_that_count, stir, watch
from .api.sampling_schemas import SamplingState
from .deciding import DecisionService
from .policy_service import PolicyService

LEAST_GAP_S = 0.05  # between two samples: events come in bursts
ONCE: dict[str, Any] = {"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
TURN = "turn"


def until_cancelled(run: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """`run` as a job of the scheduler: that it is cancelled when the daemon ends is no failure of the job."""

    @wraps(run)
    async def job() -> None:
        with suppress(asyncio.CancelledError):
            await run()

    return job


@dataclass(frozen=True, slots=True)
class _Regular:
    """A job that is to run every so many seconds, or as often as the daemon turns where that is less."""

    id: str
    run: Callable[[], Awaitable[None]]
    every_s: float


class Rhythm:
    """Drives `deciding` and the regular jobs. `work` says in words what is in hand, None while nothing is."""

    def __init__(
        self,
        scheduler: BaseScheduler,
        deciding: DecisionService,
        policies: PolicyService,
        work: Callable[[], str | None],
        *,
        fast_s: float,
        slow_s: float,
        expiry_in_s: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`expiry_in_s` tells in how many seconds a signal goes by itself."""
        self._scheduler, self._deciding, self._policies, self._work = scheduler, deciding, policies, work
        self._fast_s, self._slow_s = fast_s, max(fast_s, slow_s)
        self._expiry_in_s = expiry_in_s
        self._jobs: list[_Regular] = [_Regular(TURN, self.turn, 0.0)]
        self._stillness = Stillness()
        self._counting: tuple[Policy, frozenset[str]] | None = None
        self._pace = Pace(fast_s, "the daemon has just started")
        self._sampled_s = time.monotonic()
        self._started = False

    def add(self, id: str, run: Callable[[], Awaitable[None]], every_s: float = 0.0) -> None:
        """Run a job every `every_s`, or once a turn where that is less often. Before `start`."""
        self._jobs.append(_Regular(id, run, every_s))

    def start(self) -> None:
        """Take the first sample and set the jobs."""
        self._sample()
        trigger_of = self._triggers()
        for job in self._jobs:
            self._scheduler.add_job(until_cancelled(job.run), trigger_of(job), id=job.id, **ONCE)
        self._started = True

    def state(self) -> SamplingState:
        """The period in force and why."""
        return SamplingState(period_s=self._pace.period_s, fast_s=self._fast_s, slow_s=self._slow_s, why=self._pace.why)

    async def turn(self) -> None:
        """Sample, decide, and set the next period. Whatever may take longer has a job of its own."""
        self._sample()
        self._follow()

    def wake(self, why: str, *jobs: str) -> None:
        """Something has happened: sample at once, run these jobs at once, and look closely for a while."""
        self._stillness = stir(self._stillness, time.monotonic(), why)
        self._follow()
        self._soon(TURN, *jobs)

    def attend(self, why: str) -> None:
        """Something is asked for: look closely for a while, from the next sample on."""
        self._stillness = stir(self._stillness, time.monotonic(), why)
        if self._pace.period_s > self._fast_s:
            self._follow()

    def freshen(self) -> None:
        """A request has come: while samples are rare, it is answered by one that is taken now."""
        if self._pace.period_s > self._fast_s and time.monotonic() - self._sampled_s > self._fast_s:
            self._sample()
            self._follow()

    def _sample(self) -> None:
        self._deciding.tick()
        self._sampled_s = time.monotonic()
        snapshot = self._deciding.snapshot
        if snapshot is not None:
            self._stillness = watch(self._stillness, snapshot, self._names(), self._sampled_s)

    def _follow(self) -> None:
        """Put the period that follows in force."""
        now_s, decision = time.monotonic(), self._deciding.current
        waits = [self._expiry_in_s()]
        if decision is not None:
            waits.append(due_in_s(self._policies.policy, self._deciding.memory, decision, time.time()))
        due_s = min((wait_s for wait_s in waits if wait_s is not None), default=None)
        before, self._pace = (
            self._pace,
            pace(self._stillness, now_s, fast_s=self._fast_s, slow_s=self._slow_s, work=self._work(), due_in_s=due_s),
        )
        self._deciding.period_s = self._pace.period_s
        if self._pace.period_s != before.period_s and self._started:
            trigger_of = self._triggers()
            for job in self._jobs:
                self._scheduler.reschedule_job(job.id, trigger=trigger_of(job))

    def _triggers(self) -> Callable[[_Regular], IntervalTrigger]:
        """Triggers that begin together: each at the largest multiple of the period that is no longer than asked for."""
        period_s, now = self._pace.period_s, datetime.now(self._scheduler.timezone)

        def trigger_of(job: _Regular) -> IntervalTrigger:
            turns = max(1, int(job.every_s / period_s))
            seconds = turns * period_s
            planned = self._scheduler.get_job(job.id) if self._started else None
            if planned is not None and planned.next_run_time is not None:  # a change of pace puts nothing off
                turns = min(turns, max(1, math.ceil((planned.next_run_time - now).total_seconds() / period_s)))
            begin = now + timedelta(seconds=turns * period_s)
            return IntervalTrigger(seconds=seconds, start_date=begin, timezone=self._scheduler.timezone)

        return trigger_of

    def _soon(self, *jobs: str) -> None:
        """Run jobs at once, or as soon after the last sample as samples may follow each other."""
        wait_s = max(0.0, self._sampled_s + LEAST_GAP_S - time.monotonic())
        moment = datetime.now(self._scheduler.timezone) + timedelta(seconds=wait_s)
        for id in jobs:
            self._scheduler.modify_job(id, next_run_time=moment)

    def _names(self) -> frozenset[str]:
        policy = self._policies.policy
        if self._counting is None or self._counting[0] is not policy:
            self._counting = policy, signals_that_count(policy)
        return self._counting[1]
