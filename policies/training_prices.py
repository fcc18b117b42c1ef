"""What a training step costs on a device, whatever trains in it and however many images it has.

Everything is a sum over units and tensors, linear in the images of a pass, so that one `StepPrice` answers for every
batch, micro-batch and cap. Below the lowest tensor that trains nothing is kept and no gradient computed; its own unit
counts in part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .errors import BadInputError
from .training_costs import (
    AddedLayer,
    PassCost,
    ResolutionCosts,
    TensorCost,
    TensorKind,
    TrainingCosts,
    UnitCost,
)
from .training_interpolation import interpolated

FLOAT_BYTES = 4
STATE_FLOATS = 4  # a parameter that trains: itself, its gradient, and Adam's two moments
INPUT_BYTES = 3 * (FLOAT_BYTES + 1)  # a pixel: as stored and as normalised
NORM = (TensorKind.SCALE, TensorKind.BIAS)


@dataclass(frozen=True, slots=True)
class Site:
    """A layer that a patch kind adds: the unit and the layer it is joined to, and its parameters."""

    unit: int
    layer: str
    parameters: int
    tensors: int


@dataclass(frozen=True, slots=True)
class Trained:
    """What trains: tensors of the base by name, added layers, and whether the head does. `forward` adds to every pass.

    `added` are those of the layers that train; `present` all that stand in the network.
    """

    tensors: frozenset[str]
    added: tuple[Site, ...] = ()
    present: tuple[Site, ...] = ()
    head: bool = True


@dataclass(frozen=True, slots=True)
class StepPrice:
    """Costs of what trains, run in one way at one resolution. Processor milliseconds and bytes.

    `frozen` is the part below the lowest unit that trains, which kept features save; `image` and `pass` speak of all
    above it with the head, forward and backward.
    """

    lowest: int
    frozen_image_ms: float
    frozen_pass_ms: float
    image_ms: float
    pass_ms: float
    step_ms: float
    upper_image_ms: float  # forward of what lies above the frozen part, without a graph
    feature_bytes: int  # per image: what is kept of the frozen part
    kept_image_bytes: int  # per image: at the highest moment of the pass
    frozen_image_bytes: int  # per image: at the highest moment of the frozen part
    upper_image_bytes: int  # per image: at the highest moment of a forward pass above it
    state_bytes: int

    def time_ms(self, images: int, passes: int, *, kept: bool, read_ms: float) -> float:
        """An optimiser step over `images` in `passes`; `kept` features are read at `read_ms` a byte."""
        frozen = self.feature_bytes * read_ms * images
        if not kept:
            frozen = self.frozen_image_ms * images + self.frozen_pass_ms * passes
        return frozen + self.image_ms * images + self.pass_ms * passes + self.step_ms

    def evaluation_ms(self, *, kept: bool, read_ms: float) -> float:
        """Answering one image."""
        return self.upper_image_ms + (self.feature_bytes * read_ms if kept else self.frozen_image_ms)


class Prices:
    """The predictor for one base on one device. Immutable; prices are remembered."""

    def __init__(self, costs: TrainingCosts) -> None:
        self.costs = costs
        self._at: dict[tuple[int, bool], _Resolution] = {}
        self._prices: dict[tuple[Trained, int, int, bool], StepPrice] = {}

    def corrected(self, costs: TrainingCosts) -> Prices | None:
        """The predictor for the same costs with other corrections, prices and all; None for other costs."""
        if (costs.at, costs.head, costs.step) != (self.costs.at, self.costs.head, self.costs.step):
            return None
        other = Prices(costs)
        other._at, other._prices = self._at, self._prices
        return other

    @property
    def names(self) -> tuple[tuple[TensorCost, ...], ...]:
        """The tensors of each unit, in forward order."""
        return tuple(unit.plain.tensors for unit in self.costs.at[0].units)

    @property
    def can_be_lean(self) -> bool:
        """Whether the lean way was measured."""
        return all(unit.lean is not None for at in self.costs.at for unit in at.units)

    def at(self, resolution: int) -> ResolutionCosts:
        """The costs at any resolution: as measured, or on the line by pixels through the two nearest."""
        return self._resolution(resolution, lean=False).costs

    def _resolution(self, resolution: int, *, lean: bool) -> _Resolution:
        found = self._at.get((resolution, lean))
        if found is None:
            other = self._at.get((resolution, not lean))
            at = other.costs if other is not None else interpolated(self.costs.at, resolution)
            found = self._at[resolution, lean] = _Resolution(at, lean=lean)
        return found

    def price(self, trained: Trained, resolution: int, classes: int, *, lean: bool = False) -> StepPrice:
        """Sum up what trains. Raises BadInputError for a tensor that the costs do not know."""
        key = (trained, resolution, classes, lean)
        found = self._prices.get(key)
        if found is None:
            found = self._prices[key] = self._sum(trained, resolution, classes, lean=lean)
        return found

    def _sum(self, trained: Trained, resolution: int, classes: int, *, lean: bool) -> StepPrice:
        at = self._resolution(resolution, lean=lean)
        if unknown := trained.tensors - at.known:
            raise BadInputError(
                f"The training costs of base '{self.costs.base}' do not know the tensor '{min(unknown)}'.",
                hint="Measure them anew: `patchctl profile`.",
            )
        units = len(at.ways)
        by_unit = [trained.tensors & names for names in at.names]
        lowest = min((u for u in range(units) if by_unit[u]), default=units)
        lowest = min((lowest, *(site.unit for site in trained.added)))
        total = _Sum()
        for unit in range(lowest, units):
            added = tuple(site for site in trained.added if site.unit == unit)
            total.add(at.unit(unit, by_unit[unit], added, partly=unit == lowest))
        frozen_ms, frozen_call, frozen_bytes = at.frozen[lowest]
        for site in trained.present:
            worth = _worth(at.ways[site.unit], site)[0]
            if site.unit < lowest:
                frozen_ms += worth
            else:
                total.image += worth
        total.add_head(self.costs, classes, trains=trained.head, below=lowest < units)
        step = self.costs.step
        return StepPrice(
            lowest=lowest,
            frozen_image_ms=at.costs.input_ms + frozen_ms,
            frozen_pass_ms=frozen_call,
            image_ms=total.image,
            pass_ms=total.call,
            step_ms=step.fixed_ms + step.tensor_ms * total.tensors + step.parameter_ms * total.parameters,
            upper_image_ms=at.frozen[units][0] - at.frozen[lowest][0] + self.costs.head.forward_class_ms * classes,
            feature_bytes=_feature_bytes(self.costs, at.costs, lowest),
            kept_image_bytes=total.most,
            frozen_image_bytes=max(frozen_bytes, INPUT_BYTES * resolution**2),
            upper_image_bytes=at.upper[lowest],
            state_bytes=STATE_FLOATS * FLOAT_BYTES * total.parameters,
        )


@dataclass(frozen=True, slots=True)
class _UnitSum:
    """What one unit adds, with a choice of what trains in it."""

    image: float
    call: float
    kept: int
    transient: int
    parameters: int
    tensors: int


class _Resolution:
    """The costs at one resolution run in one way, in the form that sums want; sums over a unit are remembered."""

    def __init__(self, costs: ResolutionCosts, *, lean: bool) -> None:
        self.costs = costs
        self.ways = [_way(unit, lean=lean) for unit in costs.units]
        self.names = [frozenset(tensor.name for tensor in way.tensors) for way in self.ways]
        self.known = frozenset[str]().union(*self.names)
        self.frozen: list[tuple[float, float, int]] = [
            (0.0, 0.0, 0)
        ]  # of the units below each: an image, a pass, bytes
        for unit in costs.units:
            ms, call, most = self.frozen[-1]
            most = max(most, unit.frozen_transient_bytes)
            self.frozen.append((ms + unit.frozen_ms, call + unit.frozen_call_ms, most))
        self.upper = [0]  # of the units from each up: bytes at the highest moment of a forward pass without a graph
        for unit in reversed(costs.units):
            self.upper.insert(0, max(self.upper[0], unit.frozen_transient_bytes))
        self._sums: dict[tuple[int, frozenset[str], tuple[Site, ...], bool], _UnitSum] = {}

    def unit(self, unit: int, names: frozenset[str], added: tuple[Site, ...], *, partly: bool) -> _UnitSum:
        """What a unit adds; `partly`: nothing trains below, so that its backward pass ends at its lowest tensor."""
        key = (unit, names, added, partly)
        found = self._sums.get(key)
        if found is None:
            tensors = [tensor for tensor in self.ways[unit].tensors if tensor.name in names]
            found = self._sums[key] = _unit_sum(self.ways[unit], tensors, added, partly=partly)
        return found


def _unit_sum(way: PassCost, tensors: Sequence[TensorCost], added: Sequence[Site], *, partly: bool) -> _UnitSum:
    beside = any(tensor.kind is TensorKind.SCALE for tensor in tensors)
    own = {t.name: t.kept_beside_norms_bytes if beside else t.kept_bytes for t in tensors}
    share, kept = 1.0, way.kept_bytes + sum(own.values())
    if partly and tensors and not added:
        deepest = max(tensors, key=lambda tensor: (tensor.reach_share, tensor.reach_bytes))
        reached = max(tensor.reach_bytes for tensor in tensors)
        share, kept = deepest.reach_share, min(kept, reached + sum(own.values()) - own[deepest.name])
    image = way.forward_ms + share * way.input_gradient_ms + sum(tensor.gradient_ms for tensor in tensors)
    call = way.forward_call_ms + share * way.input_gradient_call_ms + sum(t.gradient_call_ms for t in tensors)
    for site in added:
        worth, size = _worth(way, site)
        image += 2 * worth  # the gradients of its parameters and of its input
        kept += size
    return _UnitSum(
        image=image,
        call=call,
        kept=kept,
        transient=way.transient_bytes,
        parameters=sum(tensor.parameters for tensor in tensors) + sum(site.parameters for site in added),
        tensors=len(tensors) + sum(site.tensors for site in added),
    )


class _Sum:
    """Running sums over the units from the lowest one up."""

    def __init__(self) -> None:
        self.image = self.call = 0.0
        self.parameters = self.tensors = 0
        self.kept = self.most = 0

    def add(self, unit: _UnitSum) -> None:
        self.image += unit.image
        self.call += unit.call
        self.parameters += unit.parameters
        self.tensors += unit.tensors
        self.kept += unit.kept
        self.most = max(self.most, self.kept + unit.transient)

    def add_head(self, costs: TrainingCosts, classes: int, *, trains: bool, below: bool) -> None:
        head = costs.head
        gradients = int(trains) + int(below)
        self.image += classes * (head.forward_class_ms + gradients * head.backward_class_ms)
        self.call += head.forward_ms + (head.backward_ms if gradients else 0.0)
        self.kept += head.features * FLOAT_BYTES
        self.most = max(self.most, self.kept)
        if trains:
            self.parameters += (head.features + 1) * classes
            self.tensors += 2


def _worth(way: PassCost, site: Site) -> tuple[float, int]:
    """Milliseconds an image of one pass through an added layer, and what it keeps: as the layer it is joined to.

    Beside a convolution it costs what that one's weight gradient does, by their numbers of parameters; behind a
    normalisation what that one's backward pass does.
    """
    own = [tensor for tensor in way.tensors if tensor.name.rpartition(".")[0] == site.layer]
    if not own:
        return 0.0, 0
    weight = next((tensor for tensor in own if tensor.kind not in (*NORM, TensorKind.OFFSET)), None)
    below = [t for t in way.tensors if t.reach_share > own[0].reach_share]
    size = min((t.reach_bytes for t in below), default=way.kept_bytes) - own[0].reach_bytes
    if weight is not None:
        share = min(1.0, site.parameters / weight.parameters)
        return weight.gradient_ms * share, max(0, size)
    lower = min((t.reach_share for t in below), default=1.0)
    return way.input_gradient_ms * (lower - own[0].reach_share), max(0, size)


def _way(unit: UnitCost, *, lean: bool) -> PassCost:
    if not lean:
        return unit.plain
    if unit.lean is None:
        raise BadInputError("The lean way of training was not measured.", hint="Measure anew: `patchctl profile`.")
    return unit.lean


def _feature_bytes(costs: TrainingCosts, at: ResolutionCosts, lowest: int) -> int:
    if lowest == len(at.units):  # pooled
        return costs.head.features * FLOAT_BYTES
    return at.units[lowest - 1].output_bytes if lowest else 0


def sites(prices: Prices, layers: Iterable[AddedLayer]) -> tuple[Site, ...]:
    """Added layers by the unit that holds the module they are joined to; those of no unit are left out."""
    names = [unit.name for unit in prices.costs.at[0].units]
    found = []
    for layer in layers:
        unit = next(
            (i for i, name in enumerate(names) if layer.site == name or layer.site.startswith(name + ".")), None
        )
        if unit is not None:
            found.append(Site(unit, layer.site, layer.parameters, layer.tensors))
    return tuple(found)
