"""The patch kinds that exist, and how a patch's list of kinds and options becomes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ...policies.errors import BadInputError
from ...policies.task import KindOptions, Options, PatchKind, check_kinds
from .added_layer import AddedLayer
from .added_neurons import AddedNeurons
from .base_fraction import BaseFraction
from .bias import Bias
from .depthwise import Depthwise
from .gate import Gate
from .head import Head, RandomHead
from .kind import Kind
from .lite_residual import LiteResidual
from .scale_bias import ScaleBias
from .separable import SeparableConvolution
from .squeeze_excite import OwnSqueezeExcite, SqueezeExcite
from .statistics import Statistics

_TYPES: Mapping[PatchKind, Any] = {
    PatchKind.SCALE_BIAS: ScaleBias,
    PatchKind.STATISTICS: Statistics,
    PatchKind.BIAS: Bias,
    PatchKind.DEPTHWISE: Depthwise,
    PatchKind.SEPARABLE: SeparableConvolution,
    PatchKind.ADDED_NEURONS: AddedNeurons,
    PatchKind.ADDED_LAYER: AddedLayer,
    PatchKind.SQUEEZE_EXCITE: SqueezeExcite,
    PatchKind.OWN_SQUEEZE_EXCITE: OwnSqueezeExcite,
    PatchKind.GATE: Gate,
    PatchKind.LITE_RESIDUAL: LiteResidual,
    PatchKind.HEAD: Head,
    PatchKind.RANDOM_HEAD: RandomHead,
    PatchKind.BASE_FRACTION: BaseFraction,
}


def make_kind(kind: PatchKind, options: KindOptions | None = None) -> Kind:
    """One kind with its options. Raises BadInputError for an option that it has no use for."""
    return make_kinds((kind,), {} if options is None else {kind: options})[0]


def make_kinds(kinds: Iterable[PatchKind], options: Options) -> tuple[Kind, ...]:
    """The kinds of a patch with their options, in the order in which they act.

    Raises BadInputError for options of no use, and for two heads.
    """
    asked = set(kinds)
    try:
        check_kinds(asked, options)
    except ValueError as error:
        raise BadInputError(str(error)) from None
    given = {kind: options[kind].model_dump(exclude_none=True) for kind in options}
    return tuple(_TYPES[kind](**given.get(kind, {})) for kind in PatchKind if kind in asked)


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
