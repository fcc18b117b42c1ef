"""Rungs that begin as another one: everything of the full resolution's patch stands, what the job trains moves on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ...policies.errors import TrainingError
from ...policies.task import Options, PatchKind, TrainSpec
from ...policies.teaching import RungInForce
from ..bases import Base
from ..patches import Kind, make_kinds
from .answers import patch_of

RATE = 5e-4  # a tenth of the usual one of scales and biases: such a rung begins as one that is trained


@dataclass(frozen=True, slots=True)
class Heritage:
    """The kinds and options of a rung's patch, and tensors that it begins with instead of the kinds' own starts."""

    kinds: tuple[PatchKind, ...]
    options: Options
    tensors: Mapping[str, Tensor]

    def made(self) -> tuple[Kind, ...]:
        """The kinds that a network is bound with; tensors of the base's own need none."""
        return make_kinds((kind for kind in self.kinds if kind is not PatchKind.BASE_FRACTION), self.options)

    def start(self, network: nn.Module, classes: int) -> dict[str, Tensor]:
        """All tensors that the patch begins with, as copies."""
        own = {name: tensor for kind in reversed(self.made()) for name, tensor in kind.start(network, classes).items()}
        return {**own, **{name: tensor.detach().clone() for name, tensor in self.tensors.items()}}


def heritage_of(full: Sequence[RungInForce], spec: TrainSpec, base: Base) -> Heritage:
    """What a job's rungs take over from the rung at the full resolution, `full` being that one alone, or nothing.

    The patches are complete by themselves: what is taken over stands in them too, a head for one. Raises TrainingError
    when there is no such rung, its patch is gone, or acts elsewhere than the job's kinds do.
    """
    if not full:
        raise TrainingError(
            "There is no rung in force at the full resolution whose head this job could keep.",
            hint="Train the full resolution with the kind head first.",
        )
    patch = patch_of(full[0], base)
    if patch is None:
        return Heritage(spec.kinds, spec.options, {})
    theirs, options = patch.metadata.kinds, patch.metadata.options
    for kind in spec.kinds:
        if kind in theirs and spec.options.get(kind) != options.get(kind):
            raise TrainingError(
                f"The kind '{kind}' has other options in the rung at the full resolution, with which this one begins.",
                hint="Submit again with the same options, or train the full resolution anew.",
            )
    kept = set(theirs) | set(spec.kinds)
    if PatchKind.HEAD in spec.kinds:
        kept.discard(PatchKind.RANDOM_HEAD)
    return Heritage(
        kinds=tuple(kind for kind in PatchKind if kind in kept),
        options={kind: given for kind, given in {**options, **spec.options}.items() if kind in kept},
        tensors=patch.tensors,
    )
