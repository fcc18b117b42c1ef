"""How much memory a forward pass keeps for its backward pass, counted tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


def kept_bytes(forward: Callable[[], Tensor], resident: Iterable[Tensor]) -> int:
    """Bytes that what `forward` gives holds for its backward pass, beside the `resident` tensors, which stay anyway.

    Every storage counts once and whole, however many operations or views refer to it, as an activation in place and
    the operation before it do. What an operation gives without anyone needing it later does not count.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in resident}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # held by the graph, so that no later storage gets its address

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result
    return sum(kept.values())


def tensors_of(network: nn.Module) -> Iterable[Tensor]:
    """The parameters and buffers of a network, those of a patch that is bound to it included."""
    return chain(network.parameters(), network.buffers())
