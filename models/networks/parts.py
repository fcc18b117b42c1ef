"""What patchd asks of any network: its final layer, its units in forward order, and the features before the head."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...policies.errors import BadInputError


def final_layer(network: nn.Module) -> str:
    """The path of the network's last linear layer, its head. Raises BadInputError when it has none."""
    found: list[str] = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not found:
        raise BadInputError(f"The network {type(network).__name__} has no linear layer that could be its head.")
    return found[-1]


def units_of(network: nn.Module) -> tuple[nn.Module, ...]:
    """The parts of a network in forward order, without the head: a training plan's `reach` is a share of these.

    A network may name them itself in `units`; else they are its children, those inside containers one by one.
    """
    named = getattr(network, "units", None)
    if named is not None:
        return tuple(named)
    head = network.get_submodule(final_layer(network))

    def flat(module: nn.Module) -> list[nn.Module]:
        children = [module] if not isinstance(module, nn.Sequential | nn.ModuleList) else list(module.children())
        return [child for child in children if child is not head]

    return tuple(unit for child in network.children() for unit in flat(child))


def unit_of(network: nn.Module, path: str) -> int:
    """The index of the unit that holds the module at `path`; what is in none of them, the head, counts as one more."""
    units = units_of(network)
    module = network.get_submodule(path)
    return next(
        (index for index, unit in enumerate(units) if any(module is part for part in unit.modules())), len(units)
    )


class _Reached(Exception):  # noqa: N818 - no error: it ends a forward pass that has given what was asked of it
    def __init__(self, features: Tensor) -> None:
        self.features = features


def features_of(network: nn.Module, inputs: Tensor) -> Tensor:
    """What reaches the head of `network` for `inputs` [N, 3, R, R]: features [N, F]."""

    def stop(_module: nn.Module, given: tuple[Any, ...]) -> None:
        raise _Reached(given[0])

    hook = network.get_submodule(final_layer(network)).register_forward_pre_hook(stop)
    try:
        network(inputs)
    except _Reached as reached:
        return reached.features
    finally:
        hook.remove()
    raise BadInputError(f"The network {type(network).__name__} answers without using its last linear layer.")


def can_start_at(network: nn.Module, first: int) -> bool:
    """Whether the network can be run from its unit `first` on, given what reaches that: any can from its head on."""
    return 0 < first <= len(units_of(network)) and (first == len(units_of(network)) or hasattr(network, "tail"))


def reaching(network: nn.Module, inputs: Tensor, first: int) -> Tensor:
    """What reaches unit `first` for `inputs` [N, 3, R, R]; features [N, F] where that is the head.

    Wants `can_start_at(network, first)`.
    """
    units = units_of(network)
    if first == len(units):
        return features_of(network, inputs)
    for unit in units[:first]:
        inputs = unit(inputs)
    return inputs


def starting_at(network: nn.Module, head: str, given: Tensor, first: int) -> Tensor:
    """Logits [N, C] of what `reaching` gave; `head` is the path of the final layer."""
    if first == len(units_of(network)):
        return network.get_submodule(head)(given)  # type: ignore[no-any-return]
    return network.tail(given, first)  # type: ignore[no-any-return, operator]
