"""Channel gating: each channel is scaled by a function of its own mean, with two parameters a channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...policies.task import PatchKind
from .adding import Adding, is_image, width_of
from .scale_bias import NORMS

OPEN = 6.0  # sigmoid(6) = 0.9975: gates start all but open, for a sigmoid never is one


class ChannelGate(nn.Module):
    """Y_i = g_i X_i with g_i = sigmoid(a_i mean(X_i) + b_i), the mean taken over all places of channel i."""

    def __init__(self, channels: int, *, image: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        a, b = (self.a[:, None, None], self.b[:, None, None]) if self.image else (self.a, self.b)
        mean = x.mean((2, 3), keepdim=True) if self.image else x.mean(1, keepdim=True)
        return x * torch.sigmoid(mean * a + b)


@dataclass(frozen=True, slots=True)
class Gate(Adding):
    """A gate after every normalisation."""

    kind: ClassVar[PatchKind] = PatchKind.GATE

    def accepts(self, module: nn.Module) -> bool:
        """Normalisations."""
        return isinstance(module, NORMS)

    def skeleton(self, module: nn.Module) -> nn.Module:
        """A gate of the module's channels."""
        return ChannelGate(width_of(module) or 0, image=is_image(module))

    def initialise(self, layer: nn.Module, module: nn.Module, site: str) -> None:  # noqa: ARG002
        """Open, whatever the mean."""
        assert isinstance(layer, ChannelGate)
        layer.a.zero_()
        layer.b.fill_(OPEN)
