"""Biases alone: their gradients need no stored activation (Cai et al. 2020, TinyTL, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ...policies.task import PatchKind
from .replacing import Replacing
from .scale_bias import NORMS
from .shapes import join


@dataclass(frozen=True, slots=True)
class Bias(Replacing):
    """The bias of every normalisation and of every convolution that has one; scales and statistics stay the base's."""

    kind: ClassVar[PatchKind] = PatchKind.BIAS

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """All of them, in forward order."""
        return tuple(
            join(path, "bias")
            for path, module in self.modules(network)
            if isinstance(module, (*NORMS, _ConvNd)) and getattr(module, "bias", None) is not None
        )
