"""The route of the history."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.responses import Response

from ...policies.errors import BadInputError
from ..services import Services
from .history_schemas import History
from .routing import Context, Route

DAY_S = 86400.0
POINTS_TOLD, POINTS_MOST = 720, 5000


def _give_back_memory() -> None:
    """Return what reading took to the kernel, so that a daemon that idles again is small again. Only glibc needs it."""
    import ctypes  # not of the idle daemon's

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class HistoryRoutes:
    """The handler, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def history(self, c: Context) -> Response:
        from ..history_reader import Period, read_history  # few daemons are ever asked

        now_s = time.time()
        given_to, given_from = c.real("to"), c.real("from")
        to_s = now_s if given_to is None else given_to
        from_s = to_s - DAY_S if given_from is None else given_from
        if from_s >= min(to_s, now_s):
            raise BadInputError(
                "The period is empty: it begins at or after its end, or has not begun yet.",
                hint="'from' and 'to' are Unix times in seconds.",
            )
        period = Period(from_s, to_s, c.number("points", POINTS_TOLD, 1, POINTS_MOST) or POINTS_TOLD)
        pending = self._s.history.pending()
        body = await asyncio.to_thread(read_history, self._s.state_dir, period, now_s, pending)
        await asyncio.to_thread(_give_back_memory)
        return Response(body, media_type="application/json")

    def table(self) -> tuple[Route, ...]:
        """The one route."""
        return (
            Route(
                "GET",
                "/v1/history",
                "What was in a period: allocations, signals, rungs, requests, training slices, events",
                self.history,
                History,
                query=(
                    ("from", "number", "Unix time; default: a day before the end"),
                    ("to", "number", "Unix time; default: now"),
                    ("points", "integer", f"about so many rows at most, 1 to {POINTS_MOST}; default {POINTS_TOLD}"),
                ),
            ),
        )
