"""Running mean and variance of the batch normalisations, estimated anew on a task's own images; nothing is learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...policies.task import PatchKind
from .replacing import Replacing
from .shapes import join

MEAN, VARIANCE = "running_mean", "running_var"


@dataclass(frozen=True, slots=True)
class Statistics(Replacing):
    """Of every batch norm and renorm that keeps them. `momentum` says how they are estimated, see training."""

    momentum: float | None = None
    kind: ClassVar[PatchKind] = PatchKind.STATISTICS

    def norms(self, network: nn.Module) -> tuple[tuple[str, _BatchNorm], ...]:
        """The normalisations and their paths, in forward order."""
        return tuple(
            (path, module)
            for path, module in self.modules(network)
            if isinstance(module, _BatchNorm) and module.running_mean is not None and module.running_var is not None
        )

    def tensors(self, network: nn.Module) -> tuple[str, ...]:
        """running_mean and running_var of each."""
        return tuple(join(path, leaf) for path, _ in self.norms(network) for leaf in (MEAN, VARIANCE))

    def trainable(self, network: nn.Module) -> tuple[str, ...]:  # noqa: ARG002
        """Nothing."""
        return ()
