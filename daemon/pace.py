"""What predictions take now, as a multiple of what their rung was measured to cost on a calm device."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable

from .api.schemas import CostView
from .workers.protocol import InferResult, RungRef

WARM_RUNS = 3  # of a rung by a new worker: kernels are picked, caches filled, memory is touched for the first time


class Pace:
    """Gathers ratios of measured to known times until the decision loop takes their median."""

    def __init__(
        self, cost: Callable[[str, int], CostView | None], worker: Callable[[], int | None], beside: Callable[[], bool]
    ) -> None:
        """`cost` is what a base at a resolution is known to take, `worker` the process that runs predictions.

        `beside` tells whether patchd itself is at other work: what that slows is no reason to give way to it.
        """
        self._cost, self._worker, self._beside = cost, worker, beside
        self._seen_by: int | None = None
        self._runs: Counter[tuple[str, int]] = Counter()
        self._ratios: list[float] = []

    def heard(self, rung: RungRef, result: InferResult, *, alone: bool) -> None:
        """Take note of an answer; `alone` says that no other request was in flight with it.

        Only what compares with the measured cost counts: one image through one network, on the engine that was
        measured, by a worker that has run the rung before. Decoding and resizing depend on the image, so the network
        alone is compared.
        """
        if (worker := self._worker()) != self._seen_by:
            self._seen_by = worker
            self._runs.clear()
        if result.passage is not None:
            return
        key = (rung.base, result.resolution)
        self._runs[key] += 1
        cost = self._cost(*key)
        if cost is None or cost.engine != result.engine or self._runs[key] <= WARM_RUNS:
            return
        calm_ms = cost.median_ms - cost.prepare_ms
        if alone and result.batch == 1 and calm_ms > 0 and result.timing.network_ms > 0 and not self._beside():
            self._ratios.append(result.timing.network_ms / calm_ms)

    def take(self) -> float | None:
        """The median ratio since it was last taken; None where nothing was measured."""
        found = statistics.median(self._ratios) if self._ratios else None
        self._ratios.clear()
        return found
