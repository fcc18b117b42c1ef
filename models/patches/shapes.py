"""Look up a parameter or buffer of a network by its dotted name, and the modules that a pattern names."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

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


def copy_of(network: nn.Module, name: str) -> Tensor:
    """A copy of `tensor_of(network, name)`, in the same memory format."""
    return tensor_of(network, name).detach().clone()


def matching(network: nn.Module, where: str) -> Iterator[tuple[str, nn.Module]]:
    """The modules of `network` whose path fits one of the comma-separated patterns of `where`, in forward order."""
    patterns = [pattern.strip() for pattern in where.split(",")]
    for path, module in network.named_modules():
        if any(fnmatchcase(path, pattern) for pattern in patterns):
            yield path, module


def join(path: str, leaf: str) -> str:
    """The name of a tensor of the module at `path`."""
    return f"{path}.{leaf}" if path else leaf
