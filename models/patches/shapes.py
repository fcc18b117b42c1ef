"""Look up a parameter or buffer of a network by its dotted name."""

from __future__ import annotations

from torch import Tensor, nn


def tensor_of(network: nn.Module, name: str) -> Tensor:
    """The parameter or buffer called `name`. Raises KeyError when the network has none of that name."""
    path, _, leaf = name.rpartition(".")
    try:
        module = network.get_submodule(path)
    except AttributeError:
        raise KeyError(name) from None
    for tensors in (module._parameters, module._buffers):
        tensor = tensors.get(leaf)
        if tensor is not None:
            return tensor
    raise KeyError(name)


def shape_of(network: nn.Module, name: str) -> tuple[int, ...]:
    """The shape of `tensor_of(network, name)`."""
    return tuple(tensor_of(network, name).shape)
