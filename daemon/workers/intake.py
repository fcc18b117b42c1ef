"""Threads that take frames off the channel and make work of them, while another thread runs the networks.

They take turns at reading and do the rest side by side: decoding and resizing a photograph takes as long as a network
does, and runs outside Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import Empty, Queue
from threading import Lock, Thread
from typing import Generic, TypeVar

from .channel import Channel
from .protocol import Message, Stop

Work = TypeVar("Work")


class Intake(Generic[Work]):
    """A queue of what `handle` makes of each message; it answers itself what needs no network, and gives None."""

    def __init__(self, channel: Channel, handle: Callable[[Message, bytes], Work | None], threads: int) -> None:
        self._channel, self._handle = channel, handle
        self._turn = Lock()
        self._closed = self._cut = False
        self._failure: Exception | None = None
        self._queue: Queue[Work | None] = Queue()
        self._threads = [Thread(target=self._read, name=f"intake-{index}", daemon=True) for index in range(threads)]

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    @property
    def closed(self) -> bool:
        """Whether nothing more will come: the worker was told to stop, or the other end is gone."""
        return self._closed and not any(thread.is_alive() for thread in self._threads) and self._queue.empty()

    @property
    def cut(self) -> bool:
        """Whether the other end is gone, so that nobody waits for answers."""
        return self._cut

    def put(self, work: Work) -> None:
        """Add work that came about otherwise than by a message; safe in any thread."""
        self._queue.put(work)

    def check(self) -> None:
        """Raise what a thread died of, if one did."""
        if self._failure is not None:
            raise self._failure

    def take(self, timeout_s: float | None) -> Iterator[Work]:
        """What has come; waits `timeout_s` (None: for ever) for the first piece, and returns early when closed.

        Raises what a thread died of.
        """
        self.check()
        try:
            work = self._queue.get(timeout=timeout_s) if timeout_s != 0.0 else self._queue.get_nowait()
            while True:
                if work is not None:
                    yield work
                work = self._queue.get_nowait()
        except Empty:
            return

    def _read(self) -> None:
        try:
            while (frame := self._next()) is not None:
                work = self._handle(*frame)
                if work is not None:
                    self._queue.put(work)
        except Exception as error:  # the thread that runs the networks must not wait for a dead one
            self._failure, self._closed = error, True
        finally:
            self._queue.put(None)  # wakes whoever waits for work

    def _next(self) -> tuple[Message, bytes] | None:
        with self._turn:
            if self._closed:
                return None
            frame = self._receive()
            if frame is None or isinstance(frame[0], Stop):
                self._closed, self._cut = True, frame is None
                return None
            return frame

    def _receive(self) -> tuple[Message, bytes] | None:
        try:
            return self._channel.receive()
        except OSError:
            return None  # the control plane died in the middle of a frame
