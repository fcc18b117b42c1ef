"""What a plan of a training job is predicted to take: time, memory, and the share of full fine-tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from .training_costs import EVALUATION_BATCH, JobOutline, Way, evaluated_at_once
from .training_prices import Prices, StepPrice, Trained

# Resident memory over the bytes of tensors, with the allocator settings of patchd's workers: blocks that are freed
# leave holes, and kernels have scratch of the size of what they work on. Fitted on 12 plans (docs/training.md).
KEPT_FACTOR, SCRATCH_FACTOR, FORWARD_FACTOR = 1.2, 1.3, 2.4
# Validation images that count in a cost, over training images: the usual share and some. A job of few images and many
# to be scored on would otherwise pause for good, since scoring them costs every plan as much.
SCORED_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a plan is predicted to take.

    `cost` spreads over the steps what comes beside them: evaluations, the making of features, a teacher's answers.
    Full fine-tuning, which it is a share of, asks the same teacher: else no allocation would buy a short taught job.
    """

    cost: float
    step_cpu_ms: float
    step_ms: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Run:
    """How a plan is run, beside what trains."""

    resolution: int
    lean: bool = False
    keep_features: bool = False
    micro_batch: int | None = None


def full(prices: Prices) -> Trained:
    """Everything of the base and the head, which an allocation of 1 is measured by."""
    return Trained(frozenset(tensor.name for unit in prices.names for tensor in unit))


