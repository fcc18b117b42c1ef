"""Scale and bias of every normalisation layer, with the running statistics where the layer keeps them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...policies.task import PatchKind
from .shapes import shape_of

NORMS: tuple[type[nn.Module], ...] = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)

_LEARNED = ("weight", "bias")
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True, slots=True)
class ScaleBias:
    """Chosen by module type, never by name: batch, layer and group norm of any network."""

    kind: PatchKind = PatchKind.SCALE_BIAS
    partial: bool = False

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """weight, bias, running_mean and running_var of every norm, as far as each has them."""
        return _of_norms(network, _LEARNED + _STATISTICS)

    def trainable(self, network: nn.Module) -> tuple[str, ...]:
        """weight and bias of every norm."""
        return _of_norms(network, _LEARNED)

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:  # noqa: ARG002
        """As in the network."""
        return shape_of(network, name)


def _of_norms(network: nn.Module, leaves: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        f"{path}.{leaf}" if path else leaf
        for path, module in network.named_modules()
        if isinstance(module, NORMS)
        for leaf in leaves
        if getattr(module, leaf, None) is not None
    )
