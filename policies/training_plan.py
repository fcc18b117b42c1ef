"""From the training allocation to a plan: the furthest level of the chain that a step can afford, and how it is run.

Each level is tried in all ways of running it, and the cheapest that the memory cap allows stands for it. The highest
level whose predicted cost is within the allocation is taken. Which levels there are and what they cost does not depend
on the allocation, so a larger one never unfreezes less.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .decision import TrainingDecision, TrainingPlan, UnfreezeOrder
from .task import PatchKind, only_statistics
from .training_chain import AUTO, Level, chain
from .training_costs import JobOutline, PlanLimits, TrainingCosts
from .training_defaults import default_costs
from .training_job_prices import JobPrices, Predicted, Run
from .training_prices import Prices
from .training_words import Weighed, candidates, chosen_text, paused_text, reach_in_words

__all__ = ["EVERYWHERE", "HEAD_ONLY", "Plans", "default_costs", "plan_training", "reach_in_words"]

HEAD_ONLY, EVERYWHERE = 0.0, 1.0  # reach: the classifier alone; all of the network
KEEPING_SAVES = 0.97  # features are kept on disk where the cost falls below this share of what it is without
CAP_BITS = 4  # a memory cap is rounded down to so many binary digits, so that plans do not follow every free page


@dataclass(frozen=True, slots=True)
class Option:
    """The cheapest way to run a level at a resolution within the memory cap, and what it takes."""

    run: Run
    predicted: Predicted


class _Table:
    """All levels of a job's chain with their cheapest ways; what does not depend on the allocation."""

    def __init__(self, prices: Prices, job: JobOutline, limits: PlanLimits) -> None:
        self._prices, self._job, self._limits = prices, job, limits
        self._priced = JobPrices(prices, job)
        self.order = AUTO if limits.order == "auto" else limits.order
        self.unmeasured = self.order is UnfreezeOrder.SPARSE and not job.importance
        if self.unmeasured:
            self.order = UnfreezeOrder.PATCH_FIRST
        self._options: dict[tuple[int, int], Option | None] = {}
        self.resolutions = (job.in_hand,) if job.in_hand is not None else job.resolutions
        self.biases_only = False
        self.levels = chain(prices, job, self.order, limits.max_fraction)
        if self._only_biases_fit():
            self.biases_only = True
            self._options.clear()
            self.levels = chain(prices, job, self.order, limits.max_fraction, biases_only=True)

    def _only_biases_fit(self) -> bool:
        """Whether memory allows no level with scales at any resolution: then biases, which keep less, come alone."""
        if PatchKind.SCALE_BIAS not in self._job.kinds:
            return False
        first = next((index for index, level in enumerate(self.levels) if level.reach > HEAD_ONLY), None)
        return first is not None and all(self.option(first, side) is None for side in self.resolutions)

    def option(self, index: int, resolution: int) -> Option | None:
        """The cheapest way to run level `index`; None where none is within the memory cap."""
        key = (index, resolution)
        if key not in self._options:
            self._options[key] = self._cheapest(self.levels[index], resolution)
        return self._options[key]

    def _cheapest(self, level: Level, resolution: int) -> Option | None:
        best: Option | None = None
        for run in self._runs(level, resolution):
            price = self._priced.price(level.trained, run)
            sized = self._priced.largest(price, run, self._limits.memory_bytes)
            if sized is None:
                continue
            option = Option(sized, self._priced.of(price, sized))
            needed = KEEPING_SAVES if run.keep_features else 1.0
            if best is None or option.predicted.cost < needed * best.predicted.cost:
                best = option
        return best

    def _runs(self, level: Level, resolution: int) -> Iterator[Run]:
        """The ways that are open to a level, whole batches first: plain before lean, without kept features first."""
        job = self._job
        for lean in (False, True):
            if lean and not self._prices.can_be_lean:
                continue
            run = Run(resolution, lean)
            yield run
            price = self._priced.price(level.trained, run)
            affordable = self._priced.features_bytes(price) <= self._limits.disk_bytes
            fixed = not job.augmented and not only_statistics(job.kinds)
            if price.lowest > 0 and affordable and fixed:
                yield Run(resolution, lean, keep_features=True)

    def _smallest(self, level: Level, resolution: int) -> Predicted:
        """What a level takes at the least memory: one image at a time, in whichever way takes least."""
        sized = [Run(run.resolution, run.lean, run.keep_features, 1) for run in self._runs(level, resolution)]
        found = [self._priced.predict(level.trained, run) for run in sized]
        return min(found, key=lambda predicted: predicted.memory_bytes)

    def best(self, allocation: float, resolution: int) -> int | None:
        """The highest level that is within allocation and memory; None where there is none."""
        for index in range(len(self.levels) - 1, -1, -1):
            option = self.option(index, resolution)
            if option is not None and option.predicted.cost <= allocation:
                return index
        return None

    def plan(self, index: int, resolution: int) -> TrainingPlan:
        """A level as a plan, in its cheapest way; with the least memory it takes where none is within the cap."""
        level = self.levels[index]
        option = self.option(index, resolution)
        predicted = self._smallest(level, resolution) if option is None else option.predicted
        run = Run(resolution, micro_batch=1) if option is None else option.run
        return TrainingPlan(
            paused=False,
            order=self.order,
            resolution=resolution,
            reach=level.reach,
            biases_only=self.biases_only,
            fraction=min(level.fraction, self._limits.max_fraction),
            tensors=level.tensors,
            keep_features=run.keep_features,
            lean=run.lean,
            micro_batch=run.micro_batch,
            cost=predicted.cost,
            step_ms=predicted.step_ms,
            memory_bytes=predicted.memory_bytes,
        )

    def decide(self, allocation: float) -> TrainingDecision:
        """The plan under an allocation, with the interesting ones among those that were weighed."""
        best = {side: self.best(allocation, side) if allocation > 0 else None for side in self.resolutions}
        able = [side for side in self.resolutions if best[side] is not None]
        # The rung for which the allocation buys most, the first of the job's order among equals: then a larger
        # allocation never means a lower level, and with room for all the job's order holds.
        side = max(able, key=lambda side: best[side] or 0, default=None) if allocation > 0 else None
        weighed = self._weighed(allocation, best, side)
        shown = candidates(weighed, allocation, self._limits)
        if side is None or not able:
            text = paused_text(weighed, allocation, self._limits)
            return TrainingDecision(plan=TrainingPlan(paused=True, reach=HEAD_ONLY), candidates=shown, text=text)
        plan = next(one.plan for one in weighed if one.chosen)
        text = chosen_text(plan, allocation, self._job.full_resolution)
        if self._prices.costs.estimated:
            text += "; estimated from the costs of another machine"
        if self.unmeasured:
            text += "; in the order patch_first until the importance of the tensors is measured"
        return TrainingDecision(plan=plan, candidates=shown, text=text)

    def _weighed(self, allocation: float, best: dict[int, int | None], side: int | None) -> list[Weighed]:
        shown = side if side is not None else self.resolutions[0]
        chosen = best[shown] if side is not None else None
        weighed = [
            Weighed(
                plan=self.plan(index, shown),
                fits=(option := self.option(index, shown)) is not None and 0 < option.predicted.cost <= allocation,
                chosen=index == chosen,
                within_memory=option is not None,
            )
            for index in _shown(len(self.levels), chosen)
        ]
        for other in self.resolutions:
            index = best[other]
            if other != shown:
                option = self.option(index or 0, other) if self.levels else None
                weighed.append(
                    Weighed(
                        plan=self.plan(index or 0, other),
                        fits=index is not None and allocation > 0,
                        chosen=False,
                        within_memory=option is not None,
                        other_rung=True,
                    )
                )
        return weighed


