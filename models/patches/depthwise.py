"""Depthwise filters, learned anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ...policies.task import PatchKind
from .replacing import Replacing
from .shapes import join


def is_depthwise(module: nn.Module) -> bool:
    """Whether each output channel of a convolution sees one input channel only."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels > 1


@dataclass(frozen=True, slots=True)
class Depthwise(Replacing):
    """Weight and bias of every depthwise convolution."""

    kind: ClassVar[PatchKind] = PatchKind.DEPTHWISE

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """All of them, in forward order."""
        return tuple(
            join(path, leaf)
            for path, module in self.modules(network)
            if is_depthwise(module)
            for leaf, _ in module.named_parameters(recurse=False)
        )
