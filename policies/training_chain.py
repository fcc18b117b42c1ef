"""The chain of what may train: sets of tensors, each within the next, in the order of a growing allocation.

Because they are nested, a larger allocation never freezes what a smaller one let train: neither the depth that patch
parameters train in nor the share of the base that is unfrozen falls. A chain depends on the network and the job's patch
kinds alone, not on resolution, memory or allocation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from .decision import TrainingPlan, UnfreezeOrder
from .task import PatchKind, only_statistics
from .training_costs import AddedLayer, JobOutline, TensorCost, TensorKind
from .training_prices import Prices, Site, Trained, sites

# What "auto" means. At equal cost (0.4, 0.6, 0.75, 0.85) downwards and sparse reached 92.1, 92.5, 91.7, 92.9 and 92.1,
# 91.2, 93.3, 90.0 % top-1, patch first 89.6, 91.2, 92.5, 92.5 %: no difference beyond what 240 test images can tell
# (1.7 points standard error; flowers12, 400 images, 96 px, 4 epochs, one seed; benchmarks/sparse.py). Patch first
# keeps the base's bits, so that every task can share them and patches stay small.
AUTO = UnfreezeOrder.PATCH_FIRST

NORM = frozenset({TensorKind.SCALE, TensorKind.BIAS})
REPLACING: Mapping[PatchKind, frozenset[TensorKind]] = {  # kinds whose tensors take the place of the base's
    PatchKind.SCALE_BIAS: NORM,
    PatchKind.BIAS: frozenset({TensorKind.BIAS, TensorKind.OFFSET}),
    PatchKind.DEPTHWISE: frozenset({TensorKind.DEPTHWISE}),
    PatchKind.STATISTICS: frozenset(),  # estimated by forward passes
}
HEADS = frozenset({PatchKind.HEAD, PatchKind.RANDOM_HEAD})
CONVOLUTION = frozenset({TensorKind.WEIGHT, TensorKind.DEPTHWISE, TensorKind.OFFSET})  # what can be unfrozen


@dataclass(frozen=True, slots=True)
class Level:
    """A link of the chain: how deep patch parameters train, which tensors of the base do, and all of it together.

    `tensors` names the base's tensors only where they are no whole layers from the head down.
    """

    reach: float
    fraction: float
    tensors: tuple[str, ...]
    trained: Trained

    @property
    def size(self) -> tuple[float, float, int]:
        """What can be compared between levels of one chain."""
        return self.reach, self.fraction, len(self.trained.tensors)


class _Parts:
    """The tensors of a network by unit, as a job's kinds and the unfreezing of the base speak of them."""

    def __init__(self, prices: Prices, job: JobOutline, *, biases_only: bool) -> None:
        self.units: tuple[tuple[TensorCost, ...], ...] = prices.names
        self.count = len(self.units)
        where = dict(job.where)
        wanted = {
            (kind, where.get(patch, "*"))
            for patch in job.kinds
            for kind in REPLACING.get(patch, frozenset[TensorKind]())
        }
        if biases_only:
            wanted = {(kind, pattern) for kind, pattern in wanted if kind is not TensorKind.SCALE}
        self.patch = tuple(
            frozenset(t.name for t in unit if any(t.kind is kind and _named(t, to) for kind, to in wanted))
            for unit in self.units
        )
        known = {layer.kind for layer in job.added}
        others = [kind for kind in job.kinds if kind not in REPLACING and kind not in HEADS and kind not in known]
        guessed = [layer for kind in others for layer in _guess(kind, self.units, where.get(kind))]
        self.added = sites(prices, (*job.added, *guessed))
        self.head = PatchKind.HEAD in job.kinds
        # The convolutions from the head down, in the order in which `models.patches.base_fraction` takes them.
        self.base = tuple((index, t) for index, unit in enumerate(self.units) for t in unit if t.kind in CONVOLUTION)[
            ::-1
        ]
        self.total = sum(tensor.parameters for _, tensor in self.base)

    def reaching(self, units: int) -> tuple[frozenset[str], tuple[Site, ...]]:
        """Patch tensors and added layers of the uppermost `units`."""
        first = self.count - units
        names = frozenset(name for unit in self.patch[first:] for name in unit)
        return names, tuple(site for site in self.added if site.unit >= first)

    def level(self, units: int, base: Sequence[TensorCost], *, named: bool = False) -> Level:
        """Patch parameters in the uppermost `units`, and these tensors of the base."""
        patch, added = self.reaching(units)
        names = frozenset(tensor.name for tensor in base)
        order = tuple(tensor.name for _, tensor in self.base if tensor.name in names)[::-1] if named else ()
        return Level(
            reach=units / self.count,
            fraction=self.fraction(sum(tensor.parameters for tensor in base)),
            tensors=order,
            trained=Trained(patch | names, added, self.added, self.head),
        )

    def fraction(self, parameters: int) -> float:
        """The share of the base; half a parameter more, so that rounding never leaves the last tensor out."""
        if parameters in (0, self.total):
            return float(parameters > 0)
        return (parameters + 0.5) / self.total

    def allowed(self, max_fraction: float) -> int:
        """How many tensors of the base, from the head down, are within `max_fraction` of it."""
        reached = taken = 0
        for _, tensor in self.base:
            reached += tensor.parameters
            if reached > max_fraction * self.total:
                break
            taken += 1
        return taken


