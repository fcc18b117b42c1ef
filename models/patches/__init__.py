"""Patch kinds, one module each, and the patch itself: structure, tensors, file.

A kind says which tensors of a network belong to a patch of that kind, and which of them are trained. The kinds that
exist are scale-and-bias, head and a fraction of the base. The other kinds of the mission's first row (depthwise
filters, reduced convolutions, squeeze-and-excite, channel gating, added layers) become further modules here and
further entries of `KINDS`.
"""

from .kind import KINDS, Kind, kind_tensors, kind_trainable
from .patch import Patch, load_patch, read_metadata, save_patch

__all__ = ["KINDS", "Kind", "Patch", "kind_tensors", "kind_trainable", "load_patch", "read_metadata", "save_patch"]
