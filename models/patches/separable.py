"""A full convolution replaced by one of fewer parameters: depthwise, then pointwise, with an optional bottleneck."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ...policies.task import PatchKind
from .adding import Adding, like


class Separable(nn.Module):
    """Depthwise filters, `expansion` for each input channel, then a pointwise map, through a bottleneck if asked.

    Sifre 2014; the linear bottleneck is that of Sandler et al. 2018. A convolution of one place has no depthwise part.
    """

    def __init__(self, conv: nn.Conv2d, expansion: int, rank: int | None) -> None:
        super().__init__()
        one_place = conv.kernel_size == (1, 1)
        wide = conv.in_channels if one_place else conv.in_channels * expansion
        self.depthwise = None if one_place else like(conv, wide, conv.in_channels)
        outputs = conv.out_channels
        stride = conv.stride[0] if one_place else 1
        bias = conv.bias is not None
        self.reduce = None if rank is None else nn.Conv2d(wide, rank, 1, stride, bias=False)
        self.pointwise = nn.Conv2d(rank or wide, outputs, 1, 1 if rank else stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.depthwise is not None:
            x = self.depthwise(x)
        if self.reduce is not None:
            x = self.reduce(x)
        return cast(Tensor, self.pointwise(x))

    def approximate(self, conv: nn.Conv2d) -> None:
        """Take the values that come closest to `conv` in the least squares of its kernel (Eckart and Young 1936).

        For each input channel the kernel [outputs, places] is cut to rank `expansion`; with a bottleneck the pointwise
        map of all is cut to its rank in turn, which is best for these filters because they are orthonormal.
        """
        weight = conv.weight.double()
        if self.depthwise is None:
            mixing = weight.flatten(1)
        else:
            expansion = self.depthwise.out_channels // conv.in_channels
            left, values, right = torch.linalg.svd(weight.flatten(2).permute(1, 2, 0), full_matrices=False)
            kept = min(expansion, values.shape[1])
            filters = torch.zeros(conv.in_channels, expansion, left.shape[1], dtype=weight.dtype)
            filters[:, :kept] = left[:, :, :kept].transpose(1, 2)
            mixed = torch.zeros(conv.in_channels, expansion, conv.out_channels, dtype=weight.dtype)
            mixed[:, :kept] = values[:, :kept, None] * right[:, :kept]
            self.depthwise.weight.copy_(filters.reshape(self.depthwise.weight.shape))
            mixing = mixed.flatten(0, 1).T
        if self.reduce is not None:
            left, values, right = torch.linalg.svd(mixing, full_matrices=False)
            kept = min(self.reduce.out_channels, len(values))
            root = values[:kept].sqrt()
            self.reduce.weight.zero_()
            self.pointwise.weight.zero_()
            self.reduce.weight[:kept] = (root[:, None] * right[:kept]).float()[:, :, None, None]
            self.pointwise.weight[:, :kept] = (left[:, :kept] * root).float()[:, :, None, None]
        else:
            self.pointwise.weight.copy_(mixing[:, :, None, None])
        if conv.bias is not None and self.pointwise.bias is not None:
            self.pointwise.bias.copy_(conv.bias)


@dataclass(frozen=True, slots=True)
class SeparableConvolution(Adding):
    """In the place of every full convolution of more than one place; with a `rank` also of those of one place.

    `expansion` is the number of filters for each input channel; `rank` the width of the bottleneck, None for none.
    """

    expansion: int = 1
    rank: int | None = None
    kind: ClassVar[PatchKind] = PatchKind.SEPARABLE

    def accepts(self, module: nn.Module) -> bool:
        """Dense convolutions."""
        dense = isinstance(module, nn.Conv2d) and module.groups == 1
        return dense and (module.kernel_size != (1, 1) or self.rank is not None)

    def skeleton(self, module: nn.Module) -> nn.Module:
        """The reduced convolution."""
        assert isinstance(module, nn.Conv2d)
        return Separable(module, self.expansion, self.rank)

    def joined(self, module: nn.Module, layer: nn.Module) -> nn.Module:  # noqa: ARG002
        """The reduced convolution alone."""
        return layer

    def initialise(self, layer: nn.Module, module: nn.Module, site: str) -> None:  # noqa: ARG002
        """As close to the old kernel as it can be."""
        assert isinstance(layer, Separable)
        assert isinstance(module, nn.Conv2d)
        layer.approximate(module)