def _shown(count: int, chosen: int | None) -> list[int]:
    """Levels worth telling of: the least, the greatest, the chosen one with its neighbours, and some between."""
    around = set() if chosen is None else {chosen - 1, chosen, chosen + 1}
    spread = {round(part * (count - 1) / 4) for part in range(5)} if count else set()
    return sorted(index for index in around | spread if 0 <= index < count)


class Plans:
    """Plans anew only where something has changed: kept from turn to turn of the loop."""

    def __init__(self) -> None:
        self._prices: Prices | None = None
        self._table: tuple[tuple[JobOutline, PlanLimits], _Table] | None = None
        self._last: tuple[float, TrainingDecision] | None = None

    def of(self, allocation: float, costs: TrainingCosts, job: JobOutline, limits: PlanLimits) -> TrainingDecision:
        """See `plan_training`."""
        if self._prices is None or self._prices.costs is not costs:
            known = None if self._prices is None else self._prices.corrected(costs)
            self._prices, self._table = known or Prices(costs), None
        key = (job, _stepped(limits))
        if self._table is None or self._table[0] != key:
            self._table, self._last = (key, _Table(self._prices, *key)), None
        if self._last is None or self._last[0] != allocation:
            self._last = allocation, self._table[1].decide(allocation)
        return self._last[1]


def _stepped(limits: PlanLimits) -> PlanLimits:
    if limits.memory_bytes is None:
        return limits
    shift = max(0, limits.memory_bytes.bit_length() - CAP_BITS)
    return limits.model_copy(update={"memory_bytes": limits.memory_bytes >> shift << shift})


def plan_training(
    allocation: float,
    costs: TrainingCosts | None = None,
    job: JobOutline | None = None,
    limits: PlanLimits | None = None,
) -> TrainingDecision:
    """The most useful plan whose predicted cost is within `allocation`, and whose memory is within the cap.

    Neither reach nor fraction falls as the allocation rises; 0 pauses, and so does what no plan can be run with.
    Without costs those that ship with patchd count, without a job a usual one.
    """
    job = job or JobOutline()
    return Plans().of(allocation, costs or default_costs(job.base), job, limits or PlanLimits())
