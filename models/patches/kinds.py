"""The patch kinds that exist, and how a patch's list of kinds and options becomes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from ...policies.errors import BadInputError
from ...policies.task import KindOptions, PatchKind
from .added_layer import AddedLayer
from .added_neurons import AddedNeurons
from .base_fraction import BaseFraction
from .depthwise import Depthwise
from .gate import Gate
from .head import Head, RandomHead
from .kind import Kind
from .scale_bias import ScaleBias
from .separable import SeparableConvolution
from .squeeze_excite import OwnSqueezeExcite, SqueezeExcite

_TYPES: Mapping[PatchKind, Any] = {
    PatchKind.SCALE_BIAS: ScaleBias,
    PatchKind.DEPTHWISE: Depthwise,
    PatchKind.SEPARABLE: SeparableConvolution,
    PatchKind.ADDED_NEURONS: AddedNeurons,
    PatchKind.ADDED_LAYER: AddedLayer,
    PatchKind.SQUEEZE_EXCITE: SqueezeExcite,
    PatchKind.OWN_SQUEEZE_EXCITE: OwnSqueezeExcite,
    PatchKind.GATE: Gate,
    PatchKind.HEAD: Head,
    PatchKind.RANDOM_HEAD: RandomHead,
    PatchKind.BASE_FRACTION: BaseFraction,
}
_WHOLE_HEADS = (PatchKind.HEAD, PatchKind.RANDOM_HEAD)


def make_kind(kind: PatchKind, options: KindOptions | None = None) -> Kind:
    """One kind with its options. Raises BadInputError for an option that it has no use for."""
    given = {} if options is None else options.model_dump(exclude_none=True)
    known = {field.name for field in fields(_TYPES[kind])} & set(KindOptions.model_fields)
    if kind in _WHOLE_HEADS:
        known -= {"where"}
    if wrong := sorted(given.keys() - known):
        raise BadInputError(
            f"The patch kind '{kind}' has no option '{wrong[0]}'.",
            hint=f"It takes {', '.join(sorted(known))}." if known else "It takes none.",
        )
    made: Kind = _TYPES[kind](**given)
    return made


def make_kinds(kinds: Iterable[PatchKind], options: Mapping[PatchKind, KindOptions]) -> tuple[Kind, ...]:
    """The kinds of a patch with their options, in the order in which they act.

    Raises BadInputError for options of a kind that is not among them, and for two heads.
    """
    asked = set(kinds)
    if stray := sorted(options.keys() - asked):
        raise BadInputError(f"There are options for '{stray[0]}', which is not among the patch's kinds.")
    if asked.issuperset(_WHOLE_HEADS):
        raise BadInputError("A patch has one head: learned (head) or left as drawn (random_head), not both.")
    return tuple(make_kind(kind, options.get(kind)) for kind in PatchKind if kind in asked)


def owners(kinds: Sequence[Kind], network: nn.Module) -> dict[str, Kind]:
    """Every tensor that a patch of these kinds may hold, with the kind that owns it: the first one to name it."""
    owned: dict[str, Kind] = {}
    for kind in kinds:
        for name in kind.tensors(network):
            owned.setdefault(name, kind)
    return owned


def trainable(kinds: Sequence[Kind], network: nn.Module) -> dict[str, Kind]:
    """Every tensor that an optimiser moves, with the kind that owns it."""
    moved = {name for kind in kinds for name in kind.trainable(network)}
    return {name: kind for name, kind in owners(kinds, network).items() if name in moved}


def check_useful(kinds: Sequence[Kind], network: nn.Module) -> None:
    """Raise BadInputError for a kind that finds nothing to act on, naming its pattern."""
    for kind in kinds:
        if not kind.tensors(network):
            where = getattr(kind, "where", None)
            named = f" among the layers named '{where}'" if where else ""
            raise BadInputError(
                f"The patch kind '{kind.kind}' finds nothing to act on in this base{named}.",
                hint="Leave the kind out, or name other layers.",
            )
