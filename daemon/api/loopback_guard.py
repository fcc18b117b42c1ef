"""What the TCP listener refuses: requests that a browser sends for some page it shows.

Pages are known by `Origin`, and by a `Host` that is not ours where a foreign name has been made to resolve to this
machine (DNS rebinding). On the Unix socket, which browsers do not reach, the Host is free.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ...policies.errors import ForbiddenError
from .routing import error_response

STATE_KEY = "authorities"  # in a request's state: what its Host may be; absent on the Unix socket


class LoopbackGuard:
    """ASGI middleware: on the TCP listener, refuses what a browser sends for a page that is not of this address."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 403."""
        allowed = scope.get("state", {}).get(STATE_KEY)
        if allowed is not None:
            request = Request(scope)
            try:
                _check(request, allowed)
            except ForbiddenError as error:
                await error_response(error, request.url.path)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _check(request: Request, allowed: frozenset[str]) -> None:
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or hosts[0].lower() not in allowed:
        raise ForbiddenError(
            f"The Host of this request is '{', '.join(hosts)[:100]}', which is not where patchd listens.",
            hint=f"Use one of {', '.join(sorted(allowed))}.",
        )
    for origin in request.headers.getlist("origin"):
        if origin.lower().removeprefix("http://") not in allowed:
            raise ForbiddenError(
                f"This request comes from a page of '{origin[:100]}'.", hint="patchd answers programs of this machine."
            )
