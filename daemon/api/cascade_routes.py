"""The routes of cascades: what a task's is, what was weighed, and its calibration."""

from __future__ import annotations

from ...policies.errors import NotFoundError
from ..services import Services
from . import schemas as s
from .routing import Context, Route


class CascadeRoutes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    def _view(self, task: str) -> s.CascadeView:
        self._s.tasks.task(task)
        return s.CascadeView(
            task=task,
            state=self._s.cascades.state(task),
            counts=self._s.cascades.counts(task),
            audit_rows=self._s.cascades.count_rows(task),
            enabled=self._s.policies.policy.cascade.enabled,
            calibration=self._s.calibration.view(task),
        )

    async def show(self, c: Context) -> s.CascadeView:
        return self._view(c.path("name"))

    async def points(self, c: Context) -> s.CascadePoints:
        name = self._s.tasks.task(c.path("name")).name
        points = self._s.store.cascade_points(name)
        if points is None:
            raise NotFoundError(
                f"Task '{name}' has no cascade yet.", hint=f"Make one: patchctl cascade calibrate {name}"
            )
        return points

    async def calibrate(self, c: Context) -> s.CascadeView:
        self._s.calibration.start(c.path("name"), c.body)
        return self._view(c.path("name"))

    async def cancel(self, c: Context) -> s.CascadeView:
        await self._s.calibration.cancel(self._s.tasks.task(c.path("name")).name)
        return self._view(c.path("name"))

    def table(self) -> tuple[Route, ...]:
        """Every route of cascades."""
        return (
            Route("GET", "/v1/tasks/{name}/cascade", "A task's cascade and its standing", self.show, s.CascadeView),
            Route(
                "GET",
                "/v1/tasks/{name}/cascade/points",
                "What the search for the cascade weighed",
                self.points,
                s.CascadePoints,
            ),
            Route(
                "POST",
                "/v1/tasks/{name}/cascade/calibration",
                "Search a cascade and certify its promise, in the background",
                self.calibrate,
                s.CascadeView,
                s.CalibrateCreate,
                changes=True,
            ),
            Route(
                "DELETE",
                "/v1/tasks/{name}/cascade/calibration",
                "End the calibration that runs",
                self.cancel,
                s.CascadeView,
                changes=True,
            ),
        )
