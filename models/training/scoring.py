"""Top-1 on a part, in batches: it can be ended between two of them and goes on where it stood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...policies.task import Evaluation
from ..evaluation import wilson_weighted

Stop = Callable[[], bool]


class Scored(Protocol):
    """What is scored: inputs of any form, the class of each, and as how many images it counts."""

    @property
    def classes(self) -> Tensor:
        """int64 [N]."""
        ...

    @property
    def weights(self) -> Tensor:
        """int64 [N]."""
        ...

    @property
    def inputs(self) -> Callable[[int, int], Tensor]:
        """What `forward` takes, of the images from one index to another."""
        ...


@dataclass(frozen=True, slots=True)
class FromFeatures:
    """A part in the form of features that are kept of it."""

    classes: Tensor
    weights: Tensor
    inputs: Callable[[int, int], Tensor]


class Scoring:
    """Right answers so far on parts that have a name each. `forget` them when a weight has moved."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}  # part: weight of the right answers, images seen

    def forget(self) -> None:
        """Begin anew on every part."""
        self._counts.clear()

    def score(
        self, name: str, part: Scored, forward: Callable[[Tensor], Tensor], batch_size: int, should_yield: Stop
    ) -> Evaluation | None:
        """Top-1 of `forward` (inputs to logits) on `part`; None when asked to yield before the end.

        The next call with the same name goes on from there. Each call does one batch at least. `batch_size` changes
        time and memory alone.
        """
        correct, start = self._counts.get(name, (0, 0))
        count = len(part.classes)
        with torch.inference_mode():
            while start < count:
                end = min(count, start + batch_size)
                right = forward(part.inputs(start, end)).argmax(1) == part.classes[start:end]
                correct, start = correct + int(part.weights[start:end][right].sum()), end
                self._counts[name] = correct, start
                if start < count and should_yield():
                    return None
        return wilson_weighted(correct, part.weights)
