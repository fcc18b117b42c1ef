"""Squeeze-and-excite (Hu et al. 2018, arXiv 1709.01507), added to a network or, where it has its own, learned anew."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...policies.task import PatchKind
from .adding import Adding, drawn, is_image, width_of
from .replacing import Replacing
from .scale_bias import NORMS
from .shapes import join

OWN_TYPES = re.compile(r"(Squeeze(And)?Excit(e|ation)\w*|SE(Module|Layer|Block)?)")  # as common libraries call them

LEAST_HIDDEN = 2


class AddedSqueezeExcite(nn.Module):
    """Y = 2 sigmoid(W2 relu(W1 mean(X) + c1) + c2) X: with W2 and c2 of zero, as it starts, it changes nothing."""

    def __init__(self, channels: int, hidden: int, *, image: bool) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3)) if self.image else x.mean(1)
        gate = 2 * torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        return x * (gate[:, :, None, None] if self.image else gate[:, None, :])


@dataclass(frozen=True, slots=True)
class SqueezeExcite(Adding):
    """One after every normalisation, with channels / `reduction` hidden channels, at least 2."""

    reduction: int = 16
    kind: ClassVar[PatchKind] = PatchKind.SQUEEZE_EXCITE

    def accepts(self, module: nn.Module) -> bool:
        """Normalisations."""
        return isinstance(module, NORMS)

    def skeleton(self, module: nn.Module) -> nn.Module:
        """Both linear layers."""
        channels = width_of(module) or 0
        return AddedSqueezeExcite(channels, max(LEAST_HIDDEN, channels // self.reduction), image=is_image(module))

    def initialise(self, layer: nn.Module, module: nn.Module, site: str) -> None:  # noqa: ARG002
        """Identity: the second layer is zero. The first is drawn (He et al. 2015) in pairs of opposite sign, so that
        some of its ReLUs are open whatever the means are: with few of them, all could be shut for good."""
        assert isinstance(layer, AddedSqueezeExcite)
        weight = layer.squeeze.weight
        half = drawn(((len(weight) + 1) // 2, weight.shape[1]), site) * (2 / weight.shape[1]) ** 0.5
        weight.copy_(torch.cat([half, -half])[: len(weight)])
        for tensor in (layer.squeeze.bias, layer.excite.weight, layer.excite.bias):
            tensor.zero_()


@dataclass(frozen=True, slots=True)
class OwnSqueezeExcite(Replacing):
    """All parameters of the squeeze-and-excite layers that the network has, known by the name of their type."""

    kind: ClassVar[PatchKind] = PatchKind.OWN_SQUEEZE_EXCITE

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """All of them, in forward order."""
        return tuple(
            join(path, leaf)
            for path, module in self.modules(network)
            if OWN_TYPES.fullmatch(type(module).__name__)
            for leaf, _ in module.named_parameters()
        )
