"""What training costs as the control plane knows it: measured, corrected by slices, else as shipped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from ..policies.training_corrections import WINDOW, Observed, PlanUse, observe
from ..policies.training_costs import JobOutline, TrainingCosts, Way
from ..policies.training_defaults import default_costs
from ..policies.training_expected import Expected, expected
from .api.schemas import TrainingProfile
from .backlog import Backlog
from .store import Store
from .training_records import MeasuredTraining, PlanReport, processor, torch_version

Key = tuple[str, int]  # base, threads
OFF = 1.4  # a factor beyond this, or below its inverse, says that the device is not what it was when it was measured
STANDS_S = 1800.0  # a measurement stands at least so long


class TrainingCostBook:
    """Owns the tables of training costs and of what slices showed, and keeps what it read from them in memory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Of another processor or torch a measurement says nothing: it is made again.
        here = (torch_version(), processor())
        self._keys: set[Key] = {
            (base, threads) for base, threads, *of in store.training_costs_known() if tuple(of) == here
        }
        self._measured: dict[Key, MeasuredTraining] = {}  # those in use: each takes about a megabyte
        self._observed: dict[Key, dict[Way, Observed]] = {}
        self._corrected: dict[Key, TrainingCosts] = {}
        self._unsaved: Backlog[tuple[str, int, Observed]] = Backlog(lambda row: store.put_training_observed(*row))
        for base, threads, observed in store.training_observed():
            self._observed.setdefault((base, threads), {})[observed.correction.way] = observed

    def costs(self, base: str, threads: int) -> TrainingCosts:
        """What training `base` with `threads` costs, corrected by the slices that ran; one object until it changes.

        Without a measurement with so many threads that of the next number counts; without any, what patchd ships.
        """
        key = (base, threads)
        if key not in self._corrected:
            corrections = tuple(seen.correction for _, seen in sorted(self._observed.get(key, {}).items()))
            self._corrected[key] = self._plain(base, threads).model_copy(update={"corrections": corrections})
        return self._corrected[key]

    def _plain(self, base: str, threads: int) -> TrainingCosts:
        known = [(abs(of - threads), of) for name, of in self._keys if name == base]
        return self._of(base, min(known)[1]).costs if known else default_costs(base)

    def _of(self, base: str, threads: int) -> MeasuredTraining:
        key = (base, threads)
        if key not in self._measured:
            self._measured[key] = self._store.training_costs(*key)
        return self._measured[key]

    def to_measure(self, base: str, threads: int, sides: Iterable[int]) -> tuple[int, ...]:
        """The sides to measure a base at before it trains at `sides`; none where what is known covers them.

        A number of threads is covered by any between the same two powers of two: processor time hardly differs. What
        slices have contradicted for a while is not covered any more.
        """
        wanted = set(sides)
        near = [of for name, of in self._keys if name == base and of.bit_length() == threads.bit_length()]
        known = {at.resolution for of in near for at in self._of(base, of).costs.at}
        if known and min(known) <= min(wanted) and max(wanted) <= max(known) and not self._contradicted(base, threads):
            return ()
        return tuple(sorted(wanted | known))

    def _contradicted(self, base: str, threads: int) -> bool:
        measured_s = self._plain(base, threads).measured_s
        if measured_s is None or time.time() - measured_s < STANDS_S:
            return False
        seen = [observed.correction for observed in self._observed.get((base, threads), {}).values()]
        return any(one.slices >= WINDOW and not 1 / OFF <= one.time <= OFF for one in seen if not one.bf16)

    def put(self, measured: MeasuredTraining) -> None:
        """Take a measurement. Raises StateError where it cannot be stored."""
        costs = measured.costs
        self._store.put_training_costs(measured)
        self._keys.add((costs.base, costs.threads))
        self._measured[costs.base, costs.threads] = measured
        self._observed = {key: ways for key, ways in self._observed.items() if key[0] != costs.base}
        self._corrected.clear()

    def observe(self, job: JobOutline, uses: Sequence[PlanUse]) -> list[PlanReport]:
        """Let predictions follow what plans took in a slice of `job`; what was predicted beside what it took."""
        reports = []
        for use in uses:
            key = (job.base, use.threads)
            ways = self._observed.setdefault(key, {})
            predicted = expected(self._plain(*key), job, use)
            seen = observe(ways.get(use.way), use, predicted.step_cpu_ms, predicted.memory_bytes)
            ways[use.way] = seen
            self._unsaved.put((*key, seen))
            self._corrected.pop(key, None)
            reports.append(_report(use, predicted, seen))
        return reports

    def view(self) -> TrainingProfile:
        """All measurements, corrected."""
        return TrainingProfile(
            measured=tuple(self._of(*key).model_copy(update={"costs": self.costs(*key)}) for key in sorted(self._keys))
        )


def _report(use: PlanUse, predicted: Expected, seen: Observed) -> PlanReport:
    return PlanReport(
        plan=use.plan,
        resolution=use.resolution,
        threads=use.threads,
        bf16=use.bf16,
        steps=use.steps,
        samples=use.samples,
        cpu_seconds=use.cpu_seconds,
        predicted_step_ms=predicted.step_cpu_ms,
        measured_step_ms=use.step_cpu_ms,
        time_factor=seen.correction.time,
        predicted_bytes=predicted.memory_bytes,
        measured_bytes=use.peak_bytes,
        memory_factor=seen.correction.memory,
        full_step_ms=predicted.full_step_ms,
    )
