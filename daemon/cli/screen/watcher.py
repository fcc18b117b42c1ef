"""Asks the daemon once a second, listens to its events, and waits for it when it goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ....client import AsyncClient
from ....policies.errors import PatchdError
from ...api.schemas import Event, JobView, Status
from .recent import Recent

REFRESH_S = 1.0  # the daemon's own sampling period
SOONEST_S = 0.25  # between two looks, so that a burst of events costs little
JOBS_EVERY = 5  # looks between two at the jobs while none is active
EVENTS_KEPT = 200


class Watcher:
    """What is known of the daemon; `changed` is called after every look."""

    def __init__(self, client: AsyncClient, changed: Callable[[], None]) -> None:
        self._client, self._changed = client, changed
        self.state: Status | None = None
        self.jobs: tuple[JobView, ...] = ()
        self.events: list[Event] = []
        self.recent = Recent()
        self.away: str | None = None  # why there is no answer
        self._away_since_s = 0.0
        self.returned = False  # at the last look, after it had been away
        self._soon = asyncio.Event()
        self._jobs_are_old = True

    @property
    def away_s(self) -> float:
        """For how long there has been no answer."""
        return 0.0 if self.away is None else time.monotonic() - self._away_since_s

    def look_soon(self) -> None:
        """Look at everything before the second is over."""
        self._jobs_are_old = True
        self._soon.set()

    async def watch(self) -> None:
        """Look once a second, and soon after an event."""
        looks = 0
        while True:
            began = time.monotonic()
            self._soon.clear()
            try:
                await self._look(with_jobs=looks % JOBS_EVERY == 0)
            except PatchdError as error:
                if self.away is None:
                    self._away_since_s = began
                self.away = str(error)
                self.recent.miss()
            self._changed()
            looks += 1
            await asyncio.sleep(SOONEST_S)
            try:
                async with asyncio.timeout(max(0.0, began + REFRESH_S - time.monotonic())):
                    await self._soon.wait()
            except TimeoutError:
                continue

    async def _look(self, with_jobs: bool) -> None:
        state = await self._client.status()
        if with_jobs or self._jobs_are_old or state.jobs_active:
            self._jobs_are_old = False
            self.jobs = (await self._client.jobs(only_open=True)).jobs
        self.returned = self.away is not None
        self.state, self.away = state, None
        self.recent.see(state)

    async def listen(self) -> None:
        """The last events, and each new one as it comes."""
        while True:
            try:
                for event in (await self._client.events(since=self._last_id, limit=EVENTS_KEPT)).events:
                    self._heard(event)
                async for event in self._client.follow_events(self._last_id):
                    self._heard(event)
                    self._soon.set()
            except PatchdError:
                pass  # `watch` tells it
            await asyncio.sleep(REFRESH_S)

    @property
    def _last_id(self) -> int:
        return self.events[-1].id if self.events else 0

    def _heard(self, event: Event) -> None:
        self.events = [*self.events, event][-EVENTS_KEPT:]
        self._jobs_are_old = self._jobs_are_old or event.kind.startswith("job.")
