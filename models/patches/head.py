"""The final layer: a task's own classifier, for any number of classes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ...policies.task import PatchKind
from .shapes import shape_of

CLASSIFIER = "classifier"


@dataclass(frozen=True, slots=True)
class Head:
    """Weight and bias of the network's `classifier`."""

    kind: PatchKind = PatchKind.HEAD
    partial: bool = False

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """classifier.weight and classifier.bias."""
        classifier = network.get_submodule(CLASSIFIER)
        return tuple(f"{CLASSIFIER}.{leaf}" for leaf, _ in classifier.named_parameters(recurse=False))

    def trainable(self, network: nn.Module) -> tuple[str, ...]:
        """Both."""
        return self.tensors(network)

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:
        """As in the network, with `classes` rows."""
        return (classes, *shape_of(network, name)[1:])
