"""Bytes that a unit keeps for its backward pass, and that live for a moment beside: counted, storage by storage.

Counted on one image: what a convolutional network keeps grows with the images. Scratch space inside a kernel is not
seen; the planner allows for it in its workspace.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...policies.training_costs import TensorKind
from .meter import address_of, kept_storages, tensors_of
from .profiling_layout import Unit, let_train

Module = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class KeptBytes:
    """Of one unit, per image; by name of tensor `reach`, `beyond` and `beside_norms` (see `TensorCost`)."""

    input_gradient: int
    transient: int
    reach: Mapping[str, int]
    beyond: Mapping[str, int]
    beside_norms: Mapping[str, int]


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the bytes of all storages that operators make, while they live."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        known = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._take(tensor, known)
        return out

    def _take(self, tensor: Tensor, known: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in known or key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._release, key, size)

    def _release(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _bytes(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _saved(unit: Unit, given: Tensor, constants: Collection[int]) -> int:
    """Bytes of what a forward pass of the unit keeps, each storage once, its output and `constants` not counted."""
    out, kept = kept_storages(lambda: unit.module(given))
    return sum(size for address, size in kept.items() if address not in constants and address != address_of(out))


def kept_bytes(unit: Unit, given: Tensor, network: nn.Module) -> KeptBytes:
    """Count for `given` [1, ...], the unit's input; who trains in `network` is left as: nothing."""
    constants = {address_of(tensor) for tensor in tensors_of(network)}
    wanted, plain = given.detach().clone(memory_format=torch.preserve_format).requires_grad_(), given.detach()
    let_train(network, ())
    base = _saved(unit, wanted, constants)
    norms = frozenset(tensor.name for tensor in unit.tensors if tensor.kind in (TensorKind.SCALE, TensorKind.BIAS))
    let_train(network, norms)
    with_norms = _saved(unit, wanted, constants)
    reach, beyond, beside = {}, {}, {}
    for tensor in unit.tensors:
        let_train(network, (tensor.name,))
        reach[tensor.name] = _saved(unit, plain, constants)
        beyond[tensor.name] = max(0, _saved(unit, wanted, constants) - base)
        let_train(network, norms | {tensor.name})
        own = tensor.name in norms
        beside[tensor.name] = beyond[tensor.name] if own else max(0, _saved(unit, wanted, constants) - with_norms)
    let_train(network, ())
    with _Live() as live:
        out = unit.module(wanted)
        gradient = torch.ones_like(out)
        out.backward(gradient)
    wanted.grad = None
    return KeptBytes(base, max(0, live.most + _bytes(given) - _bytes(out) - base), reach, beyond, beside)


def frozen_transient_bytes(unit: Unit, given: Tensor) -> int:
    """The most that lives at any moment of a forward pass without a graph, input and output counted."""
    with torch.no_grad(), _Live() as live:
        unit.module(given)
    most: int = live.most + _bytes(given)
    return most
