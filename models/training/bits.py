"""One bit for an element: where a rectifier lets the gradient through, in place of the floats that it gave."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def is_dense(x: Tensor) -> bool:
    """Whether the elements of a float tensor lie side by side in memory, so that one vector goes through them all."""
    whole = x.is_contiguous() or (x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last))
    return whole and x.dtype in _INTEGERS


def pack_open(y: Tensor, ceiling: float) -> Tensor:
    """Where 0 < y < ceiling: uint8 [numel / 8, rounded up], bit by bit in the order of memory. `y` is dense.

    Floats compare as the integers of the same bits do, from 0 upwards; numpy compares those in a third of the time.
    """
    integer = _INTEGERS[y.dtype]
    bits = _flat(y.detach()).view(integer).numpy()
    opened = np.greater(bits, 0)
    if ceiling < math.inf:
        highest = int(torch.tensor(ceiling, dtype=y.dtype).view(integer))
        np.logical_and(opened, np.less(bits, highest), out=opened)
    return torch.from_numpy(np.packbits(opened, bitorder="little"))


def where_open(packed: Tensor, gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    """`gradient` where the bits are set and zero elsewhere: a new tensor with the strides of what was packed."""
    opened = _table(gradient.dtype).index_select(0, packed.int()).view(-1)
    return opened.as_strided(gradient.shape, strides).mul_(gradient)


def _flat(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,), x.storage_offset())


@cache
def _table(dtype: torch.dtype) -> Tensor:
    """The eight bits of each byte as numbers [256, 8]."""
    return torch.tensor([[byte >> place & 1 for place in range(8)] for byte in range(256)], dtype=dtype)
