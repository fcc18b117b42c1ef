"""What a patch kind is, and the registry of those that exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from torch import nn

from ...policies.task import PatchKind
from .base_fraction import BaseFraction
from .head import Head
from .scale_bias import ScaleBias


class Kind(Protocol):
    """Which tensors of a network a patch of this kind owns. Names are those of the network's state dict."""

    @property
    def kind(self) -> PatchKind:
        """The kind's name in patch files and requests."""
        ...

    @property
    def partial(self) -> bool:
        """Whether a patch may hold only some of the owned tensors."""
        ...

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """All parameters and buffers that a patch of this kind may hold, in forward order."""
        ...

    def trainable(self, network: nn.Module) -> tuple[str, ...]:
        """Those of `tensors` that an optimiser moves; the others are running statistics."""
        ...

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:
        """The shape that tensor `name` must have for a task of `classes` classes."""
        ...


KINDS: Mapping[PatchKind, Kind] = {
    PatchKind.SCALE_BIAS: ScaleBias(),
    PatchKind.HEAD: Head(),
    PatchKind.BASE_FRACTION: BaseFraction(1.0),
}


def kind_tensors(kinds: Iterable[PatchKind], network: nn.Module) -> dict[str, Kind]:
    """Every tensor that a patch of these kinds may hold, with the kind that owns it."""
    return {name: KINDS[kind] for kind in kinds for name in KINDS[kind].tensors(network)}


def kind_trainable(kinds: Iterable[PatchKind], network: nn.Module) -> tuple[str, ...]:
    """The names of all trained tensors of these kinds."""
    return tuple(name for kind in kinds for name in KINDS[kind].trainable(network))
