"""Single neurons added beside the linear layers of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from ...policies.task import PatchKind
from .adding import Adding, Beside, drawn, like


class Neurons(nn.Module):
    """U relu(V x + c): hidden neurons between a layer's inputs and its outputs, with the layer's own kernel in V."""

    def __init__(self, module: nn.Conv2d | nn.Linear, neurons: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.empty(neurons))
        self.incoming: nn.Module
        self.outgoing: nn.Module
        self.image = isinstance(module, nn.Conv2d)
        if isinstance(module, nn.Conv2d):
            self.incoming = like(module, neurons)
            self.outgoing = nn.Conv2d(neurons, module.out_channels, 1, bias=False)
        else:
            self.incoming = nn.Linear(module.in_features, neurons, bias=False)
            self.outgoing = nn.Linear(neurons, module.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        threshold = self.threshold[:, None, None] if self.image else self.threshold
        return cast(Tensor, self.outgoing(torch.relu(self.incoming(x) + threshold)))


@dataclass(frozen=True, slots=True)
class AddedNeurons(Adding):
    """`neurons` hidden neurons beside every dense convolution and linear layer.

    Their outgoing weights start at zero, so they start without effect; the incoming ones are drawn from `seed`.
    """

    neurons: int = 4
    seed: int = 0
    kind: ClassVar[PatchKind] = PatchKind.ADDED_NEURONS

    def accepts(self, module: nn.Module) -> bool:
        """Linear layers and dense convolutions."""
        return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)

    def skeleton(self, module: nn.Module) -> nn.Module:
        """The neurons."""
        assert isinstance(module, nn.Conv2d | nn.Linear)
        return Neurons(module, self.neurons)

    def joined(self, module: nn.Module, layer: nn.Module) -> nn.Module:
        """The neurons beside the module."""
        return Beside(module, layer)

    def initialise(self, layer: nn.Module, module: nn.Module, site: str) -> None:  # noqa: ARG002
        """Incoming weights drawn (He et al. 2015), outgoing ones zero."""
        values = dict(layer.named_parameters())
        weight = values["incoming.weight"]
        weight.copy_(drawn(tuple(weight.shape), self.seed, site) * (2 / weight[0].numel()) ** 0.5)
        values["threshold"].zero_()
        values["outgoing.weight"].zero_()
