"""Patch kinds, one module each, and the patch itself: structure, tensors, file.

A kind says which tensors of a network belong to a patch of that kind, which of them are trained, and which layers
it adds. Kinds work on any `nn.Module`: they find their layers by module type and by name pattern.
"""

from .kind import Kind
from .kinds import check_useful, make_kind, make_kinds, owners, trainable
from .patch import Patch, load_patch, read_metadata, save_patch

__all__ = [
    "Kind",
    "Patch",
    "check_useful",
    "load_patch",
    "make_kind",
    "make_kinds",
    "owners",
    "read_metadata",
    "save_patch",
    "trainable",
]
