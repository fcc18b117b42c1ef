"""Requests are a reason to look at the device: a fresh sample answers them, and what they change counts at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from .routing import Route

HEALTH = "/v1/health"  # asks whether the daemon turns by itself
Endpoint = Callable[[Request], Awaitable[Response]]


class Attentive(Protocol):
    """What drives the samples."""

    def freshen(self) -> None:
        """Sample now where the last sample is older than it would be while something moves."""

    def attend(self, why: str) -> None:
        """Look closely for a while."""

    def wake(self, why: str, *jobs: str) -> None:
        """Sample at once and look closely for a while."""


def attentive(route: Route, serve: Endpoint, rhythm: Attentive) -> Endpoint:
    """The endpoint of a route, which tells `rhythm` of each request."""

    async def served(request: Request) -> Response:
        if route.path == HEALTH:
            return await serve(request)
        rhythm.freshen()
        if route.method == "POST" and not route.changes:
            rhythm.attend("a request came")
        answer = await serve(request)
        if route.changes and answer.status_code < 400:
            rhythm.wake("a request changed something", "training")
        return answer

    return served
