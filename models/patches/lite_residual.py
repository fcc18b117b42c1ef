"""Lite residual branches beside the blocks of a network (Cai et al. 2020, TinyTL, arXiv 2007.11622, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ...policies.task import PatchKind
from ..networks.parts import units_of
from .adding import Adding, drawn
from .replacing import sites_of
from .shapes import matching

GROUPS = 2  # of the branch's first convolution, as in the paper
LEAST_HIDDEN = 4


class LiteBranch(nn.Module):
    """Half the size by averages, grouped filters, ReLU, pointwise filters: [N, C, H, W] to [N, C', H/2, W/2].

    What it keeps for its backward pass is a quarter in each channel of what a block of the network keeps, of few
    channels. The paper normalises by batch; here nothing depends on the batch, so there is no normalisation.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, kernel: int) -> None:
        super().__init__()
        groups = GROUPS if inputs % GROUPS == 0 else 1
        self.filters = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2, groups=groups)
        self.pointwise = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        halved = ((x.shape[2] + 1) // 2, (x.shape[3] + 1) // 2)
        pooled = F.adaptive_avg_pool2d(x, halved)
        return cast(Tensor, self.pointwise(torch.relu(self.filters(pooled))))


class WithBranch(nn.Module):
    """The sum of `inner` and, at its size, the `layer` beside it."""

    def __init__(self, inner: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.inner, self.layer = inner, layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        branch = F.interpolate(self.layer(x), size=y.shape[2:], mode="bilinear", align_corners=False)
        return cast(Tensor, y + branch)


@dataclass(frozen=True, slots=True)
class LiteResidual(Adding):
    """A branch beside every unit of the network that holds several convolutions.

    It has channels / `reduction` hidden channels, at least 4, and filters of `kernel` x `kernel` places. Its last
    convolution starts at zero, so that the network answers as before.
    """

    reduction: int = 8
    kernel: int = 3
    kind: ClassVar[PatchKind] = PatchKind.LITE_RESIDUAL

    def sites(self, network: nn.Module) -> tuple[str, ...]:
        """The blocks that are named."""
        units = {id(unit) for unit in units_of(network)}
        named = matching(network, sites_of(network, self.kind, self.where))
        return tuple(path for path, module in named if id(module) in units and len(_convolutions(module)) > 1)

    def skeleton(self, module: nn.Module) -> nn.Module:
        """The branch, from the channels of the block's first convolution to those of its last."""
        convolutions = _convolutions(module)
        inputs, outputs = convolutions[0].in_channels, convolutions[-1].out_channels
        hidden = max(LEAST_HIDDEN, inputs // self.reduction // GROUPS * GROUPS)
        return LiteBranch(inputs, hidden, outputs, self.kernel)

    def joined(self, module: nn.Module, layer: nn.Module) -> nn.Module:
        """The branch beside the block."""
        return WithBranch(module, layer)

    def initialise(self, layer: nn.Module, module: nn.Module, site: str) -> None:  # noqa: ARG002
        """Filters drawn (He et al. 2015), everything else zero."""
        assert isinstance(layer, LiteBranch)
        weight = layer.filters.weight
        weight.copy_(drawn(tuple(weight.shape), site) * (2 / weight[0].numel()) ** 0.5)
        for tensor in (layer.filters.bias, layer.pointwise.weight, layer.pointwise.bias):
            assert tensor is not None
            tensor.zero_()


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """Those of a block, in forward order."""
    return [part for part in module.modules() if isinstance(part, nn.Conv2d)]
