"""What a step sees: images of a part at one resolution, in an order that follows from a seed alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ...policies.task import Preprocessing, TrainSpec
from ..datasets import Sample, normalised, pixels
from .scoring import Stop

SUBSET_SALT = 7919  # keeps the choice of a subset apart from the order of an epoch


@dataclass(frozen=True, slots=True)
class Part:
    """Images of one part at one resolution, their classes, and as how many images each counts in a score."""

    images: Tensor  # uint8 [N, R, R, 3]
    classes: Tensor  # int64 [N]
    weights: Tensor | None = None  # int64 [N]; absent: each as one


class Loading:
    """Decoding and resizing of a part, image by image: it can be ended between two and goes on where it stood."""

    def __init__(self, samples: Sequence[Sample], resolution: int, preprocessing: Preprocessing) -> None:
        self._samples, self._resolution, self._preprocessing = samples, resolution, preprocessing
        self._images: Tensor | None = None  # made when the first one is decoded
        self._done = 0

    def run(self, should_yield: Stop) -> Part | None:
        """The part; None when asked to yield before its end. Each call does one image at least.

        Raises DataSetError naming the first image that cannot be read.
        """
        side, count = self._resolution, len(self._samples)
        if self._images is None:
            self._images = torch.empty((count, side, side, 3), dtype=torch.uint8)
        while self._done < count:
            end = self._done + 1
            self._images[self._done : end] = pixels(self._samples[self._done : end], side, self._preprocessing)
            self._done = end
            if end < count and should_yield():
                return None
        classes = torch.tensor([sample.label for sample in self._samples], dtype=torch.int64)
        weights = torch.tensor([sample.weight for sample in self._samples], dtype=torch.int64)
        return Part(self._images, classes, weights)


def network_inputs(images: Tensor, preprocessing: Preprocessing, memory_format: torch.memory_format) -> Tensor:
    """uint8 [N, R, R, 3] to the network's float32 [N, 3, R, R]."""
    return normalised(images, preprocessing).contiguous(memory_format=memory_format)


def permutation(count: int, *key: int) -> Tensor:
    """A permutation of [0, count) that depends on `key` alone."""
    return torch.randperm(count, generator=generator_of(*key))


def generator_of(*key: int) -> torch.Generator:
    """Random numbers that depend on `key` alone, never on what ran before: so a resumed run draws the same ones."""
    digest = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def subset(samples: tuple[Sample, ...], spec: TrainSpec) -> tuple[Sample, ...]:
    """At most `spec.max_samples` of `samples`, chosen by the seed."""
    if spec.max_samples is None or spec.max_samples >= len(samples):
        return samples
    order = permutation(len(samples), spec.seed, SUBSET_SALT)
    return tuple(samples[i] for i in order[: spec.max_samples].tolist())


class Augmentation(Protocol):
    """Changes training images. What it draws follows from (seed, resolution, epoch, index of the image) alone."""

    def apply(self, images: Tensor, *, seed: int, resolution: int, epoch: int, chosen: Tensor) -> Tensor:
        """Other images of the same shape: uint8 [n, R, R, 3], which are `chosen` (int64 [n]) of the training part."""
        ...


class StepOrder:
    """Which images each step of a rung takes: every epoch is a permutation of its own."""

    def __init__(self, count: int, spec: TrainSpec, resolution: int) -> None:
        self._count, self._spec, self._resolution = count, spec, resolution
        self.per_epoch = max(1, math.ceil(count / spec.batch_size))
        self.total = spec.epochs * self.per_epoch
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def size(self, number: int) -> int:
        """How many images step `number` takes: the last of an epoch may take fewer."""
        return min(self._spec.batch_size, self._count - number % self.per_epoch * self._spec.batch_size)

    def batch(self, number: int) -> tuple[int, Tensor]:
        """The epoch of step `number`, and the images that it takes, int64 [n]."""
        epoch, index = divmod(number, self.per_epoch)
        if self._epoch != epoch:
            self._epoch, self._order = epoch, permutation(self._count, self._spec.seed, self._resolution, epoch)
        return epoch, self._order[index * self._spec.batch_size : (index + 1) * self._spec.batch_size]


class PartInputs:
    """A part as the network takes it: normalised, in its memory format, and augmented where that is asked for."""

    def __init__(
        self,
        part: Part,
        preprocessing: Preprocessing,
        memory_format: torch.memory_format,
        augmentation: Augmentation | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.part, self.augmentation, self._seed = part, augmentation, seed
        self._preprocessing, self._memory_format = preprocessing, memory_format

    @property
    def classes(self) -> Tensor:
        """int64 [N]."""
        return self.part.classes

    @property
    def weights(self) -> Tensor:
        """int64 [N]."""
        return torch.ones_like(self.part.classes) if self.part.weights is None else self.part.weights

    @property
    def resolution(self) -> int:
        """The side of the images, pixels."""
        return self.part.images.shape[1]

    def digest(self) -> str:
        """sha256 (hex) over images, classes and weights: whether figures or features are of the same ones."""
        digest = hashlib.sha256(f"{tuple(self.part.images.shape)}\n".encode())
        digest.update(self.part.images.numpy().data)
        for values in (self.part.classes, self.weights):
            digest.update(values.numpy().data)
        return digest.hexdigest()

    def inputs(self, start: int, end: int) -> Tensor:
        """Images `start` to `end` as they are, float32 [end - start, 3, R, R]."""
        return network_inputs(self.part.images[start:end], self._preprocessing, self._memory_format)

    def of_step(self, epoch: int, chosen: Tensor) -> Tensor:
        """Images `chosen` (int64 [n]) as epoch `epoch` sees them, float32 [n, 3, R, R]."""
        images = self.part.images[chosen]
        if self.augmentation is not None:
            images = self.augmentation.apply(
                images, seed=self._seed, resolution=self.resolution, epoch=epoch, chosen=chosen
            )
        return network_inputs(images, self._preprocessing, self._memory_format)


def micro_batches(chosen: Tensor, size: int | None) -> Iterator[Tensor]:
    """`chosen` in pieces of at most `size`; in one piece where that is absent."""
    yield from torch.split(chosen, size or max(1, len(chosen)))
