"""The routes of bases: which there are and who uses them, removing a version, and moving a task to another."""

from __future__ import annotations

from ..services import Services
from . import schemas as s
from .routing import Context, Route


class BaseRoutes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def bases(self, _: Context) -> s.BaseList:
        return s.BaseList(bases=self._s.bases.bases())

    async def base(self, c: Context) -> s.BaseView:
        return self._s.bases.base(c.path("name"))

    async def remove(self, c: Context) -> s.Deleted:
        return s.Deleted(deleted=self._s.bases.remove(c.path("name")))

    async def move(self, c: Context) -> s.TaskView:
        spec = self._s.bases.move(c.path("name"), c.body.to)
        self._s.deciding.refresh()
        return self._s.task_view(spec.name)

    def table(self) -> tuple[Route, ...]:
        """Every route of bases."""
        return (
            Route("GET", "/v1/bases", "The packaged bases and their versions", self.bases, s.BaseList),
            Route("GET", "/v1/bases/{name}", "One base and who uses it", self.base, s.BaseView),
            Route(
                "DELETE",
                "/v1/bases/{name}",
                "Remove a base version that nobody uses",
                self.remove,
                s.Deleted,
                changes=True,
            ),
            Route(
                "POST",
                "/v1/tasks/{name}/move",
                "Have a task answer on another version of its base",
                self.move,
                s.TaskView,
                s.TaskMove,
                changes=True,
            ),
        )
