"""What a step makes smaller: the loss of each image of a micro-batch, from labels or from whatever else teaches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Images that go through the network together, and where they stand in their part."""

    epoch: int
    chosen: Tensor  # int64 [n], indices into the part
    classes: Tensor  # int64 [n]


class Objective(Protocol):
    """Losses of images. A step takes their mean over its batch, however many micro-batches that is cut into."""

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """The loss of each image, float32 [n], of logits [n, C]."""
        ...


class Labels:
    """Cross-entropy against the classes."""

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """As `Objective` says."""
        return nn.functional.cross_entropy(logits, batch.classes, reduction="none")
