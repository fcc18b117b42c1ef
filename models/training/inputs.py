"""What a step sees: images of a part at one resolution, in an order that follows from a seed alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...policies.task import Preprocessing, TrainSpec
from ..datasets import Sample, normalised, pixels

SUBSET_SALT = 7919  # keeps the choice of a subset apart from the order of an epoch


@dataclass(frozen=True, slots=True)
class Part:
    """Images of one part at one resolution, and their classes."""

    images: Tensor  # uint8 [N, R, R, 3]
    classes: Tensor  # int64 [N]


def load_part(samples: Sequence[Sample], resolution: int, preprocessing: Preprocessing) -> Part:
    """Decode and resize all of `samples`. Raises DataSetError naming the first image that cannot be read."""
    classes = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    return Part(pixels(samples, resolution, preprocessing), classes)


def network_inputs(images: Tensor, preprocessing: Preprocessing, memory_format: torch.memory_format) -> Tensor:
    """uint8 [N, R, R, 3] to the network's float32 [N, 3, R, R]."""
    return normalised(images, preprocessing).contiguous(memory_format=memory_format)


def permutation(count: int, *key: int) -> Tensor:
    """A permutation of [0, count) that depends on `key` alone."""
    digest = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    return torch.randperm(count, generator=generator)


def subset(samples: tuple[Sample, ...], spec: TrainSpec) -> tuple[Sample, ...]:
    """At most `spec.max_samples` of `samples`, chosen by the seed."""
    if spec.max_samples is None or spec.max_samples >= len(samples):
        return samples
    order = permutation(len(samples), spec.seed, SUBSET_SALT)
    return tuple(samples[i] for i in order[: spec.max_samples].tolist())
