"""The final layer: a task's own classifier, for any number of classes, learned or left as drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...policies.task import PatchKind
from ..networks.parts import final_layer
from .replacing import Replacing
from .shapes import join, shape_of


@dataclass(frozen=True, slots=True)
class Head(Replacing):
    """Weight and bias of the network's last linear layer, learned."""

    kind: ClassVar[PatchKind] = PatchKind.HEAD

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """Its weight, and its bias where it has one."""
        path = final_layer(network)
        return tuple(join(path, leaf) for leaf, _ in network.get_submodule(path).named_parameters(recurse=False))

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:
        """As in the network, with `classes` rows."""
        return (classes, *shape_of(network, name)[1:])

    def start(self, network: nn.Module, classes: int) -> dict[str, Tensor]:
        """Zeros, which answer every class alike: the first gradients are the data's, not those of a random draw."""
        return {name: torch.zeros(self.shape(network, name, classes)) for name in self.tensors(network)}


@dataclass(frozen=True, slots=True)
class RandomHead(Head):
    """A last layer that stays as it was drawn: normal with variance 1 / features, no bias. Only `seed` decides it."""

    seed: int = 0
    kind: ClassVar[PatchKind] = PatchKind.RANDOM_HEAD

    def trainable(self, network: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing."""
        return ()

    def start(self, network: nn.Module, classes: int) -> dict[str, Tensor]:
        """The draw."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = {}
        for name in self.tensors(network):
            shape = self.shape(network, name, classes)
            drawn[name] = torch.zeros(shape)
            if len(shape) == 2:
                drawn[name] = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        return drawn
