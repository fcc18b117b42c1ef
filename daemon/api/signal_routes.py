"""The routes that tell of signals."""

from __future__ import annotations

import asyncio
import time

from ...policies.errors import NotFoundError
from ...policies.signal_readings import readings
from ..monitor.consumers import BETWEEN_S
from ..services import Services
from .routing import Context, Route
from .signal_schemas import ConsumerList, SignalList


class SignalRoutes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def signals(self, _: Context) -> SignalList:
        seen = self._s.deciding.snapshot
        if seen is None:
            raise NotFoundError("Nothing has been sampled yet.", hint="Ask again in a second.")
        now_s = time.time()
        told = readings(seen, self._s.monitor.origins(seen), now_s)
        return SignalList(time_s=now_s, sampled_s=seen.time_s, source=seen.source, signals=told)

    async def consumers(self, _: Context) -> ConsumerList:
        busiest = await asyncio.to_thread(self._s.monitor.busiest)
        return ConsumerList(over_s=BETWEEN_S, consumers=busiest)

    def table(self) -> tuple[Route, ...]:
        """Every route that tells of signals."""
        return (
            Route(
                "GET",
                "/v1/signals",
                "Every signal with unit, source and age, or why it is absent",
                self.signals,
                SignalList,
            ),
            Route(
                "GET",
                "/v1/consumers",
                "The programs that use most of the processors besides patchd, over the next second",
                self.consumers,
                ConsumerList,
            ),
        )