def chain(
    prices: Prices,
    job: JobOutline,
    order: UnfreezeOrder,
    max_fraction: float,
    *,
    biases_only: bool = False,
) -> tuple[Level, ...]:
    """All levels, the least first; empty for a job that trains nothing. `sparse` wants the job's importance.

    Each level's set of what trains holds that of the one before.
    """
    parts = _Parts(prices, job, biases_only=biases_only)
    if order is UnfreezeOrder.SPARSE:
        levels = _sparse(parts, prices, job, max_fraction)
    elif order is UnfreezeOrder.DOWNWARDS:
        levels = _downwards(parts, max_fraction)
    else:
        levels = _patch_first(parts, max_fraction)
    kept: list[Level] = []
    for level in levels:
        trained = level.trained
        if not (trained.head or trained.tensors or trained.added or only_statistics(job.kinds)):
            continue
        if not kept or kept[-1].trained != trained:
            kept.append(level)
    return tuple(kept)


def level_of(prices: Prices, job: JobOutline, plan: TrainingPlan) -> Level:
    """What trains under a plan that a level of a chain has become."""
    parts = _Parts(prices, job, biases_only=plan.biases_only)
    units = round(plan.reach * parts.count)
    if plan.tensors:
        named = set(plan.tensors)
        return parts.level(units, [tensor for _, tensor in parts.base if tensor.name in named], named=True)
    whole = parts.base[: parts.allowed(plan.fraction)]
    lowest = parts.count - units if plan.order is UnfreezeOrder.DOWNWARDS else 0
    return parts.level(units, [tensor for unit, tensor in whole if unit >= lowest])


def _patch_first(parts: _Parts, max_fraction: float) -> list[Level]:
    """The base follows unit by unit; from the last one as much as is allowed."""
    levels = [parts.level(units, ()) for units in range(parts.count + 1)]
    allowed = parts.base[: parts.allowed(max_fraction)]
    return levels + [
        parts.level(parts.count, [tensor for unit, tensor in allowed if unit >= first])
        for first in sorted({unit for unit, _ in allowed}, reverse=True)
    ]


def _downwards(parts: _Parts, max_fraction: float) -> list[Level]:
    allowed = parts.base[: parts.allowed(max_fraction)]
    return [
        parts.level(units, [tensor for unit, tensor in allowed if unit >= parts.count - units])
        for units in range(parts.count + 1)
    ]


def _sparse(parts: _Parts, prices: Prices, job: JobOutline, max_fraction: float) -> list[Level]:
    """Greedily the most importance for each millisecond that a step grows by (Lin et al. 2022, Kwon et al. 2024).

    A move either unfreezes a tensor of the base where the backward pass comes already, or sends it deeper: with the
    patch parameters on its way, and with those tensors of the base that raise the ratio.
    """
    importance = dict(job.importance)
    worth = _Worth(parts, prices, job, importance)
    units, chosen = 0, []
    left = {tensor.name: (unit, tensor) for unit, tensor in parts.base}
    spent, allowed = 0, max_fraction * parts.total
    levels = [parts.level(0, ())]
    while True:
        room = allowed - spent
        best = worth.best(units, [pair for pair in left.values() if pair[1].parameters <= room], room)
        if best is None:
            break
        units, new = best
        for tensor in new:
            spent += tensor.parameters
            del left[tensor.name]
        chosen += new
        levels.append(parts.level(units, chosen, named=True))
    return levels


