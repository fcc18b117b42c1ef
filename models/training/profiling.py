"""Measuring what training a base costs on this device: the figures of `policies.training_costs`.

Passes of two sizes tell what an image costs and what a pass costs. All passes of all resolutions take turns, so that a
burst of other work falls on all of them; what counts is the median.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...policies.task import Preprocessing
from ...policies.training_costs import (
    PassCost,
    ResolutionCosts,
    TensorCost,
    TensorKind,
    TrainingCosts,
    UnitCost,
)
from ..bases import Base
from .inputs import network_inputs
from .lean import lean
from .profiling_head import head_cost, step_cost
from .profiling_layout import TensorPart, Unit, inputs_of, layout, let_train
from .profiling_memory import KeptBytes, frozen_transient_bytes, kept_bytes
from .profiling_times import Fitted, Pass, Stopwatch, excess, fitted

SMALL, LARGE = 2, 8  # images of the passes
RESOLUTIONS_MEASURED = 3  # of more, the others follow by their pixels (docs/training.md has the error)
FEWEST_REPEATS, MOST_REPEATS = 3, 9

NORM = frozenset({TensorKind.SCALE, TensorKind.BIAS})
TRAINING: dict[str, frozenset[TensorKind]] = {  # what trains in the passes that are timed
    "nothing": frozenset(),
    "biases": frozenset({TensorKind.BIAS}),
    "norms": NORM,
    "all": frozenset(TensorKind),
}

Way = Callable[[nn.Module], AbstractContextManager[object]]
WAYS: dict[str, Way] = {"plain": nullcontext, "lean": lean}

Stop = Callable[[], bool]
Report = Callable[[float], None]


@dataclass(slots=True)
class _Resolution:
    """What has been measured at one resolution."""

    side: int
    frozen: dict[int, list[Pass]] = field(default_factory=lambda: defaultdict(list))
    trained: dict[tuple[str, str, int], list[Pass]] = field(default_factory=lambda: defaultdict(list))
    input_ms: list[float] = field(default_factory=list)
    kept: dict[tuple[str, str], KeptBytes] = field(default_factory=dict)
    transient: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)


class Profiling:
    """Measures one base with the threads that torch has been given. Nothing of the base may be bound meanwhile."""

    def __init__(self, base: Base, resolutions: Sequence[int]) -> None:
        self._base, self._network = base, base.network
        self._units = layout(base.network)
        self._sides = [_Resolution(side) for side in measured_of(resolutions)]

    def run(
        self, seconds: float, should_stop: Stop = lambda: False, report: Report = lambda _: None
    ) -> TrainingCosts | None:
        """Measure for about `seconds`, no fewer than three repeats; None when asked to stop before the end.

        `should_stop` is asked between passes; `report` hears the share that is done, 0 to 1.
        """
        began = time.monotonic()
        repeats, done = FEWEST_REPEATS, 0
        try:
            for way in WAYS:
                for at in self._sides:
                    for _ in self._count(at, way):
                        if should_stop():
                            return None
            while done <= repeats:  # the first one is not counted: torch chooses its kernels
                turn = time.monotonic()
                for at in self._sides:
                    for _ in self._time(at, counted=done > 0):
                        if should_stop():
                            return None
                done += 1
                left, took = seconds - (time.monotonic() - began), time.monotonic() - turn
                if done == 1:
                    repeats = min(MOST_REPEATS, max(FEWEST_REPEATS, int(left / max(took, 1e-9))))
                report(min(1.0, done / (repeats + 1)))
            step = step_cost(self._units)
            head = head_cost(self._base)
        finally:
            let_train(self._network, ())
        return TrainingCosts(
            base=self._base.name,
            threads=torch.get_num_threads(),
            measured_s=time.time(),
            seconds=time.monotonic() - began,
            at=tuple(self._costs(at) for at in self._sides),
            head=head,
            step=step,
        )

    def _images(self, side: int, count: int) -> Tensor:
        generator = torch.Generator().manual_seed(side)
        images = torch.randn(count, 3, side, side, generator=generator)
        return images.contiguous(memory_format=self._base.memory_format)

    def _count(self, at: _Resolution, way: str) -> Iterator[None]:
        with torch.no_grad():
            given = inputs_of(self._network, self._units, self._images(at.side, 1))
        with WAYS[way](self._network):
            for unit, tensor in zip(self._units, given, strict=True):
                at.kept[way, unit.name] = kept_bytes(unit, tensor, self._network)
                if way == "plain":
                    at.transient[unit.name] = frozen_transient_bytes(unit, tensor)
                    with torch.no_grad():
                        at.outputs[unit.name] = unit.module(tensor).numel() * 4
                yield

    def _time(self, at: _Resolution, *, counted: bool) -> Iterator[None]:
        for count in (SMALL, LARGE):
            stored = torch.zeros(count, at.side, at.side, 3, dtype=torch.uint8)
            start = time.process_time()
            network_inputs(stored, Preprocessing(), self._base.memory_format)
            if counted and count == LARGE:
                at.input_ms.append((time.process_time() - start) * 1e3 / count)
            images = self._images(at.side, count)
            watch = Stopwatch(self._network, self._units)
            try:
                frozen = watch.frozen(images)
                if counted:
                    at.frozen[count].append(frozen)
                yield
            finally:
                watch.close()
            for way, kinds in _passes():
                with WAYS[way](self._network):
                    watch = Stopwatch(self._network, self._units)
                    try:
                        taken = watch.trained(images, self._names(TRAINING[kinds]))
                    finally:
                        watch.close()
                if counted:
                    at.trained[way, kinds, count].append(taken)
                yield

    def _names(self, kinds: Collection[TensorKind]) -> frozenset[str]:
        return frozenset(tensor.name for unit in self._units for tensor in unit.tensors if tensor.kind in kinds)

    def _costs(self, at: _Resolution) -> ResolutionCosts:
        frozen = fitted(SMALL, [p.forward for p in at.frozen[SMALL]], LARGE, [p.forward for p in at.frozen[LARGE]])
        passes = {way: _PassCosts(at, way) for way in WAYS}
        return ResolutionCosts(
            resolution=at.side,
            images=LARGE,
            input_ms=sorted(at.input_ms)[len(at.input_ms) // 2],
            units=tuple(
                UnitCost(
                    name=unit.name,
                    frozen_ms=frozen[unit.name][0],
                    frozen_call_ms=frozen[unit.name][1],
                    frozen_transient_bytes=at.transient[unit.name],
                    output_bytes=at.outputs[unit.name],
                    plain=passes["plain"].of(unit),
                    lean=passes["lean"].of(unit) if "lean" in passes else None,
                )
                for unit in self._units
            ),
        )


class _PassCosts:
    """The costs of units run in one way, from all passes at one resolution."""

    def __init__(self, at: _Resolution, way: str) -> None:
        def of(kinds: str, part: str) -> dict[str, Fitted]:
            few, many = ([getattr(taken, part) for taken in at.trained[way, kinds, count]] for count in (SMALL, LARGE))
            return fitted(SMALL, few, LARGE, many)

        self._kept = {unit: kept for (name, unit), kept in at.kept.items() if name == way}
        self._forward, self._backward = of("norms", "forward"), of("nothing", "backward")
        self._shares = {path: image for path, (image, _) in _means(at.trained[way, "nothing", LARGE]).items()}
        self._places = at.trained[way, "nothing", LARGE][0].places
        nothing, norms = of("nothing", "work"), of("norms", "work")
        biases = of("biases", "work") if (way, "biases", LARGE) in at.trained else norms
        # Torch's own kernel computes the gradients of scale and bias together: there the bias alone costs as both do.
        self._bias = excess(biases, nothing)
        self._scale = excess(norms, biases)
        self._weight = excess(of("all", "work"), norms)

    def of(self, unit: Unit) -> PassCost:
        """One unit's."""
        kept = self._kept[unit.name]
        return PassCost(
            forward_ms=self._forward[unit.name][0],
            forward_call_ms=self._forward[unit.name][1],
            input_gradient_ms=self._backward[unit.name][0],
            input_gradient_call_ms=self._backward[unit.name][1],
            kept_bytes=kept.input_gradient,
            transient_bytes=kept.transient,
            tensors=tuple(
                TensorCost(
                    name=tensor.name,
                    kind=tensor.kind,
                    parameters=tensor.parameters,
                    gradient_ms=self._gradient(tensor, unit)[0],
                    gradient_call_ms=self._gradient(tensor, unit)[1],
                    kept_bytes=kept.beyond[tensor.name],
                    kept_beside_norms_bytes=kept.beside_norms[tensor.name],
                    reach_share=self._shares[tensor.layer],
                    reach_bytes=kept.reach[tensor.name],
                )
                for tensor in unit.tensors
            ),
        )

    def _gradient(self, tensor: TensorPart, unit: Unit) -> Fitted:
        """Of the work at its place, the part of one among the tensors of its kind."""
        if tensor.kind is TensorKind.OFFSET:  # computed along with the weight's
            return 0.0, 0.0
        place = self._places[tensor.layer]
        if tensor.kind in NORM:
            work = (self._scale if tensor.kind is TensorKind.SCALE else self._bias)[place]
            alike = sum(t.kind is tensor.kind and self._places[t.layer] == place for t in unit.tensors)
            return work[0] / alike, work[1] / alike
        work = self._weight[place]
        others = [t for t in unit.tensors if t.kind not in (*NORM, TensorKind.OFFSET)]
        alike = sum(self._places[t.layer] == place for t in others)
        return work[0] / alike, work[1] / alike


