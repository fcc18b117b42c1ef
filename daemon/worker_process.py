"""One worker process as the control plane sees it: start, send, receive, stop, and notice its death."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Literal

from ..policies.errors import UnavailableError, WorkerCrashedError
from .workers.protocol import MESSAGE, PREFIX, Message, Ready, Stop, encode

START_TIMEOUT_S = 120.0  # importing torch from a cold disk on a small board
# glibc otherwise returns large buffers to the kernel after each use and faults them in again: up to 3x in torch.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1073741824", "MALLOC_TRIM_THRESHOLD_": "1073741824"}

State = Literal["stopped", "starting", "ready", "busy"]


class WorkerProcess:
    """Supervises one child. The callbacks are called in the event loop.

    `on_closed` comes before `on_exit`, when the child has closed its end: the kernel's count of what it used may still
    be there to read.
    """

    def __init__(
        self,
        name: Literal["inference", "training"],
        on_message: Callable[[Message, bytes], None],
        on_exit: Callable[[int], None],
        arguments: Sequence[str] = (),
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        self.name = name
        self.module = f"{__package__}.workers.{name}"
        self.ready: Ready | None = None
        self.started_s: float | None = None
        self.restarts = -1
        self._arguments = tuple(arguments)
        self._on_message = on_message
        self._on_exit, self._on_closed = on_exit, on_closed
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._ready_event = asyncio.Event()
        self._start_lock = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives and has said that it is ready."""
        return self._process is not None and self.ready is not None

    async def start(self, threads: int) -> None:
        """Start the process and wait until it is ready; at once when it already is.

        Raises WorkerCrashedError when it dies before it is ready, UnavailableError when it takes too long.
        """
        async with self._start_lock:
            if self.running:
                return
            ours, theirs = socket.socketpair()
            self._ready_event.clear()
            environ = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
            arguments = ["--fd", str(theirs.fileno()), "--parent", str(os.getpid()), *self._arguments]
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    self.module,
                    *arguments,
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    env=environ,
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                raise UnavailableError(
                    f"The {self.name} worker could not be started: {error.strerror}.", retry_after_s=5.0
                ) from error
            finally:
                theirs.close()
            self._process = process
            self.started_s = time.time()
            self.restarts += 1
            reader, self._writer = await asyncio.open_connection(sock=ours)
            self._reader_task = asyncio.create_task(self._read(reader, process))
            try:
                await asyncio.wait_for(self._ready_event.wait(), START_TIMEOUT_S)
            except TimeoutError as error:
                await self.kill()
                raise UnavailableError(
                    f"The {self.name} worker was not ready within {START_TIMEOUT_S:.0f} s.", retry_after_s=30.0
                ) from error
            if not self.running:
                raise WorkerCrashedError(
                    f"The {self.name} worker died while it started; the journal holds its last words.",
                    retry_after_s=5.0,
                )

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Queue one frame. Raises WorkerCrashedError when there is no process to take it."""
        if self._writer is None or self._writer.is_closing():
            raise WorkerCrashedError(f"The {self.name} worker is gone.", retry_after_s=1.0)
        self._writer.write(encode(message, payload))

    async def stop(self, timeout_s: float) -> None:
        """Ask the process to finish what is in hand; kill it after `timeout_s`."""
        process = self._process
        if process is None:
            return
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(Stop()))
        try:
            await asyncio.wait_for(process.wait(), timeout_s)
        except TimeoutError:
            await self.kill()
        if self._reader_task is not None:
            await self._reader_task

    async def kill(self) -> None:
        """End the process at once."""
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        await process.wait()
        if self._reader_task is not None and self._reader_task is not asyncio.current_task():
            await self._reader_task

    async def _read(self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process) -> None:
        try:
            while True:
                header_length, payload_length = PREFIX.unpack(await reader.readexactly(PREFIX.size))
                header = await reader.readexactly(header_length)
                payload = await reader.readexactly(payload_length)
                message = MESSAGE.validate_json(header)
                if isinstance(message, Ready):
                    self.ready = message
                    self._ready_event.set()
                else:
                    self._on_message(message, payload)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if self._on_closed is not None:
                self._on_closed()
            if self._writer is not None:
                self._writer.close()
            if process.returncode is None:
                try:
                    await asyncio.wait_for(process.wait(), 5.0)
                except TimeoutError:
                    process.kill()
                    await process.wait()
            self.ready = None
            self._writer = None
            self._process = None
            self._ready_event.set()
            self._on_exit(process.returncode if process.returncode is not None else -1)
