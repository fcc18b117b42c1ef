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
    known = {address_of(tensor) for tensor in resident}
    _, kept = kept_storages(forward)
    return sum(size for address, size in kept.items() if address not in known)


def kept_storages(forward: Callable[[], Tensor]) -> tuple[Tensor, dict[int, int]]:
    """What `forward` gives, and the bytes of every storage that this holds for its backward pass, by address."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[address_of(tensor)] = tensor.untyped_storage().nbytes()
        return tensor  # held by the graph, so that no later storage gets its address

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    return result, kept


def address_of(tensor: Tensor) -> int:
    """Where the memory begins that a tensor, or what it is a view of, lies in."""
    return tensor.untyped_storage().data_ptr()


def tensors_of(network: nn.Module) -> Iterable[Tensor]:
    """The parameters and buffers of a network, those of a patch that is bound to it included."""
    return chain(network.parameters(), network.buffers())
