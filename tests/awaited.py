"""`AsyncClient` as tests of both clients see it: each method runs to its end on an event loop of the adapter's own."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

from patchd.client import AsyncClient


class Awaited:
    """Calls methods of an `AsyncClient` and waits for what they give."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        return self._waiting(found) if callable(found) else found

    def _waiting(self, method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            given = method(*args, **kwargs)
            return self._each(given) if inspect.isasyncgen(given) else self._runner.run(_result(given))

        return call

    def _each(self, given: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._runner.run(_result(anext(given)))
            except StopAsyncIteration:
                return

    def __enter__(self) -> Awaited:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._runner.close()


async def _result(awaitable: Any) -> Any:
    return await awaitable
