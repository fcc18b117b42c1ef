"""A share of the base's own convolution weights, taken from the head downwards."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ...policies.task import PatchKind
from .shapes import shape_of


@dataclass(frozen=True, slots=True)
class BaseFraction:
    """Whole convolution weights and biases from the last layer down, as many as fit in `fraction` of all of them.

    `fraction` is a share from 0 to 1 of the convolutions' parameters; norms and classifier belong to other kinds.
    """

    fraction: float
    kind: PatchKind = PatchKind.BASE_FRACTION
    partial: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction must lie in [0, 1], got {self.fraction}")

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """The chosen tensors, in forward order."""
        convolutions = [
            (f"{path}.{leaf}" if path else leaf, parameter.numel())
            for path, module in network.named_modules()
            if isinstance(module, _ConvNd)
            for leaf, parameter in module.named_parameters(recurse=False)
        ]
        allowed = self.fraction * sum(count for _, count in convolutions)
        from_the_top = convolutions[::-1]
        reached = accumulate(count for _, count in from_the_top)
        chosen = [name for (name, _), total in zip(from_the_top, reached, strict=True) if total <= allowed]
        return tuple(chosen[::-1])

    def trainable(self, network: nn.Module) -> tuple[str, ...]:
        """All of them."""
        return self.tensors(network)

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:  # noqa: ARG002
        """As in the network."""
        return shape_of(network, name)
