"""Patches whose every tensor differs from where training starts, so that nothing of them is an identity."""

from __future__ import annotations

import torch
from networks import SIDE
from patchd.models.bases import Base
from patchd.models.patches import Patch, make_kinds
from patchd.policies.task import KindOptions, PatchKind, PatchMetadata, Preprocessing
from torch import Tensor


def moved(base: Base, kinds: tuple[PatchKind, ...], options: dict[PatchKind, KindOptions] | None = None) -> Patch:
    """A patch of these kinds no tensor of which is where training starts."""
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    classes = base.classes
    for kind in make_kinds(kinds, options or {}):
        for name, tensor in kind.start(base.network, classes).items():
            noise = torch.randn(tensor.shape, generator=generator).clamp(-2, 2)
            tensors[name] = tensor * (1 + 0.05 * noise) + (0.02 * noise if not name.endswith("running_var") else 0.0)
    metadata = PatchMetadata(
        base=base.name, base_hash=base.hash, task="t", labels=tuple(map(str, range(classes))), kinds=kinds,
        options=options or {}, resolution=SIDE, preprocessing=Preprocessing(), parameters=1,
        base_parameters=base.parameters_count, created_s=0.0,
    )  # fmt: skip
    return Patch(metadata, tensors)
