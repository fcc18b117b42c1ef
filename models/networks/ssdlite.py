"""SSDLite (Sandler et al. 2018, section 6.2): the single-shot detector of Liu et al. 2016 with separable heads.

Every place of a few feature maps answers for some *default boxes*: how likely each class is, and how the box would
have to move to fit. Boxes are [..., 4] as left, top, right, bottom in shares of the picture's side. Their coding, the
loss and the sifting of what was found are in `patchd.models.detection`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from .efficientnet_lite import ConvNorm, InvertedResidual, InvertedResidualNetwork

RATIOS = (1.0, 2.0, 0.5)  # width over height of the default boxes, beside the larger square
SCALES = (0.16, 0.26, 0.40, 0.58)  # side of the square default box, a map; the last is for the largest square alone
LOCATION = 4  # numbers that say how a box moves


class SeparableHead(nn.Module):
    """Depthwise 3x3 filters, then a pointwise map, for SSD's full convolution: [N, C, H, W] to [N, outputs, H, W]."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.depthwise = ConvNorm(channels, channels, kernel=3, groups=channels)
        self.pointwise = nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.pointwise(self.depthwise(x)))


class SSDLite(nn.Module):
    """A detector on the feature maps of `backbone` at strides 8, 16 and 32.

    The finer two are the expanded inputs of the blocks that halve the map, the last is the neck, as in the paper; there
    are no further maps behind it. The backbone's classifier has no part in the detection.

    Input: float32 [N, 3, side, side], normalised. Output: class logits [N, D, 1 + classes], class 0 being background,
    and offsets [N, D, 4] of D default boxes (`defaults`, [D, 4]).
    """

    defaults: Tensor

    def __init__(
        self, backbone: InvertedResidualNetwork, classes: int, side: int, scales: Sequence[float] = SCALES
    ) -> None:
        """`side` is in pixels, a multiple of 32; `scales` has one entry more than there are maps."""
        super().__init__()
        self.backbone, self.outputs = backbone, 1 + classes
        self.halving = tuple(i for i, block in enumerate(backbone.blocks) if _stride(block) == 2)[-2:]
        tapped = [cast(InvertedResidual, backbone.blocks[i]) for i in self.halving]
        channels = [block.depthwise.conv.in_channels for block in tapped] + [backbone.neck.conv.out_channels]
        self.places = len(RATIOS) + 1
        self.class_heads = nn.ModuleList(SeparableHead(c, self.places * self.outputs) for c in channels)
        self.offset_heads = nn.ModuleList(SeparableHead(c, self.places * LOCATION) for c in channels)
        boxes = [default_boxes(side // stride, *scales[i : i + 2]) for i, stride in enumerate((8, 16, 32))]
        self.register_buffer("defaults", torch.cat(boxes), persistent=False)

    def maps(self, x: Tensor) -> list[Tensor]:
        """The feature maps [N, C, H, W] that the heads read, finest first."""
        found = []
        x = self.backbone.stem(x)
        for index, block in enumerate(self.backbone.blocks):
            if index in self.halving:
                assert isinstance(block, InvertedResidual)
                assert block.expand is not None
                found.append(block.expand(x))
                x = block.project(block.depthwise(found[-1]))
            else:
                x = block(x)
        return [*found, self.backbone.neck(x)]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits [N, D, 1 + classes] and offsets [N, D, 4]."""
        maps = self.maps(x)
        logits = [_by_box(head(m), self.outputs) for head, m in zip(self.class_heads, maps, strict=True)]
        offsets = [_by_box(head(m), LOCATION) for head, m in zip(self.offset_heads, maps, strict=True)]
        return torch.cat(logits, 1), torch.cat(offsets, 1)


def default_boxes(places: int, scale: float, next_scale: float) -> Tensor:
    """The default boxes [places^2 * 4, 4] of a map of `places` x `places`, row by row (Liu et al. 2016, section 2.2).

    At each place the shapes of `RATIOS` with the area of a square of `scale`, and a square between it and `next_scale`.
    """
    sizes = [(scale * math.sqrt(ratio), scale / math.sqrt(ratio)) for ratio in RATIOS]
    between = math.sqrt(scale * next_scale)
    shapes = torch.tensor([*sizes, (between, between)])
    at = (torch.arange(places) + 0.5) / places
    rows, columns = torch.meshgrid(at, at, indexing="ij")
    centres = torch.stack([columns, rows], -1).view(-1, 1, 2)
    return torch.cat([centres - shapes / 2, centres + shapes / 2], -1).view(-1, 4)


def _stride(block: nn.Module) -> int:
    assert isinstance(block, InvertedResidual)
    return block.depthwise.conv.stride[0]


def _by_box(answer: Tensor, numbers: int) -> Tensor:
    """[N, places * numbers, H, W] to [N, H * W * places, numbers]."""
    return answer.permute(0, 2, 3, 1).reshape(len(answer), -1, numbers)
