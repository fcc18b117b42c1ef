"""The routes by which applications post signals of their own."""

from __future__ import annotations

from ..services import Services
from . import schemas as s
from .added_signal_schemas import PostedSignal, SignalPost
from .routing import Context, Route


class AddedSignalRoutes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def post(self, c: Context) -> PostedSignal:
        return self._s.posted.post(c.path("name"), c.body, c.caller)

    async def remove(self, c: Context) -> s.Deleted:
        name = c.path("name")
        self._s.posted.remove(name)
        return s.Deleted(deleted=name)

    def table(self) -> tuple[Route, ...]:
        """Both routes."""
        path = "/v1/signals/{name}"
        return (
            Route("PUT", path, "Post a signal named app.…", self.post, PostedSignal, SignalPost, changes=True),
            Route("DELETE", path, "Remove a posted signal", self.remove, s.Deleted, changes=True),
        )
