"""Records that the state could not take at once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from ..policies.errors import StateError

_LOG = logging.getLogger("patchd")
Record = TypeVar("Record")


class Backlog(Generic[Record]):
    """Writes records in order; while the state cannot be written they wait, and the oldest beyond `most` are lost.

    For what the daemon itself has to say: a full disk must stop neither deciding nor serving.
    """

    def __init__(self, write: Callable[[Record], None], most: int = 1000) -> None:
        self._write = write
        self._waiting: deque[Record] = deque(maxlen=most)

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, record: Record) -> None:
        """Write what waits and then this; kept for later where that fails."""
        failing = bool(self._waiting)
        self._waiting.append(record)
        error = self._flush()
        if error is not None and not failing:
            _LOG.error("records wait until the state can be written again: %s", error)

    def flush(self) -> None:
        """Try again to write what waits."""
        if self._waiting:
            self._flush()

    def _flush(self) -> StateError | None:
        try:
            while self._waiting:
                self._write(self._waiting[0])
                self._waiting.popleft()
        except StateError as error:
            return error
        return None
