"""Changes of training images that leave their class as it is, drawn anew in every epoch.

What is drawn for an image follows from (seed, resolution, epoch, index of the image) alone: neither from the batch it
is in nor from what ran before, so that a job that was interrupted sees what one that was not would have seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, auto

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ...policies.task import Change, TaskSpec, Teacher, TrainSpec

LEAST_SIDE = 0.75  # of a crop, over the image's side
MOST_SHIFT = 0.125  # to either side, over the image's side
MOST_COLOUR = 0.25  # by which brightness, contrast and saturation leave 1

_GREY = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
# SplitMix64 (Steele, Lea and Flood 2014); torch has signed integers alone, which wrap around alike
_STEP, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


class Draw(IntEnum):
    """The numbers that are drawn for each image; each has its place, whatever changes are asked for."""

    FLIP = auto()
    SIDE = auto()
    ACROSS = auto()
    DOWN = auto()
    SHIFT_ACROSS = auto()
    SHIFT_DOWN = auto()
    BRIGHTNESS = auto()
    CONTRAST = auto()
    SATURATION = auto()


def augmentation_of(task: TaskSpec, spec: TrainSpec) -> Augment | None:
    """How the job `spec` changes the training images of `task`; None where it leaves them as they are.

    Images that a teacher was asked about stay as it saw them.
    """
    taught = spec.teacher is not Teacher.NONE or spec.unlabelled is not None
    return None if taught or not task.augmentation else Augment(task.augmentation)


@dataclass(frozen=True, slots=True)
class Augment:
    """The changes that a task asks for, as `inputs.Augmentation` wants them."""

    changes: tuple[Change, ...]

    def apply(self, images: Tensor, *, seed: int, resolution: int, epoch: int, chosen: Tensor) -> Tensor:
        """Images [n, R, R, 3] as they are changed in `epoch`, uint8 of the same shape; `images` stay as they are."""
        drawn = uniform(chosen, Draw, seed, resolution, epoch)
        moved = {Change.CROP, Change.SHIFT} & set(self.changes)
        if moved:
            images = _moved(images, self.changes, drawn)
        elif Change.FLIP in self.changes:
            images = torch.where((drawn[Draw.FLIP] < 0.5)[:, None, None, None], images.flip(2), images)
        if Change.COLOUR in self.changes:
            images = _coloured(images, drawn)
        return images


def uniform(indices: Tensor, draws: Iterable[Draw], *key: int) -> dict[Draw, Tensor]:
    """Numbers in [0, 1), float32 [n] for each draw, that depend on `key`, the image's index and the draw alone."""
    start = int.from_bytes(hashlib.sha256(",".join(map(str, key)).encode()).digest()[:8], signed=True)
    own = _mixed(indices.to(torch.int64) * _STEP + start)
    numbers = {draw: _mixed(own + torch.tensor(int(draw)) * _STEP) for draw in draws}
    return {draw: _shifted(number, 40).to(torch.float32) / 2**24 for draw, number in numbers.items()}


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """To the right, zeros coming in."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _moved(images: Tensor, changes: tuple[Change, ...], drawn: dict[Draw, Tensor]) -> Tensor:
    """Crops brought to the full side, shifts and flips in one sampling; what lies beyond an edge mirrors the image."""
    one = torch.ones(len(images))
    side, across, down = one, torch.zeros(len(images)), torch.zeros(len(images))
    if Change.CROP in changes:
        side = 1 - (1 - LEAST_SIDE) * drawn[Draw.SIDE]
        across, down = ((2 * drawn[draw] - 1) * (1 - side) for draw in (Draw.ACROSS, Draw.DOWN))
    if Change.SHIFT in changes:  # the image's sides are at -1 and 1
        across = across + (2 * drawn[Draw.SHIFT_ACROSS] - 1) * 2 * MOST_SHIFT
        down = down + (2 * drawn[Draw.SHIFT_DOWN] - 1) * 2 * MOST_SHIFT
    mirrored = torch.where(drawn[Draw.FLIP] < 0.5, -one, one) if Change.FLIP in changes else one
    zero = torch.zeros_like(one)
    affine = torch.stack(
        [torch.stack([side * mirrored, zero, across], 1), torch.stack([zero, side, down], 1)], 1
    )  # [n, 2, 3]
    grid = F.affine_grid(affine, [len(images), 3, *images.shape[1:3]], align_corners=False)
    floats = images.permute(0, 3, 1, 2).to(torch.float32)
    sampled = F.grid_sample(floats, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return sampled.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _coloured(images: Tensor, drawn: dict[Draw, Tensor]) -> Tensor:
    """Saturation about each place's grey, contrast about the image's mean grey, brightness about black.

    All three are one affine map of the colours of an image.
    """
    brightness, contrast, saturation = (
        (1 + MOST_COLOUR * (2 * drawn[draw] - 1))[:, None, None]
        for draw in (Draw.BRIGHTNESS, Draw.CONTRAST, Draw.SATURATION)
    )
    grey = torch.tensor(_GREY)[:, None]
    # Whole numbers add up to the same sum in whatever order: an image's mean does not depend on its batch.
    sums = images.sum((1, 2), dtype=torch.int64).to(torch.float32)
    mean = (sums @ grey / (images.shape[1] * images.shape[2]))[:, :, None]
    matrix = brightness * contrast * (saturation * torch.eye(3) + (1 - saturation) * grey.expand(3, 3))
    shift = brightness * (1 - contrast) * mean
    changed = torch.baddbmm(shift, images.flatten(1, 2).to(torch.float32), matrix)
    return changed.round_().clamp_(0, 255).to(torch.uint8).view_as(images)
