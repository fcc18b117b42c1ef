"""Additional intermediate layers, which start as the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ...policies.task import PatchKind
from .adding import Adding, drawn, is_image, pointwise, width_of
from .scale_bias import NORMS

WHOLE = 0  # the rank that stands for a layer without a bottleneck


class LowRank(nn.Module):
    """y = x + U V x + c, a linear layer of the channels whose difference from the identity has a low rank."""

    def __init__(self, channels: int, rank: int, *, image: bool) -> None:
        super().__init__()
        self.down = pointwise(image, channels, rank, bias=False)
        self.up = pointwise(image, rank, channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.up(self.down(x)))


@dataclass(frozen=True, slots=True)
class AddedLayer(Adding):
    """A linear layer of the channels after every normalisation, of `rank` beside the identity; rank 0: a whole one."""

    rank: int = 8
    kind: ClassVar[PatchKind] = PatchKind.ADDED_LAYER

    def accepts(self, module: nn.Module) -> bool:
        """Normalisations."""
        return isinstance(module, NORMS)

    def skeleton(self, module: nn.Module) -> nn.Module:
        """The layer."""
        channels, image = width_of(module) or 0, is_image(module)
        if self.rank == WHOLE:
            return pointwise(image, channels, channels, bias=True)
        return LowRank(channels, min(self.rank, channels), image=image)

    def initialise(self, layer: nn.Module, module: nn.Module, site: str) -> None:
        """The identity: a whole layer is one, a low rank's second factor is zero."""
        channels = width_of(module) or 0
        values = dict(layer.named_parameters())
        for tensor in values.values():
            tensor.zero_()
        if (down := values.get("down.weight")) is not None:
            down.copy_(drawn(tuple(down.shape), site) / channels**0.5)
        else:
            values["weight"].copy_(torch.eye(channels).view(values["weight"].shape))
