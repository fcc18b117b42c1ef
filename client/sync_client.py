"""The synchronous client: a few keep-alive connections to one Unix socket, shared by all threads that use it."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ..policies.errors import PatchdError
from . import http1
from .call import Answer, Call, Query, RawSender, Sender, encoded
from .common import PARALLEL, RETRIES, Methods, event_of, socket_path, stream_call, wait_before_retry_s
from .task_methods import InferOptions

if TYPE_CHECKING:
    from types import TracebackType

    from ..daemon.api import schemas

Read = TypeVar("Read")


class _Connection:
    """One connection; closed by whoever sees it fail."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = http1.Buffer()
        try:
            self.wait_at_most(timeout_s)
            self._sock.connect(os.fspath(path))
        except BaseException:
            self._sock.close()
            raise

    def close(self) -> None:
        self._sock.close()

    def wait_at_most(self, timeout_s: float | None) -> None:
        """For every read and write from now on."""
        self._timeout_s = timeout_s
        self._sock.settimeout(timeout_s)

    @property
    def usable(self) -> bool:
        """Whether it can be used again: there is nothing to read, not even its end."""
        return not (self._buffer or self._ready(select.POLLIN, 0.0))

    def exchange(self, call: Call[Any]) -> http1.HttpAnswer:
        """Send a request and read its answer."""
        self._sock.sendall(http1.request_head(call))
        complete = self._send(call.body or b"")
        answer = self.read(http1.read_answer())
        return answer if complete else replace(answer, keep_alive=False)

    def open_stream(self, call: Call[Any]) -> http1.Head:
        """Send a request whose answer has no end; its body is there to be read."""
        self._sock.sendall(http1.request_head(call))
        head = self.read(http1.read_head())
        if head.status != 200:
            raise http1.error_from_body(head.status, self.read(http1.read_body(head)))
        self.wait_at_most(None)  # a quiet device has no events for hours
        return head

    def read(self, reading: http1.Reading[Read]) -> Read:
        """Give a generator of `http1` what it asks for."""
        try:
            need = next(reading)
            while True:
                while (data := self._buffer.take(need)) is None:
                    self._buffer.feed(self._sock.recv(http1.RECEIVE_BYTES))
                need = reading.send(data)
        except StopIteration as end:
            result: Read = end.value
            return result

    def _send(self, body: bytes) -> bool:
        """False when the daemon answered, or hung up, before all was sent (a body that is too large)."""
        view = memoryview(body)
        while view:
            ready = self._ready(select.POLLIN | select.POLLOUT, self._timeout_s)
            if not ready:
                raise TimeoutError("nothing could be sent")
            if ready & ~select.POLLOUT:
                return False
            try:
                view = view[self._sock.send(view[: http1.SEND_BYTES]) :]
            except (BrokenPipeError, ConnectionResetError):
                return False
        return True

    def _ready(self, events: int, timeout_s: float | None) -> int:
        """Those of the events that the socket is ready for; none when the time is over."""
        poll = select.poll()
        poll.register(self._sock, events)
        found = poll.poll(None if timeout_s is None else timeout_s * 1e3)
        return found[0][1] if found else 0


class Client(Methods, Sender):
    """Talks to patchd over its Unix socket; may be shared by threads. Errors: `PatchdError` and its subclasses.

    `timeout_s` is for requests that are answered from memory; those that take longer have limits of their own. A
    request that the daemon refused because it is busy or stopping, or lost with a worker, is sent again up to `retries`
    times, after the time that it asked for.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = http1.READ_TIMEOUT_S,
        retries: int = RETRIES,
    ) -> None:
        self.path = socket_path(socket)
        self._timeout_s, self._retries = timeout_s, retries
        self._idle: list[_Connection] = []
        self._lock = threading.Lock()
        self.raw = RawClient(self)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the idle connections; the next request opens a new one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def send(self, call: Call[Answer]) -> Answer:
        """Send any call and return its answer. Raises the error that another answer than 2xx stands for."""
        return call.read(self.body(call))

    def body(self, call: Call[Any]) -> bytes:
        """Send any call; the body of its 2xx answer as it came."""
        attempt = 0
        while True:
            try:
                return http1.checked(self._exchange(call))
            except PatchdError as error:
                wait_s = wait_before_retry_s(error, attempt, self._retries)
                if wait_s is None:
                    raise
            time.sleep(wait_s)
            attempt += 1

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_s: float | None = None,
    ) -> bytes:
        """Any request; the body of the 2xx answer as it came."""
        return self.body(Call(method, path + encoded(query), bytes, body, content_type, timeout_s))

    def follow_events(self, since: int | None = None) -> Iterator[schemas.Event]:
        """Every new event, until the daemon ends the stream; those after the id `since` come first.

        Uses a connection of its own, so other requests may be made meanwhile.
        """
        connection: _Connection | None = None
        try:
            connection = _Connection(self.path, self._timeout_s)
            head = connection.open_stream(stream_call(since))
            events = http1.EventParser()
            while part := connection.read(http1.read_part(head)):
                for data in events.feed(part):
                    yield event_of(data)
        except (OSError, http1.HttpError) as error:
            raise http1.unreachable(self.path, error) from error
        finally:
            if connection is not None:
                connection.close()

    def infer_many(
        self, task: str, images: Iterable[bytes], *, parallel: int = PARALLEL, **options: Unpack[InferOptions]
    ) -> Iterator[schemas.InferAnswer]:
        """Classify images, `parallel` at a time, and give the answers in their order; the options are those of `infer`.

        Images are taken as places become free. The first error is raised, and the images after it are not sent.
        """
        from concurrent.futures import Future, ThreadPoolExecutor

        waiting: deque[Future[schemas.InferAnswer]] = deque()
        with ThreadPoolExecutor(parallel) as pool:
            try:
                for image in images:
                    waiting.append(pool.submit(self.infer, task, image, **options))
                    if len(waiting) >= parallel:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for each in waiting:
                    each.cancel()

    def _exchange(self, call: Call[Any]) -> http1.HttpAnswer:
        timeout_s = self._timeout_s if call.timeout_s is None else call.timeout_s
        try:
            if (idle := self._take()) is not None:
                try:
                    return self._over(idle, call, timeout_s)
                except (OSError, http1.HttpError) as error:
                    # It may have been closed with the request on its way. What changes something is not sent twice.
                    if isinstance(error, TimeoutError) or not call.reads_only:
                        raise
            return self._over(_Connection(self.path, timeout_s), call, timeout_s)
        except TimeoutError as error:
            raise http1.unanswered(call, self.path, timeout_s) from error
        except (OSError, http1.HttpError) as error:
            raise http1.unreachable(self.path, error) from error

    def _over(self, connection: _Connection, call: Call[Any], timeout_s: float) -> http1.HttpAnswer:
        """Over this connection, which is kept if it can be used again."""
        keep = False
        try:
            connection.wait_at_most(timeout_s)
            answer = connection.exchange(call)
            keep = answer.keep_alive
            return answer
        finally:
            if keep:
                with self._lock:
                    self._idle.append(connection)
            else:
                connection.close()

    def _take(self) -> _Connection | None:
        """An idle connection that the daemon has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()


class RawClient(Methods, RawSender):
    """The methods of a client, whose answers are the bodies as they came."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def send(self, call: Call[Any]) -> bytes:
        """Send any call; the body of its 2xx answer."""
        return self._client.body(call)
