"""A share of the base's own convolution weights, taken from the head downwards."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ...policies.task import PatchKind
from .replacing import Replacing
from .shapes import join


@dataclass(frozen=True, slots=True)
class BaseFraction(Replacing):
    """Whole convolution weights and biases from the last layer down, as many as fit in `fraction` of all of them.

    `fraction` is a share from 0 to 1 of the convolutions' parameters; norms and classifier belong to other kinds.
    """

    fraction: float = 1.0
    kind: ClassVar[PatchKind] = PatchKind.BASE_FRACTION
    partial: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction <= 1.0:
            raise ValueError(f"fraction must lie in [0, 1], got {self.fraction}")

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """The chosen tensors, in forward order."""
        convolutions = [
            (join(path, leaf), parameter.numel())
            for path, module in self.modules(network)
            if isinstance(module, _ConvNd)
            for leaf, parameter in module.named_parameters(recurse=False)
        ]
        allowed = self.fraction * sum(count for _, count in convolutions)
        from_the_top = convolutions[::-1]
        reached = accumulate(count for _, count in from_the_top)
        chosen = [name for (name, _), total in zip(from_the_top, reached, strict=True) if total <= allowed]
        return tuple(chosen[::-1])
