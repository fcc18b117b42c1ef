"""The frozen lower part of a rung's network: what it gives is computed once and reused, where the plan says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ..bases import Base
from ..networks import reaching
from .features import FeatureStore, KeptFeatures
from .inputs import PartInputs
from .scoring import Stop


class FrozenFeatures:
    """Features of the parts of one rung, from the units below `cut`. None are kept until `follow` names a cut."""

    def __init__(self, base: Base, store: FeatureStore, settings: str) -> None:
        """`settings` says in words all that shapes the network beside its tensors: kinds, options, preprocessing."""
        self._base, self._store, self._settings = base, store, settings
        self._images: dict[str, str] = {}  # digest of each part's images
        self._network = ""
        self._forgone = ""  # the network whose features there is no room for
        self._parts: dict[str, KeptFeatures] = {}
        self.cut: int | None = None

    def follow(self, cut: int | None, below: Mapping[str, Tensor]) -> None:
        """Features of the units below `cut` from now on, in which the patch has the tensors `below`; None: none.

        The files of another cut, or of other tensors, are removed when the new ones are begun.
        """
        network = "" if cut is None else self._digest(cut, below)
        if network != self._network:
            self._parts.clear()
        self._network = network
        self.cut = None if network == self._forgone else cut

    def forgo(self) -> None:
        """Keep no features of this cut and these tensors: there is no room for them."""
        self._forgone, self.cut = self._network, None
        self._parts.clear()

    def _digest(self, cut: int, below: Mapping[str, Tensor]) -> str:
        digest = hashlib.sha256(f"{self._base.hash} {cut} {self._settings}\n".encode())
        for name, tensor in sorted(below.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def ready(self, name: str) -> bool:
        """Whether the features of the part `name` are all there."""
        kept = self._parts.get(name)
        return kept is not None and kept.complete

    def compute(self, name: str, part: PartInputs, batch_size: int, should_yield: Stop) -> bool:
        """Run the frozen units over what is left of the part `name`, the patch being bound; False when ended before.

        Each call does one batch at least, and leaves what it has done on the disk. Raises StateError for want of room.
        """
        assert self.cut is not None
        count = len(part.classes)
        kept = self._parts.get(name)
        if kept is None:
            kept = self._parts[name] = self._open(name, part)
        try:
            while not kept.complete:
                start = kept.record.done
                kept.append(self._rows(part.inputs(start, min(count, start + batch_size))))
                if not kept.complete and should_yield():
                    return False
        finally:
            kept.save()
        return True

    def _open(self, name: str, part: PartInputs) -> KeptFeatures:
        if name not in self._images:
            self._images[name] = part.digest()
        digest = hashlib.sha256(f"{self._network} {self._images[name]}".encode()).hexdigest()
        self._store.keep_only(self._network)
        shape = tuple(self._rows(part.inputs(0, 1)).shape[1:])
        return self._store.open(self._network, name, digest, len(part.classes), shape)

    def _rows(self, inputs: Tensor) -> Tensor:
        assert self.cut is not None
        with torch.no_grad():
            features = reaching(self._base.network, inputs, self.cut)
        return features.permute(0, 2, 3, 1) if features.dim() == 4 else features

    def between(self, name: str, start: int, end: int) -> Tensor:
        """Features of images `start` to `end` of the part `name`, as unit `cut` takes them."""
        return self._given(self._parts[name].between(start, end))

    def chosen(self, name: str, indices: Tensor) -> Tensor:
        """Features of the images `indices` (int64 [n])."""
        return self._given(self._parts[name].chosen(indices))

    def _given(self, rows: Tensor) -> Tensor:
        # Rows are channels last, as most bases want them: then this costs nothing.
        return rows.permute(0, 3, 1, 2).contiguous(memory_format=self._base.memory_format) if rows.dim() == 4 else rows

    @property
    def bytes(self) -> int:
        """What they take of the disk."""
        return self._store.bytes
