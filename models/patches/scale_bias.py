"""Scale and bias of every normalisation layer, with the running statistics where the layer keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...policies.task import PatchKind
from .replacing import Replacing
from .shapes import join

NORMS: tuple[type[nn.Module], ...] = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)

_LEARNED = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class ScaleBias(Replacing):
    """Chosen by module type, never by name alone: batch norm and renorm, layer norm and group norm of any network."""

    kind: ClassVar[PatchKind] = PatchKind.SCALE_BIAS

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """weight, bias, running_mean and running_var of every norm, as far as each has them."""
        return self._of_norms(network, _LEARNED + _STATISTICS)

    def trainable(self, network: nn.Module) -> tuple[str, ...]:
        """weight and bias of every norm."""
        return self._of_norms(network, _LEARNED)

    def _of_norms(self, network: nn.Module, leaves: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            join(path, leaf)
            for path, module in self.modules(network)
            if isinstance(module, NORMS)
            for leaf in leaves
            if getattr(module, leaf, None) is not None
        )
