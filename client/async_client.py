"""The asynchronous client: the same methods, awaited, over a small pool of connections of one event loop."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from ..policies.errors import PatchdError
from . import http1
from .call import Answer, AsyncSender, Call, Query, encoded
from .common import PARALLEL, RETRIES, Methods, event_of, socket_path, stream_call, wait_before_retry_s
from .task_methods import InferOptions

if TYPE_CHECKING:
    from types import TracebackType

    from ..daemon.api import schemas

Read = TypeVar("Read")
CONNECTIONS = 8  # requests in flight at once; more wait for a connection


class _Connection:
    """One connection; closed by whoever sees it fail.

    The socket itself rather than asyncio's streams: an answer that comes before the whole body is sent can still be
    read when sending fails, which a stream that failed to write forbids.
    """

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._sock.setblocking(False)
        self._buffer = http1.Buffer()
        self._loop = asyncio.get_running_loop()

    async def open(self, path: Path) -> None:
        """Connect."""
        await self._loop.sock_connect(self._sock, os.fspath(path))

    def close(self) -> None:
        self._sock.close()

    @property
    def usable(self) -> bool:
        """Whether it can be used again: there is nothing to read, not even its end."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not (self._buffer or poll.poll(0))

    async def exchange(self, call: Call[Any]) -> http1.HttpAnswer:
        """Send a request and read its answer."""
        await self._loop.sock_sendall(self._sock, http1.request_head(call))
        if not call.body:
            return await self.read(http1.read_answer())
        sending = asyncio.ensure_future(self._loop.sock_sendall(self._sock, call.body))
        try:
            answer = await self.read(http1.read_answer())
            complete = sending.done() and not sending.exception()
        finally:  # an answer before the whole body is sent, to one that is too large, is all that will come
            sending.cancel()
            await asyncio.wait({sending})
            if not sending.cancelled():
                sending.exception()  # seen: the answer, or the lack of one, says more
        return answer if complete else replace(answer, keep_alive=False)

    async def open_stream(self, call: Call[Any]) -> http1.Head:
        """Send a request whose answer has no end; its body is there to be read."""
        await self._loop.sock_sendall(self._sock, http1.request_head(call))
        head = await self.read(http1.read_head())
        if head.status != 200:
            raise http1.error_from_body(head.status, await self.read(http1.read_body(head)))
        return head

    async def read(self, reading: http1.Reading[Read]) -> Read:
        """Give a generator of `http1` what it asks for."""
        try:
            need = next(reading)
            while True:
                while (data := self._buffer.take(need)) is None:
                    self._buffer.feed(await self._loop.sock_recv(self._sock, http1.RECEIVE_BYTES))
                need = reading.send(data)
        except StopIteration as end:
            result: Read = end.value
            return result


class AsyncClient(Methods, AsyncSender):
    """`Client` for asyncio: its methods by the same names, awaited. Use one from one event loop.

    At most `connections` requests are in flight at once. A request that is cancelled gives up its connection.
    """

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        *,
        timeout_s: float = http1.READ_TIMEOUT_S,
        retries: int = RETRIES,
        connections: int = CONNECTIONS,
    ) -> None:
        self.path = socket_path(socket)
        self._timeout_s, self._retries = timeout_s, retries
        self._idle: list[_Connection] = []
        self._places = asyncio.Semaphore(connections)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the idle connections; the next request opens a new one."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    async def send(self, call: Call[Answer]) -> Answer:
        """Send any call and return its answer. Raises the error that another answer than 2xx stands for."""
        return call.read(await self.body(call))

    async def body(self, call: Call[Any]) -> bytes:
        """Send any call; the body of its 2xx answer as it came."""
        attempt = 0
        while True:
            try:
                async with self._places:
                    return http1.checked(await self._exchange(call))
            except PatchdError as error:
                wait_s = wait_before_retry_s(error, attempt, self._retries)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
            attempt += 1

    async def request(
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
        return await self.body(Call(method, path + encoded(query), bytes, body, content_type, timeout_s))

    async def follow_events(self, since: int | None = None) -> AsyncIterator[schemas.Event]:
        """Every new event, until the daemon ends the stream; those after the id `since` come first.

        Uses a connection of its own, so other requests may be made meanwhile.
        """
        connection: _Connection | None = None
        call = stream_call(since)
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = _Connection()
                await connection.open(self.path)
                head = await connection.open_stream(call)
            events = http1.EventParser()
            while part := await connection.read(http1.read_part(head)):
                for data in events.feed(part):
                    yield event_of(data)
        except TimeoutError as error:
            raise http1.unanswered(call, self.path, self._timeout_s) from error
        except (OSError, http1.HttpError) as error:
            raise http1.unreachable(self.path, error) from error
        finally:
            if connection is not None:
                connection.close()

    async def infer_many(
        self, task: str, images: Iterable[bytes], *, parallel: int = PARALLEL, **options: Unpack[InferOptions]
    ) -> AsyncIterator[schemas.InferAnswer]:
        """Classify images, `parallel` at a time, and give the answers in their order; the options are those of `infer`.

        Images are taken as places become free. The first error is raised, and the images after it are not sent.
        """
        waiting: deque[asyncio.Future[schemas.InferAnswer]] = deque()
        try:
            for image in images:
                waiting.append(asyncio.ensure_future(self.infer(task, image, **options)))
                if len(waiting) >= parallel:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for each in waiting:
                each.cancel()

    async def _exchange(self, call: Call[Any]) -> http1.HttpAnswer:
        timeout_s = self._timeout_s if call.timeout_s is None else call.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                if (idle := self._take()) is not None:
                    try:
                        return await self._over(idle, call)
                    except (OSError, http1.HttpError):
                        # It may have been closed while the request was on its way.
                        if not call.reads_only:  # what changes something is not sent twice
                            raise
                return await self._over(_Connection(), call, connect=True)
        except TimeoutError as error:
            raise http1.unanswered(call, self.path, timeout_s) from error
        except (OSError, http1.HttpError) as error:
            raise http1.unreachable(self.path, error) from error

    async def _over(self, connection: _Connection, call: Call[Any], connect: bool = False) -> http1.HttpAnswer:
        """Over this connection, which is kept if it can be used again."""
        keep = False
        try:
            if connect:
                await connection.open(self.path)
            answer = await connection.exchange(call)
            keep = answer.keep_alive
            return answer
        finally:
            if keep:
                self._idle.append(connection)
            else:
                connection.close()

    def _take(self) -> _Connection | None:
        """An idle connection that the daemon has not closed meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None
