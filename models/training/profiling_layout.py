"""The parts of a network that training costs are told by: units in forward order, and the tensors in each."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ...policies.errors import BadInputError
from ...policies.training_costs import TensorKind
from ..networks import units_of
from ..patches.depthwise import is_depthwise
from ..patches.scale_bias import NORMS
from ..patches.shapes import join


@dataclass(frozen=True, slots=True)
class TensorPart:
    """A parameter of the base: its name, what it is, and the path of the layer that holds it."""

    name: str
    kind: TensorKind
    parameters: int
    layer: str


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit with the layers in it that hold parameters, by path, and those parameters, in the network's order."""

    name: str
    module: nn.Module
    layers: dict[str, nn.Module]
    tensors: tuple[TensorPart, ...]


def layout(network: nn.Module) -> tuple[Unit, ...]:
    """The units of a network. Raises BadInputError when it has none."""
    paths = {id(module): path for path, module in network.named_modules()}
    units = tuple(_unit(paths[id(module)], module) for module in units_of(network))
    if not units:
        raise BadInputError(f"The network {type(network).__name__} has nothing below its head that could be measured.")
    return units


def _unit(path: str, unit: nn.Module) -> Unit:
    layers = {
        join(path, inner) if inner else path: module
        for inner, module in unit.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    }
    tensors = tuple(
        TensorPart(join(layer, leaf), _kind(module, leaf), parameter.numel(), layer)
        for layer, module in layers.items()
        for leaf, parameter in module.named_parameters(recurse=False)
    )
    return Unit(path, unit, layers, tensors)


def _kind(module: nn.Module, leaf: str) -> TensorKind:
    if isinstance(module, NORMS):
        return TensorKind.SCALE if leaf == "weight" else TensorKind.BIAS
    if isinstance(module, _ConvNd):
        if leaf == "bias":
            return TensorKind.OFFSET
        return TensorKind.DEPTHWISE if is_depthwise(module) else TensorKind.WEIGHT
    return TensorKind.OTHER


def let_train(network: nn.Module, names: Collection[str]) -> None:
    """Let the parameters of these names train, and no others; their gradients are dropped."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in names)
        parameter.grad = None


def inputs_of(network: nn.Module, units: tuple[Unit, ...], images: Tensor) -> list[Tensor]:
    """What reaches each unit for `images`. Raises BadInputError for a unit of more than one input."""
    seen: list[Tensor] = []

    def note(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given) != 1:
            raise BadInputError("A unit of the network takes more than one input; its costs cannot be measured.")
        seen.append(given[0].detach().clone())

    hooks = [unit.module.register_forward_pre_hook(note) for unit in units]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
