"""Where the time of a pass goes: forward of each unit, and what the backward pass spends on each layer.

Timed on passes of the whole network, as they run in training, in processor time of all threads. Gradients come to the
layers one after the other: a hook on each layer's output notes when its own has come, and what lies between two such
moments is the work of the layer in between.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from .profiling_layout import Unit, let_train

Moments = dict[str, float]
Fitted = tuple[float, float]  # milliseconds an image, milliseconds a pass


@dataclass(slots=True)
class Pass:
    """One pass, milliseconds: forward and input gradient by unit, the work of the backward pass by place in a unit.

    A place is a layer, or the module around several where these run as one. `places` tells the place of each layer, and
    `shares` which part of its unit's input gradient comes before that place.
    """

    forward: Moments = field(default_factory=dict)
    backward: Moments = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    shares: Moments = field(default_factory=dict)
    work: Moments = field(default_factory=dict)


class Stopwatch:
    """Times passes of one network. `close` takes the hooks off again."""

    def __init__(self, network: nn.Module, units: tuple[Unit, ...]) -> None:
        self._network, self._units = network, units
        self._begun: Moments = {}
        self._forward: Moments = {}
        self._came: Moments = {}
        self._hooks = []
        for unit in units:
            self._hooks.append(unit.module.register_forward_pre_hook(partial(self._begin, unit.name)))
            for path, module in unit.module.named_modules(prefix=unit.name):
                if module is not unit.module:
                    self._hooks.append(module.register_forward_hook(partial(self._watch, path)))
            self._hooks.append(unit.module.register_forward_hook(partial(self._end, unit.name)))

    def close(self) -> None:
        """Take the hooks off."""
        for hook in self._hooks:
            hook.remove()

    def frozen(self, images: Tensor) -> Pass:
        """A forward pass without a graph."""
        with torch.no_grad():
            self._network(images)
        return Pass(forward=dict(self._forward))

    def trained(self, images: Tensor, names: Collection[str]) -> Pass:
        """Forward and backward down to the images, with the tensors of these names training."""
        let_train(self._network, names)
        out = self._network(images.requires_grad_())
        loss = nn.functional.cross_entropy(out, torch.zeros(len(images), dtype=torch.int64))
        self._came.clear()
        loss.backward()  # type: ignore[no-untyped-call]
        ended = _now()
        images.requires_grad_(False)
        images.grad = None
        let_train(self._network, ())
        return self._pass(ended)

    def _pass(self, ended: float) -> Pass:
        taken = Pass(forward=dict(self._forward))
        for unit, below in zip(self._units, (None, *self._units), strict=False):
            start = self._came[unit.name]
            stop = ended if below is None else self._came[below.name]
            taken.backward[unit.name] = stop - start
            places = {path: self._place(unit, path) for path in unit.layers}
            came = sorted((self._came[place], place) for place in set(places.values()))
            for (moment, place), (after, _) in zip(came, (*came[1:], (stop, "")), strict=True):
                taken.work[place] = after - moment
            for path, place in places.items():
                taken.shares[path] = min(1.0, max(0.0, (self._came[place] - start) / max(1e-9, stop - start)))
            taken.places |= places
        return taken

    def _place(self, unit: Unit, path: str) -> str:
        """The layer itself, or what is around it where the layer was not called by itself."""
        while path not in self._came and path != unit.name:
            path = path.rpartition(".")[0]
        return path

    def _begin(self, name: str, _module: nn.Module, _given: Any) -> None:
        self._begun[name] = _now()

    def _end(self, name: str, _module: nn.Module, _given: Any, out: Tensor) -> None:
        self._forward[name] = _now() - self._begun[name]
        self._watch(name, _module, _given, out)

    def _watch(self, key: str, _module: nn.Module, _given: Any, out: Tensor) -> None:
        if out.requires_grad:
            out.register_hook(partial(self._note, key))  # type: ignore[no-untyped-call]

    def _note(self, key: str, _gradient: Tensor) -> None:
        self._came[key] = _now()


def _now() -> float:
    """Processor time of all threads, milliseconds."""
    return time.process_time() * 1e3


def fitted(small: int, few: list[Moments], large: int, many: list[Moments]) -> dict[str, Fitted]:
    """Milliseconds an image and a pass, from the medians of passes of `small` and of `large` images."""
    return {key: line(small, _middle(few, key), large, _middle(many, key)) for key in many[0]}


def line(small: int, few: float, large: int, many: float) -> Fitted:
    """The line through two points, neither of its parts below zero: work does not shrink with images."""
    image = (many - few) / (large - small)
    call = few - image * small
    if image < 0:
        return 0.0, max(0.0, many)
    return (image, call) if call >= 0 else (max(0.0, many / large), 0.0)


def _middle(taken: list[Moments], key: str) -> float:
    return median(one[key] for one in taken)


def excess(more: Mapping[str, Fitted], less: Mapping[str, Fitted]) -> dict[str, Fitted]:
    """By place what `more` takes beyond `less`, with the sum over all places kept.

    Differences of small times come out negative now and then; set to zero they would make the sum too large.
    """
    out: list[dict[str, float]] = []
    for part in (0, 1):
        raw = {key: more[key][part] - less[key][part] for key in more}
        positive = {key: max(0.0, value) for key, value in raw.items()}
        total, kept = max(0.0, sum(raw.values())), sum(positive.values())
        out.append({key: value * total / kept if kept > 0 else 0.0 for key, value in positive.items()})
    return {key: (out[0][key], out[1][key]) for key in more}