class JobPrices:
    """Predictions for one job: what full fine-tuning steps at its full resolution take is computed once."""

    def __init__(self, prices: Prices, job: JobOutline) -> None:
        self.prices, self.job = prices, job
        self.batch = min(job.batch_size, job.train_images)
        self._steps = math.ceil(job.train_images / self.batch)
        self._scored = min(job.validation_images, math.ceil(SCORED_SHARE * job.train_images))
        self._read_ms = prices.costs.step.read_ms_per_byte
        self._factors = {seen.way: (seen.time, seen.memory) for seen in prices.costs.corrections}
        self._answers_ms = sum(self._answering_ms(side) for side in job.taught_at) / job.epochs
        asked = [self._full_price(side) for side in job.taught_at]
        self._teacher_image_bytes = max((max(p.frozen_image_bytes, p.upper_image_bytes) for p in asked), default=0)
        full_ms = self._epoch_ms(self._full_price(job.full_resolution), self.batch, kept=False)
        self._full_ms = full_ms * self._full_factor() + self._answers_ms

    def _full_factor(self) -> float:
        """Factor on full fine-tuning, which all costs are shares of: what its own way of running has shown.

        Where it has not run, by what has been shown of ways that run all layers as it does: a device that is slower
        at them is slower at it, and pausing for that would last, since nothing runs that could show otherwise. Kept
        features tell less: that they are faster counts, else plans would take more than their share; that they are
        slower may be an error of theirs alone.
        """
        whole = [seen for seen in self.prices.costs.corrections if not (seen.keep_features or seen.bf16)]
        at_full = [seen for seen in whole if seen.resolution == self.job.full_resolution]
        plain = [seen for seen in at_full if not seen.lean]
        if found := plain or at_full or whole:
            return fmean(seen.time for seen in found)
        return min(1.0, self._correction(Way(self.job.full_resolution))[0])

    def _full_price(self, resolution: int) -> StepPrice:
        return self.prices.price(full(self.prices), resolution, self.job.classes)

    def predict(self, trained: Trained, run: Run, *, corrected: bool = True) -> Predicted:
        """Time, memory and cost of a plan. Whatever slices have shown counts unless `corrected` is false."""
        return self.of(self.price(trained, run), run, corrected=corrected)

    def price(self, trained: Trained, run: Run) -> StepPrice:
        """The price that `of` wants."""
        return self.prices.price(trained, run.resolution, self.job.classes, lean=run.lean)

    def of(self, price: StepPrice, run: Run, *, corrected: bool = True) -> Predicted:
        """See `predict`."""
        time, memory = self._correction(self._way(run)) if corrected else (1.0, 1.0)
        micro, kept = min(self.batch, run.micro_batch or self.batch), run.keep_features
        own_ms = self._epoch_ms(price, micro, kept=kept) * time
        own_ms += self._answers_ms + (self._making_ms(price, run.resolution) / self.job.epochs if kept else 0.0)
        passes = math.ceil(self.batch / micro)
        cpu_ms = price.time_ms(self.batch, passes, kept=kept, read_ms=self._read_ms) * time
        return Predicted(
            cost=own_ms / self._full_ms,
            step_cpu_ms=cpu_ms,
            step_ms=cpu_ms / self.prices.costs.threads,
            memory_bytes=round(self._memory(price, run) * memory),
        )

    def largest(self, price: StepPrice, run: Run, cap: int | None) -> Run | None:
        """The same run in micro-batches as large as the cap allows, by halving; None where not one image is."""
        micro = self.batch
        memory = self._correction(self._way(run))[1]
        while True:
            sized = Run(run.resolution, run.lean, run.keep_features, None if micro == self.batch else micro)
            if cap is None or round(self._memory(price, sized) * memory) <= cap:
                return sized
            if micro == 1:
                return None
            micro //= 2

    def features_bytes(self, price: StepPrice) -> int:
        """What the kept features of all training and validation images take on disk."""
        return (self.job.train_images + self.job.validation_images) * price.feature_bytes

    def _memory(self, price: StepPrice, run: Run) -> int:
        """The peak of steps, evaluations, the making of features and a teacher's answers."""
        micro = run.micro_batch or self.batch
        answered = evaluated_at_once(run.micro_batch)
        ready = run.keep_features and self._is_made(price, run.resolution)
        whole = max(price.frozen_image_bytes, price.upper_image_bytes)
        stepped = price.upper_image_bytes if run.keep_features else whole
        images = max(
            micro * (KEPT_FACTOR * price.kept_image_bytes + SCRATCH_FACTOR * stepped),
            micro * FORWARD_FACTOR * stepped,
            answered * FORWARD_FACTOR * (price.upper_image_bytes if ready else whole),
            answered * FORWARD_FACTOR * self._teacher_image_bytes,
        )
        return round(self.prices.costs.step.workspace_bytes + price.state_bytes + images)

    def _is_made(self, price: StepPrice, resolution: int) -> bool:
        """Whether the features that a plan wants are on the disk already."""
        return self.job.kept_from == price.lowest and self.job.in_hand == resolution

    def _epoch_ms(self, price: StepPrice, micro: int, *, kept: bool) -> float:
        """All steps of an epoch over the training images, and the evaluation after it."""
        images = self.job.train_images
        passes = math.ceil(images / micro)
        trained = price.time_ms(images, passes, kept=kept, read_ms=self._read_ms) + (self._steps - 1) * price.step_ms
        return trained + self._scored * price.evaluation_ms(kept=kept, read_ms=self._read_ms)

    def _making_ms(self, price: StepPrice, resolution: int) -> float:
        """Computing and writing the features of all training and validation images; 0 where they are there."""
        if self._is_made(price, resolution):
            return 0.0
        images = self.job.train_images + self._scored
        passes = math.ceil(images / EVALUATION_BATCH)
        written = price.feature_bytes * self.prices.costs.step.write_ms_per_byte
        return images * (price.frozen_image_ms + written) + passes * price.frozen_pass_ms

    def _answering_ms(self, resolution: int) -> float:
        """A teacher's answers at its own resolution on all images that it has to answer."""
        images = self.job.train_images + (self.job.validation_images if self.job.unlabelled else 0)
        at = self.prices.at(resolution)
        image_ms = at.input_ms + sum(unit.frozen_ms for unit in at.units)
        pass_ms = sum(unit.frozen_call_ms for unit in at.units) + self.prices.costs.head.forward_ms
        return images * image_ms + math.ceil(images / EVALUATION_BATCH) * pass_ms

    def _way(self, run: Run) -> Way:
        return Way(run.resolution, run.lean, run.keep_features, self.job.bf16)

    def _correction(self, way: Way) -> tuple[float, float]:
        """Factors on time and memory that slices have shown: of this way of running, else of the others' mean.

        A way that has not run is taken to err as those that have, at its resolution if any has run there; else a
        plan would flee from a way that is known to be dear to one of which nothing is known. Ways in the same floats
        tell more than others: float32 says nothing of how this processor does bfloat16.
        """
        if way not in self._factors:
            seen = [one for one in self.prices.costs.corrections if one.bf16 == way.bf16]
            seen = seen or [one for one in self.prices.costs.corrections if not one.bf16]
            seen = [one for one in seen if one.resolution == way.resolution] or seen
            times, sizes = [one.time for one in seen] or [1.0], [one.memory for one in seen] or [1.0]
            self._factors[way] = fmean(times), fmean(sizes)
        return self._factors[way]
