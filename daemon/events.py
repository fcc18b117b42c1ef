"""The event log: what happened, kept in the state, sent to whoever listens, and written to the journal."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

from .api.schemas import Event
from .backlog import Backlog
from .store import Store

_LOG = logging.getLogger("patchd")
_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
SUBSCRIBER_BACKLOG = 1000  # a listener that falls further behind is cut off and can come back with `since`


class EventLog:
    """Appends typed events and hands them to subscribers in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._next_id = store.last_event_id() + 1
        self._unsaved = Backlog(store.put_event)
        self._subscribers: set[asyncio.Queue[Event | None]] = set()

    def emit(
        self, kind: str, message: str, *, level: Literal["info", "warning", "error"] = "info", **data: Any
    ) -> Event:
        """Record one event; `kind` is dotted and stable, `message` one sentence."""
        event = Event(id=self._next_id, time_s=time.time(), level=level, kind=kind, message=message, data=data)
        self._next_id += 1
        self._unsaved.put(event)
        _LOG.log(_LEVELS[level], "%s id=%d %s", kind, event.id, message)
        for queue in tuple(self._subscribers):
            try:
                queue.put_nowait(event)
            except asyncio.QueueFull:
                self._subscribers.discard(queue)
                while not queue.empty():
                    queue.get_nowait()
                queue.put_nowait(None)
        return event

    async def follow(self, since: int) -> AsyncIterator[Event]:
        """Stored events after `since`, then new ones as they come, until `close` or too great a backlog."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(SUBSCRIBER_BACKLOG)
        self._subscribers.add(queue)
        try:
            last = since
            for event in self._store.events(since, SUBSCRIBER_BACKLOG, None, None):
                last = event.id
                yield event
            while (live := await queue.get()) is not None:
                if live.id > last:
                    yield live
        finally:
            self._subscribers.discard(queue)

    @property
    def followed(self) -> bool:
        """Whether somebody listens."""
        return bool(self._subscribers)

    def close(self) -> None:
        """End every subscription."""
        for queue in tuple(self._subscribers):
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(None)
