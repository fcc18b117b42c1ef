"""The parts of a job's data at the resolution of the rung in hand, each decoded when it is first asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...policies.task import Preprocessing
from ..datasets import Sample
from .inputs import Augmentation, Loading, Part, PartInputs
from .scoring import Stop

TRAIN, VALIDATION, TEST = "train", "validation", "test"


class RungParts:
    """Decoded parts, kept while the rung is trained. The training part alone is augmented."""

    def __init__(
        self,
        samples: Mapping[str, Sequence[Sample]],
        resolution: int,
        preprocessing: Preprocessing,
        memory_format: torch.memory_format,
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        classes: Mapping[str, Tensor] | None = None,
    ) -> None:
        """`classes` (int64 [N], by part) take the places of the samples' own labels."""
        self.resolution = resolution
        self._classes = classes or {}
        self._preprocessing, self._memory_format = preprocessing, memory_format
        self._augmentation, self._seed = augmentation, seed
        self._loading = {name: Loading(own, resolution, preprocessing) for name, own in samples.items() if own}
        self._loaded: dict[str, PartInputs] = {}

    def has(self, name: str) -> bool:
        """Whether there is an image in the part `name`."""
        return name in self._loading or name in self._loaded

    def loaded(self, name: str) -> bool:
        """Whether `load` would give the part `name` at once."""
        return name in self._loaded

    def load(self, name: str, should_yield: Stop) -> PartInputs | None:
        """The part `name`; None when asked to yield before all of it is decoded. The next call goes on.

        Raises DataSetError naming the first image that cannot be read.
        """
        if name not in self._loaded:
            part = self._loading[name].run(should_yield)
            if part is None:
                return None
            del self._loading[name]
            if name in self._classes:
                part = Part(part.images, self._classes[name], part.weights)
            augmentation = self._augmentation if name == TRAIN else None
            self._loaded[name] = PartInputs(
                part, self._preprocessing, self._memory_format, augmentation, seed=self._seed
            )
        return self._loaded[name]
