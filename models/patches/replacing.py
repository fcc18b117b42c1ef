"""Kinds whose tensors take the place of tensors that the network has: nothing is added to its structure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from ...policies.task import PatchKind
from .shapes import copy_of, matching, shape_of


def sites_of(network: nn.Module, kind: PatchKind, where: str | None) -> str:
    """The pattern in force: the caller's, else what the network says suits it, else every layer."""
    hints: dict[PatchKind, str] = getattr(network, "patch_sites", {})
    return where if where is not None else hints.get(kind, "*")


@dataclass(frozen=True, slots=True)
class Replacing:
    """What such kinds share; a subclass names its `tensors`."""

    where: str | None = None
    kind: ClassVar[PatchKind]
    partial: ClassVar[bool] = False

    def modules(self, network: nn.Module) -> list[tuple[str, nn.Module]]:
        """The modules that the pattern names, with their paths."""
        return list(matching(network, sites_of(network, self.kind, self.where)))

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """See `Kind.tensors`."""
        raise NotImplementedError

    def trainable(self, network: nn.Module) -> tuple[str, ...]:
        """All of them."""
        return self.tensors(network)

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:  # noqa: ARG002
        """As in the network."""
        return shape_of(network, name)

    def start(self, network: nn.Module, classes: int) -> dict[str, Tensor]:  # noqa: ARG002
        """The network's own values."""
        return {name: copy_of(network, name) for name in self.tensors(network)}

    def sites(self, network: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """None."""
        return ()

    def skeleton(self, module: nn.Module) -> nn.Module:
        """There is no layer to join."""
        raise NotImplementedError(f"{self.kind} adds no layer to {type(module).__name__}")

    def joined(self, module: nn.Module, layer: nn.Module) -> nn.Module:
        """There is no layer to join."""
        raise NotImplementedError(f"{self.kind} joins no {type(layer).__name__} to {type(module).__name__}")
