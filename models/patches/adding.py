"""Kinds that join a small layer to modules of the network: after one, beside it, or in its place."""

from __future__ import annotations

import copy
import zlib
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...policies.task import PatchKind
from ..networks.parts import final_layer
from .replacing import sites_of
from .shapes import matching


class After(nn.Module):
    """`inner`, and then `layer` on what it gives."""

    def __init__(self, inner: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.inner, self.layer = inner, layer

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layer(self.inner(x)))


class Beside(nn.Module):
    """The sum of `inner` and `layer` on the same input."""

    def __init__(self, inner: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.inner, self.layer = inner, layer

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.inner(x) + self.layer(x))


def width_of(module: nn.Module) -> int | None:
    """Channels of what a module gives, where its type tells: convolutions to two dimensions, linear layers, norms."""
    if isinstance(module, nn.Conv2d):
        return module.out_channels
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, _BatchNorm):
        return module.num_features
    if isinstance(module, nn.GroupNorm):
        return module.num_channels
    if isinstance(module, nn.LayerNorm):
        return module.normalized_shape[-1]
    return None


def is_image(module: nn.Module) -> bool:
    """Whether a module's channels are dimension 1 of [N, C, H, W]; else they are the last one of [N, T, C]."""
    return not isinstance(module, nn.Linear | nn.LayerNorm)


def pointwise(image: bool, inputs: int, outputs: int, *, bias: bool) -> nn.Module:
    """A linear map of the channels: a convolution of one place for images, a linear layer for tokens."""
    return nn.Conv2d(inputs, outputs, 1, bias=bias) if image else nn.Linear(inputs, outputs, bias=bias)


def like(conv: nn.Conv2d, outputs: int, groups: int = 1) -> nn.Conv2d:
    """A convolution of the same type, inputs, kernel, stride and padding, other outputs and groups, and no bias."""
    other = copy.copy(conv)  # a subclass of Conv2d may pad in a way that only it knows
    other._parameters = {"weight": None, "bias": None}
    other.out_channels, other.groups = outputs, groups
    other.weight = nn.Parameter(torch.empty(outputs, conv.in_channels // groups, *conv.kernel_size))
    return other


def drawn(shape: tuple[int, ...], *key: object) -> Tensor:
    """Normal numbers of deviation 1 that depend on `key` alone."""
    seed = zlib.crc32(",".join(map(str, key)).encode())
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, slots=True)
class Adding:
    """What such kinds share. A subclass says which modules it `accepts`, its `skeleton`, `joined` and `initialise`."""

    where: str | None = None
    kind: ClassVar[PatchKind]
    partial: ClassVar[bool] = False

    def accepts(self, module: nn.Module) -> bool:
        """Whether the layer can be joined to a module, by its type."""
        raise NotImplementedError

    def skeleton(self, module: nn.Module) -> nn.Module:
        """See `Kind.skeleton`."""
        raise NotImplementedError

    def initialise(self, layer: nn.Module, module: nn.Module, site: str) -> None:
        """Give a fresh skeleton its values before training."""
        raise NotImplementedError

    def joined(self, module: nn.Module, layer: nn.Module) -> nn.Module:
        """The layer after the module."""
        return After(module, layer)

    def sites(self, network: nn.Module) -> tuple[str, ...]:
        """The modules that are named and that the layer can be joined to; never the head, which a task may replace."""
        named = matching(network, sites_of(network, self.kind, self.where))
        none = ("", final_layer(network))
        return tuple(path for path, module in named if path not in none and self.accepts(module))

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """The parameters of all joined layers."""
        return tuple(name for site in self.sites(network) for name in self._shapes(network.get_submodule(site), site))

    def trainable(self, network: nn.Module) -> tuple[str, ...]:
        """All of them."""
        return self.tensors(network)

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:  # noqa: ARG002
        """As the skeleton has it."""
        site = name.partition(":")[0]
        return self._shapes(network.get_submodule(site), site)[name]

    def start(self, network: nn.Module, classes: int) -> dict[str, Tensor]:  # noqa: ARG002
        """The values of `initialise`."""
        values: dict[str, Tensor] = {}
        for site in self.sites(network):
            module = network.get_submodule(site)
            layer = self.skeleton(module)
            with torch.no_grad():
                self.initialise(layer, module, site)
            values |= {self._name(site, leaf): tensor.detach() for leaf, tensor in layer.named_parameters()}
        return values

    def _shapes(self, module: nn.Module, site: str) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            layer = self.skeleton(module)
        return {self._name(site, leaf): tuple(tensor.shape) for leaf, tensor in layer.named_parameters()}

    def _name(self, site: str, leaf: str) -> str:
        return f"{site}:{self.kind}.{leaf}"
