"""The images of the last predictions, in memory only, for callers that say afterwards what was to be seen."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_BYTES = 16 * 1024 * 1024  # the daemon is to stay small
KEPT_S = 600.0  # a correction comes while somebody looks at the answer


@dataclass(frozen=True, slots=True)
class RecentImage:
    """An encoded image, the task that it was for, the user who sent it, and when (seconds, monotonic)."""

    task: str
    image: bytes
    uid: int | None
    since_s: float


class RecentImages:
    """The newest images by request id, `MOST_BYTES` of them and none for longer than `KEPT_S`.

    While `allowed` says no, nothing is kept and nothing found.
    """

    def __init__(self, allowed: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._allowed, self._clock = allowed, clock
        self._images: OrderedDict[str, RecentImage] = OrderedDict()
        self._bytes = 0

    def put(self, request_id: str, task: str, image: bytes, uid: int | None) -> None:
        """Keep the image of a prediction; the oldest give way."""
        if not self._allowed() or len(image) > MOST_BYTES:
            return
        self._images[request_id] = RecentImage(task, image, uid, self._clock())
        self._bytes += len(image)
        self.trim()

    def find(self, request_id: str) -> RecentImage | None:
        """The image of a prediction, where it is still here."""
        self.trim()
        return self._images.get(request_id)

    def forget_task(self, task: str) -> None:
        """Let go of a task's images."""
        for request_id in [key for key, kept in self._images.items() if kept.task == task]:
            self._bytes -= len(self._images.pop(request_id).image)

    def trim(self) -> None:
        """Let go of what is too old, too much or no longer allowed."""
        oldest_s = self._clock() - KEPT_S
        while self._images:
            first = next(iter(self._images.values()))
            if self._allowed() and self._bytes <= MOST_BYTES and first.since_s >= oldest_s:
                return
            self._bytes -= len(first.image)
            self._images.popitem(last=False)