class _Worth:
    """Importance and cost of moves of the sparse order."""

    def __init__(self, parts: _Parts, prices: Prices, job: JobOutline, importance: Mapping[str, float]) -> None:
        at = prices.at(job.full_resolution)
        batch = job.batch_size
        self._count, self._importance, self._batch = parts.count, importance, batch
        self._deeper = []  # by unit: milliseconds that a step grows by when the backward pass goes through it
        self._patch = []  # by unit: importance of the patch parameters in it
        for unit, names in zip(at.units, parts.patch, strict=True):
            more = unit.plain.forward_ms - unit.frozen_ms + unit.plain.input_gradient_ms
            ms = batch * more + unit.plain.input_gradient_call_ms
            ms += sum(self._ms(tensor) for tensor in unit.plain.tensors if tensor.name in names)
            self._deeper.append(max(1e-6, ms))
            self._patch.append(sum(importance.get(name, 0.0) for name in names))
        self._costs = {t.name: max(1e-6, self._ms(t)) for unit in at.units for t in unit.plain.tensors}

    def _ms(self, tensor: TensorCost) -> float:
        return self._batch * tensor.gradient_ms + tensor.gradient_call_ms

    def _density(self, tensor: TensorCost) -> float:
        return self._importance.get(tensor.name, 0.0) / self._costs[tensor.name]

    def best(
        self, units: int, left: Sequence[tuple[int, TensorCost]], room: float
    ) -> tuple[int, list[TensorCost]] | None:
        """The move with the greatest ratio: uppermost units reached after it, and tensors unfrozen; None at the end."""
        dense = sorted(left, key=lambda pair: -self._density(pair[1]))
        within = next((tensor for unit, tensor in dense if unit >= self._count - units), None)
        best = None if within is None else (self._density(within), units, [within])
        gain = ms = 0.0
        for deeper in range(units + 1, self._count + 1):
            unit = self._count - deeper
            gain, ms = gain + self._patch[unit], ms + self._deeper[unit]
            ratio, taken = self._filled(gain, ms, [t for u, t in dense if u >= unit], room)
            if best is None or ratio > best[0]:
                best = ratio, deeper, taken
        return None if best is None else best[1:]

    def _filled(
        self, gain: float, ms: float, dense: Sequence[TensorCost], room: float
    ) -> tuple[float, list[TensorCost]]:
        """The ratio of going deeper, with the tensors that raise it, densest first."""
        taken: list[TensorCost] = []
        for tensor in dense:
            if self._density(tensor) * ms <= gain:
                break
            if tensor.parameters > room:
                continue
            gain, ms = gain + self._importance.get(tensor.name, 0.0), ms + self._costs[tensor.name]
            room -= tensor.parameters
            taken.append(tensor)
        return gain / ms, taken


def _named(tensor: TensorCost, patterns: str) -> bool:
    layer = tensor.name.rpartition(".")[0]
    return any(fnmatchcase(layer, pattern.strip()) for pattern in patterns.split(","))


# Where a kind that adds layers acts when its job does not tell, and its parameters by the width of that layer.
_GUESSES: Mapping[PatchKind, tuple[str, TensorKind]] = {
    PatchKind.SEPARABLE: ("*", TensorKind.WEIGHT),
    PatchKind.ADDED_NEURONS: ("*.project.conv", TensorKind.WEIGHT),
    PatchKind.GATE: ("*.depthwise.norm", TensorKind.BIAS),
}
_GUESS = ("*.project.norm", TensorKind.BIAS)


def _guess(kind: PatchKind, units: Sequence[Sequence[TensorCost]], where: str | None) -> list[AddedLayer]:
    """One added layer wherever the kind usually acts, for jobs whose layers are not known."""
    usual, of = _GUESSES.get(kind, _GUESS)
    every = [tensor for unit in units for tensor in unit if tensor.kind is of]
    found = [tensor for tensor in every if _named(tensor, where or usual)] or every
    return [
        AddedLayer(
            site=tensor.name.rpartition(".")[0],
            kind=kind,
            parameters=max(1, tensor.parameters // 8) if of is TensorKind.WEIGHT else 2 * tensor.parameters,
            tensors=2,
        )
        for tensor in found
    ]
