"""A worker process that does one thing: its request goes in on standard input, its messages come out a line each."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable

from pydantic import ValidationError

from ..policies.errors import UnavailableError, WorkerCrashedError
from .worker_process import ALLOCATOR
from .workers.protocol import MESSAGE, Message

MOST_BYTES = 64 * 1024 * 1024  # of one message


class OneShot:
    """Runs `patchd.daemon.workers.NAME`, one process at a time. `message` is called in the event loop."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it lives."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def run(self, request: Message, heard: Callable[[Message], None] = lambda _: None) -> Message:
        """Start the process, hand every message but the last to `heard`, return the last when it has ended.

        Raises WorkerCrashedError when it dies before the last, UnavailableError when it takes too long.
        """
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"{__package__}.workers.{self._name}", "--parent", str(os.getpid()),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
            env={**os.environ, **ALLOCATOR}, limit=MOST_BYTES,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._converse(process, request, heard)
        except TimeoutError as error:
            raise UnavailableError(
                f"The {self._name} worker took more than {self._timeout_s:.0f} s and was ended."
            ) from error
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _converse(
        self, process: asyncio.subprocess.Process, request: Message, heard: Callable[[Message], None]
    ) -> Message:
        assert process.stdin is not None
        assert process.stdout is not None
        last: Message | None = None
        try:
            process.stdin.write(request.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
            process.stdin.close()
            async for line in process.stdout:
                if last is not None:
                    heard(last)
                last = MESSAGE.validate_json(line)
        except (ConnectionError, ValidationError) as error:
            raise self._died(process) from error
        if await process.wait() != 0 or last is None:
            raise self._died(process)
        return last

    def _died(self, process: asyncio.subprocess.Process) -> WorkerCrashedError:
        return WorkerCrashedError(
            f"The {self._name} worker died (exit status {process.returncode}); the journal holds its last words."
        )

    def stop(self) -> None:
        """End a process that runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
