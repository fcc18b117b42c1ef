"""The routes that tell how training goes and what it used."""

from __future__ import annotations

from ..services import Services
from .routing import Context, Route
from .training_schemas import JobCurve, TrainingUsage

DAYS_TOLD, DAYS_MOST = 7, 400


class TrainingRoutes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def usage(self, c: Context) -> TrainingUsage:
        days = c.number("days", DAYS_TOLD, 1, DAYS_MOST) or DAYS_TOLD
        return self._s.account.usage(days, self._s.policies.policy.training.max_minutes_per_day)

    async def curve(self, c: Context) -> JobCurve:
        job = self._s.training.job(c.path("id"))
        return JobCurve(job=job.id, points=self._s.curves.of(job.id))

    def table(self) -> tuple[Route, ...]:
        """Every route that tells how training goes and what it used."""
        return (
            Route(
                "GET", "/v1/jobs/{id}/curve", "Loss and validation accuracy over a job's steps", self.curve, JobCurve
            ),
            Route(
                "GET",
                "/v1/training/usage",
                "What training used, by day and job, the newest day first",
                self.usage,
                TrainingUsage,
                query=(
                    ("days", "integer", f"so many local days, today included, 1 to {DAYS_MOST}; default {DAYS_TOLD}"),
                ),
            ),
        )
