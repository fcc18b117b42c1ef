"""What tells of a change by itself, so that the device is sampled at once: each a file descriptor of the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from ..api.sampling_schemas import EventSourceState


class SourceAbsentError(Exception):
    """A source cannot be watched here, or no longer; the text says why."""


class EventSource(Protocol):
    """One thing to watch. `open` and `take` raise SourceAbsentError."""

    name: str
    watches: str

    def open(self) -> int:
        """Begin to watch; the file descriptor that becomes readable with an event."""

    def take(self) -> bool:
        """Read what has come; whether there was an event in it."""

    def close(self) -> None:
        """Watch no more."""


class EventSources:
    """Watches all sources from `open` to `close`, and tells `on_event` which one had something to say."""

    def __init__(
        self,
        sources: Iterable[EventSource],
        on_event: Callable[[EventSourceState], None],
        on_lost: Callable[[EventSourceState], None],
    ) -> None:
        self._sources = tuple(sources)
        self._on_event, self._on_lost = on_event, on_lost
        self._states = {
            each.name: EventSourceState(name=each.name, watches=each.watches, absent="not opened yet")
            for each in self._sources
        }
        self._open: dict[str, int] = {}

    def __iter__(self) -> Iterator[EventSourceState]:
        return iter(self._states.values())

    def get(self, name: str) -> EventSourceState | None:
        """A source by name."""
        return self._states.get(name)

    def open(self) -> None:
        """Begin to watch what can be watched. Call it in the event loop."""
        loop = asyncio.get_running_loop()
        for source in self._sources:
            try:
                descriptor = source.open()
            except SourceAbsentError as error:
                self._note(source.name, watches=source.watches, absent=str(error))
                continue
            self._note(source.name, watches=source.watches, absent=None)
            self._open[source.name] = descriptor
            loop.add_reader(descriptor, self._ready, source)

    def close(self) -> None:
        """Watch no more."""
        for source in self._sources:
            self._drop(source)

    def _ready(self, source: EventSource) -> None:
        try:
            happened = source.take()
        except SourceAbsentError as error:
            self._drop(source)
            self._on_lost(self._note(source.name, absent=str(error)))
            return
        if happened:
            seen = self._states[source.name]
            told = self._note(source.name, events=seen.events + 1, last_s=time.time())
            # The state from before says how long it had been quiet.
            self._on_event(told.model_copy(update={"last_s": seen.last_s}))

    def _drop(self, source: EventSource) -> None:
        descriptor = self._open.pop(source.name, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            source.close()

    def _note(self, name: str, **changes: object) -> EventSourceState:
        self._states[name] = self._states[name].model_copy(update=changes)
        return self._states[name]
