"""A base with at most one patch bound to it, by swapping tensors and modules in the modules' tables.

Nothing of the base is ever written: binding puts the patch's tensors and layers where the base's stood, removing puts
the base's own objects back. So a removed patch leaves every bit and every storage as it was, and swapping costs
microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..policies.errors import PatchMismatchError
from .bases import Base
from .patches.kind import Kind
from .patches.kinds import make_kinds
from .patches.patch import Patch


@dataclass(frozen=True, slots=True)
class _Slot:
    """One place where a tensor or a module stands: a module's table of such, and the key in it."""

    table: dict[str, Any]
    key: str
    base: Tensor | nn.Module
    patch: Tensor | nn.Module


_Layers = dict[tuple[str, str], dict[str, nn.Parameter]]  # (site, kind): the added layer's parameters


class PatchedNetwork:
    """Binds patches to one base. Not safe for use from several threads at once.

    Patches must fit the base (`check_fits`); `load_patch(path, base)` has checked that already. Bound parameters are
    new `nn.Parameter` objects over the patch's own storage, without gradient unless the caller asks for it.
    """

    def __init__(self, base: Base) -> None:
        self.base = base
        self.network = base.network
        self._active: Patch | None = None
        self._bound: tuple[_Slot, ...] = ()
        self._prepared: WeakKeyDictionary[Patch, tuple[_Slot, ...]] = WeakKeyDictionary()

    @property
    def active(self) -> Patch | None:
        """The patch in force; None is the base as it is."""
        return self._active

    def apply(self, patch: Patch) -> None:
        """Bind `patch` in place of whatever was bound. Raises PatchMismatchError when a tensor has no place."""
        if patch is self._active:
            return
        slots = self._prepared.get(patch)
        self.remove()  # the base's own tensors must be in place to be remembered
        if slots is None:
            slots = self._prepared[patch] = self._prepare(
                patch.tensors, make_kinds(patch.metadata.kinds, patch.metadata.options)
            )
        self._bind(slots)
        self._active = patch

    def bind(self, tensors: Mapping[str, Tensor], kinds: Sequence[Kind]) -> None:
        """Bind tensors that are no patch yet: the parameters of one of these kinds in training. `active` stays None."""
        self.remove()
        self._bind(self._prepare(tensors, kinds))

    def _bind(self, slots: tuple[_Slot, ...]) -> None:
        for slot in slots:
            slot.table[slot.key] = slot.patch
        self._bound = slots

    def remove(self) -> None:
        """Put the base's own tensors back. Does nothing when no patch is bound."""
        for slot in self._bound:
            slot.table[slot.key] = slot.base
        self._bound, self._active = (), None

    @contextmanager
    def patched(self, patch: Patch | None) -> Iterator[nn.Module]:
        """Bind `patch` (None: no patch) for the body, then restore what was bound before."""
        before = self._active
        self._switch(patch)
        try:
            yield self.network
        finally:
            self._switch(before)

    def _switch(self, patch: Patch | None) -> None:
        if patch is None:
            self.remove()
        else:
            self.apply(patch)

    def _prepare(self, tensors: Mapping[str, Tensor], kinds: Sequence[Kind]) -> tuple[_Slot, ...]:
        """Where each tensor and each joined module goes, the network being without a patch."""
        modules = dict(self.network.named_modules())
        slots = []
        layers: _Layers = {}
        for name, tensor in tensors.items():
            bound = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            if ":" in name:  # site:kind.leaf, a tensor of an added layer
                site, _, rest = name.partition(":")
                kind, _, leaf = rest.partition(".")
                layers.setdefault((site, kind), {})[leaf] = bound
                continue
            path, _, leaf = name.rpartition(".")
            module = modules.get(path)
            if module is not None and module._parameters.get(leaf) is not None:
                slots.append(_Slot(module._parameters, leaf, module.get_parameter(leaf), bound))
            elif module is not None and module._buffers.get(leaf) is not None:
                slots.append(_Slot(module._buffers, leaf, module.get_buffer(leaf), tensor))
            else:
                raise PatchMismatchError(f"The base has no tensor '{name}' that the patch could take the place of.")
        return (*slots, *self._joined(layers, kinds, modules))

    def _joined(self, layers: _Layers, kinds: Sequence[Kind], modules: Mapping[str, nn.Module]) -> list[_Slot]:
        """One slot for each module that layers are joined to, several kinds one around the other."""
        standing: dict[str, nn.Module] = {}
        for kind in kinds:
            for site in kind.sites(self.network):
                with torch.device("meta"):
                    layer = kind.skeleton(modules[site])
                _give(layer, layers.get((site, kind.kind), {}), f"{site}:{kind.kind}")
                standing[site] = kind.joined(standing.get(site, modules[site]), layer).eval()
        slots = []
        for site, module in standing.items():
            path, _, leaf = site.rpartition(".")
            slots.append(_Slot(modules[path]._modules, leaf, modules[site], module))
        return slots


def _give(layer: nn.Module, values: Mapping[str, nn.Parameter], name: str) -> None:
    """Put a skeleton's parameters in place. Raises PatchMismatchError when one is missing."""
    for leaf, _ in list(layer.named_parameters()):
        if leaf not in values:
            raise PatchMismatchError(f"The patch lacks tensor '{name}.{leaf}' of a layer that it adds.")
        path, _, last = leaf.rpartition(".")
        layer.get_submodule(path)._parameters[last] = values[leaf]