def _means(passes: list[Pass]) -> dict[str, Fitted]:
    return {path: (sum(p.shares[path] for p in passes) / len(passes), 0.0) for path in passes[0].shares}


def _passes() -> Iterator[tuple[str, str]]:
    for way in WAYS:
        for kinds in TRAINING:
            if way != "plain" or kinds != "biases":
                yield way, kinds


def measured_of(resolutions: Sequence[int]) -> tuple[int, ...]:
    """Those that are measured: all of three; of more the least, the greatest and the one nearest their mean pixels."""
    sides = sorted(set(resolutions))
    if len(sides) <= RESOLUTIONS_MEASURED:
        return tuple(sides)
    middle = (sides[0] ** 2 + sides[-1] ** 2) / 2
    return (sides[0], min(sides[1:-1], key=lambda side: abs(side**2 - middle)), sides[-1])


def measure_costs(
    base: Base,
    resolutions: Sequence[int],
    *,
    seconds: float = 45.0,
    should_stop: Stop = lambda: False,
    report: Report = lambda _: None,
) -> TrainingCosts | None:
    """What training `base` costs on this device with torch's present number of threads, at these resolutions.

    Takes about `seconds`, longer where three repeats of everything do. Returns None when asked to stop before the end.
    Raises BadInputError for a network that cannot be measured.
    """
    return Profiling(base, resolutions).run(seconds, should_stop, report)
