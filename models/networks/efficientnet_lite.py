"""EfficientNet-Lite 0 to 2 (Tan and Le 2019, in the Lite variant: ReLU6, no squeeze-and-excite, fixed stem and neck).

A chain of *units*: stem, inverted residual blocks, neck. Then global average pooling and a linear classifier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...policies.task import PatchKind

STEM_CHANNELS = 32
NECK_CHANNELS = 1280
NORM_EPS = 1e-3
NORM_MOMENTUM = 0.01  # TensorFlow's decay of 0.99, in torch's convention


@dataclass(frozen=True, slots=True)
class Stage:
    """A run of blocks of one shape, before scaling; only the first block has the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def scaled_channels(channels: int, width: float, divisor: int = 8) -> int:
    """`channels * width` rounded to a multiple of `divisor`, never more than 10 % below the exact value."""
    exact = channels * width
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * exact else rounded


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after one axis of `size` so that the output has ceil(size / stride) places (TensorFlow SAME)."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, which is lopsided for stride 2 on even sizes."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = same_padding(x.shape[-2], self.kernel_size[0], self.stride[0])
        left, right = same_padding(x.shape[-1], self.kernel_size[1], self.stride[1])
        if (top, left) != (bottom, right):
            x = F.pad(x, (left, right, top, bottom))
            top = left = 0
        return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and, where `active`, ReLU6."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = SameConv2d(inputs, outputs, kernel, stride, groups)
        self.norm = nn.BatchNorm2d(outputs, eps=NORM_EPS, momentum=NORM_MOMENTUM)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = cast(Tensor, self.norm(self.conv(x)))
        return F.relu6(x, inplace=True) if self.active else x


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project back by 1x1 without activation; add the input where shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = ConvNorm(inputs, hidden) if expansion > 1 else None
        self.depthwise = ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvNorm(hidden, outputs, active=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = cast(Tensor, self.project(self.depthwise(y)))
        return y + x if self.residual else y


class InvertedResidualNetwork(nn.Module):
    """Stem, blocks of `stages`, neck, global average pooling, linear classifier: what the networks of the family share.

    `width` scales the channels of the blocks and `depth` their repeats, but for the first and the last stage; `stem`
    and `neck` are channels as they are. Input: float32 [N, 3, R, R], normalised; any R of at least 32. Output: logits
    [N, classes].
    """

    patch_sites: ClassVar[Mapping[PatchKind, str]] = {  # where a kind stays under 2 % of the parameters
        PatchKind.ADDED_NEURONS: "blocks.*.project.conv",
        PatchKind.ADDED_LAYER: "blocks.*.project.norm",
        PatchKind.SQUEEZE_EXCITE: "blocks.*.project.norm",
        PatchKind.GATE: "blocks.*.depthwise.norm",
    }

    def __init__(
        self, stages: Sequence[Stage], stem: int, neck: int, *, width: float, depth: float, classes: int
    ) -> None:
        super().__init__()
        self.stem = ConvNorm(3, stem, kernel=3, stride=2)
        blocks: list[InvertedResidual] = []
        channels = stem
        for index, stage in enumerate(stages):
            outputs = scaled_channels(stage.channels, width)
            at_an_end = index in (0, len(stages) - 1)
            for repeat in range(stage.repeats if at_an_end else math.ceil(depth * stage.repeats)):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, outputs, stage.kernel, stride, stage.expansion))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.neck = ConvNorm(channels, neck)
        self.classifier = nn.Linear(neck, classes)

    @property
    def units(self) -> tuple[nn.Module, ...]:
        """Stem, each block and neck in forward order; a training plan's `reach` is a share of these."""
        return (self.stem, *self.blocks, self.neck)

    def features(self, x: Tensor, first: int = 0) -> Tensor:
        """Pooled features [N, neck] of images [N, 3, R, R], or of what reaches unit `first`."""
        for unit in self.units[first:]:
            x = unit(x)
        return x.mean((2, 3))

    def tail(self, x: Tensor, first: int) -> Tensor:
        """Logits [N, classes] of what reaches unit `first`: the units below it are not run."""
        return cast(Tensor, self.classifier(self.features(x, first)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, 3, R, R]."""
        return self.tail(x, 0)


class EfficientNetLite(InvertedResidualNetwork):
    """The network; stem and neck keep their size whatever the width."""

    def __init__(self, width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> None:
        super().__init__(STAGES, STEM_CHANNELS, NECK_CHANNELS, width=width, depth=depth, classes=classes)
