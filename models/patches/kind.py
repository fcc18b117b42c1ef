"""What a patch kind is: the tensors that it owns in a network, and the layers that it adds."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from ...policies.task import PatchKind


class Kind(Protocol):
    """Which tensors a patch of this kind holds for a network, and how they come into its forward pass.

    A tensor that takes the place of one of the network's bears its name. A tensor of an added layer is called
    `site:kind.leaf`, where `site` is the path of the module that the layer is joined to. All methods want the network
    without a patch bound to it.
    """

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
        """Those of `tensors` that an optimiser moves; the others are running statistics, or stay as drawn."""
        ...

    def shape(self, network: nn.Module, name: str, classes: int) -> tuple[int, ...]:
        """The shape that tensor `name` must have for a task of `classes` classes."""
        ...

    def start(self, network: nn.Module, classes: int) -> dict[str, Tensor]:
        """The values of all `tensors` before training, from which the patched network answers as the base or close."""
        ...

    def sites(self, network: nn.Module) -> tuple[str, ...]:
        """Paths of the modules that layers are joined to; none for kinds that only replace tensors."""
        ...

    def skeleton(self, module: nn.Module) -> nn.Module:
        """The layer to join to `module`, its values still to be given."""
        ...

    def joined(self, module: nn.Module, layer: nn.Module) -> nn.Module:
        """What stands in the place of `module` once `layer` is joined to it."""
        ...
