"""What each plan takes while a slice runs: time of its steps, and the peak of memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import torch

from ...policies.decision import TrainingPlan
from ...policies.training_corrections import PlanUse
from .memory import MemoryPeak

WARM_UPS = 2  # steps: the first of a shape chooses kernels and fills caches
PEAK_LOOKS = 8  # steps after which a peak is looked at: later ones take no more


class UseMeter:
    """Metered steps of one rung, plan by plan. The level of memory is what is resident when it is made."""

    def __init__(self, resolution: int, batch: int) -> None:
        self._resolution, self._batch = resolution, batch
        self._peak = MemoryPeak()
        self._plan: TrainingPlan | None = None
        self._bf16 = False
        self._samples = 0
        self._taken: list[tuple[float, float]] = []  # wall and processor seconds, step by step
        self._highest: int | None = None
        self._looks = 0
        self._ended: list[PlanUse] = []

    def begin(self, plan: TrainingPlan, *, bf16: bool = False) -> None:
        """The steps that follow run under `plan`; whatever else was resident until now does not count.

        Under the plan in hand, whose first steps have told the peak, nothing is looked at again: giving free memory
        back, which that begins with, takes longer than many an epoch of the head alone.
        """
        if plan == self._plan:
            self._looks = 0
            return
        self._end()
        self._plan, self._bf16 = plan, bf16
        self._peak.begin()
        self._looks = PEAK_LOOKS

    @contextmanager
    def step(self, samples: int) -> Iterator[None]:
        """Time one optimiser step over `samples` images."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._taken.append((time.perf_counter() - wall, time.process_time() - cpu))
        self._samples += samples
        if self._looks > 0 and (peak := self._peak.bytes()) is not None:
            self._looks -= 1
            self._highest = max(peak, self._highest or 0)

    def take(self) -> tuple[PlanUse, ...]:
        """What was metered since the last call. The next step has to be preceded by `begin`."""
        self._end()
        self._plan = None
        ended, self._ended = tuple(self._ended), []
        return ended

    def _end(self) -> None:
        if self._plan is not None and self._taken:
            counted = self._taken[WARM_UPS:] or self._taken[-1:]
            self._ended.append(
                PlanUse(
                    plan=self._plan,
                    resolution=self._resolution,
                    batch=self._batch,
                    threads=torch.get_num_threads(),
                    bf16=self._bf16,
                    steps=len(self._taken),
                    samples=self._samples,
                    seconds=sum(wall for wall, _ in self._taken),
                    cpu_seconds=sum(cpu for _, cpu in self._taken),
                    step_ms=median(wall for wall, _ in counted) * 1e3,
                    step_cpu_ms=median(cpu for _, cpu in counted) * 1e3,
                    peak_bytes=self._highest,
                )
            )
        self._taken, self._samples, self._highest = [], 0, None
