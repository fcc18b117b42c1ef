"""Any base as an OpenVINO graph, traced by torch.fx, with the affine part of every normalisation an input of it.

A batch normalisation in eval mode is a multiply-add a channel: y = s x + t with s = weight / sqrt(var + eps) and
t = bias - mean s. Group and layer normalisation end in one too. The graph takes s and t of all normalisations as one
input [1, 2, C_total], so that a patch is a row of numbers and swapping it costs nothing. It ends at the features
before the head, which is each patch's own.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, fx, nn

from ..policies.errors import UnavailableError
from .networks import final_layer
from .networks.efficientnet_lite import SameConv2d
from .tracing import BATCH_NORMS, NORMS, trace

Row = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Arrays = dict[str, Row]


def _norms(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """The normalisations that scale and shift their channels, with their names, in forward order."""
    return [
        (name, module)
        for name, module in network.named_modules()
        if type(module) in NORMS and getattr(module, "weight", None) is not None
    ]


@dataclass(frozen=True, slots=True)
class AffinePart:
    """What a network's normalisations scale and shift by, remembered so that the network itself is not looked at."""

    norms: tuple[tuple[str, float | None, Mapping[str, Tensor]], ...]  # name, eps of batch normalisations, tensors

    @classmethod
    def of(cls, network: nn.Module) -> AffinePart:
        """That of a network to which no patch is bound; or of one with a patch, then it is the patch's."""
        return cls(
            tuple(
                (name, float(norm.eps) if isinstance(norm, BATCH_NORMS) else None, dict(norm.state_dict()))
                for name, norm in _norms(network)
            )
        )

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors that a row is made of."""
        return frozenset(f"{name}.{leaf}" for name, _, own in self.norms for leaf in own)

    def row(self, tensors: Mapping[str, Tensor]) -> Row:
        """Scale and shift of all normalisations [1, 2, C_total], `tensors` standing in for the network's own."""
        scales, shifts = [], []
        for name, eps, own in self.norms:
            mine = {leaf: tensors.get(f"{name}.{leaf}", tensor).double() for leaf, tensor in own.items()}
            scale, shift = mine["weight"], mine["bias"]
            if eps is not None:
                scale = scale / torch.sqrt(mine["running_var"] + eps)
                shift = shift - mine["running_mean"] * scale
            scales.append(scale)
            shifts.append(shift)
        if not scales:
            return np.zeros((1, 2, 0), np.float32)
        row = torch.stack([torch.cat(scales), torch.cat(shifts)]).unsqueeze(0).float()
        return np.ascontiguousarray(row.detach().numpy())


def affine_row(network: nn.Module, tensors: Mapping[str, Tensor]) -> Row:
    """The row of a network's normalisations, `tensors` standing in for its own: see `AffinePart.row`."""
    return AffinePart.of(network).row(tensors)


def graph(network: nn.Module, side: int, arrays: Arrays, row: Row | None = None) -> Any:
    """The network up to the features before its head as an OpenVINO model for one image.

    Inputs: image float32 [1, 3, side, side] and affine float32 [1, 2, C_total]. Output: features [1, F]. `arrays`
    keeps the filters by name: they are not copied and must live as long as what is compiled of the graph; graphs of
    one network share them. With a `row` the second input is that constant: a graph of one patch alone.
    Raises UnavailableError, naming it, for a part of the network that has no translation.
    """
    import openvino

    translation = _Translation(network, arrays)
    image = translation.ops.parameter([1, 3, side, side], np.float32, name="image")
    width = sum(_channels(norm) for _, norm in _norms(network))
    given = translation.ops.parameter([1, 2, width], np.float32, name="affine")
    features = translation.features(image, given if row is None else translation.ops.constant(row))
    return openvino.Model([features], [image, given] if row is None else [image], "features")


def _channels(norm: nn.Module) -> int:
    return int(norm.weight.numel())  # type: ignore[operator]


class _Translation:
    """One walk over a traced network. Values are OpenVINO nodes, or whatever Python holds while no image is in it."""

    def __init__(self, network: nn.Module, arrays: Arrays) -> None:
        from openvino import opset15

        self.ops = opset15
        self._network, self._arrays = network, arrays
        self._scales: dict[int, Any] = {}
        self._shifts: dict[int, Any] = {}

    def features(self, image: Any, affine: Any) -> Any:
        """What reaches the head for `image`."""
        self._split(affine)
        traced = trace(self._network)
        values: dict[fx.Node, Any] = {}
        head = final_layer(self._network)
        for node in traced.nodes:
            if node.op == "placeholder":
                values[node] = image
                continue
            if node.op == "output":
                break
            args, kwargs = (fx.node.map_arg(part, values.__getitem__) for part in (node.args, node.kwargs))
            if node.op == "call_module" and node.target == head:
                return args[0]
            values[node] = self._value(node, args, kwargs)
        raise UnavailableError(f"The network {type(self._network).__name__} answers without using its last layer.")

    def _split(self, affine: Any) -> None:
        """One [C] vector of scales and one of shifts for each normalisation, by its identity."""
        ops, found = self.ops, [norm for _, norm in _norms(self._network)]
        if not found:
            return
        lengths = ops.constant(np.array([_channels(norm) for norm in found]))
        for half, kept in zip(
            ops.split(affine, self._index(1), 2).outputs(), (self._scales, self._shifts), strict=True
        ):
            flat = ops.reshape(half, self._index([-1]), special_zero=False)
            pieces = ops.variadic_split(flat, self._index(0), lengths).outputs()
            kept.update({id(norm): piece for norm, piece in zip(found, pieces, strict=True)})

    def _value(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "get_attr":
            module, _, leaf = str(node.target).rpartition(".")
            return getattr(self._network.get_submodule(module), leaf)
        if node.op == "call_module":
            return self._module(str(node.target), self._network.get_submodule(str(node.target)), *args)
        if not any(_is_node(part) for part in _flat((args, kwargs))):
            return _python(node, args, kwargs)
        name = node.target if isinstance(node.target, str) else _FUNCTIONS.get(node.target)
        translate = getattr(self, f"_{name}", None)
        if translate is None:
            raise UnavailableError(f"There is no translation of '{node.target}' for OpenVINO.")
        return translate(*args, **kwargs)

    # modules

    def _module(self, name: str, module: nn.Module, x: Any) -> Any:
        kind = type(module)
        if kind in (nn.Conv2d, SameConv2d):
            return self._conv(name, module, x)
        if kind in BATCH_NORMS:
            return self._scaled(module, x, 1)
        if kind is nn.GroupNorm:
            return self._scaled(module, self._grouped(module, x), 1)
        if kind is nn.LayerNorm:
            return self._scaled(module, self._layer_normed(module, x), len(x.shape) - 1)
        if kind is nn.Linear:
            return self._linear(name, module, x)
        if kind in (nn.Identity, nn.Dropout):
            return x
        if kind in (nn.ReLU, nn.ReLU6, nn.Sigmoid):
            return getattr(self, f"_{kind.__name__.lower()}")(x)
        raise UnavailableError(f"There is no translation of the module '{name}' ({kind.__name__}) for OpenVINO.")

    def _conv(self, name: str, conv: Any, x: Any) -> Any:
        ops, weight = self.ops, self._filter(f"{name}.weight", conv.weight, conv.groups)
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise UnavailableError(f"There is no translation of the padding of '{name}' for OpenVINO.")
        pads, rule = list(conv.padding), "SAME_UPPER" if type(conv) is SameConv2d else "EXPLICIT"
        convolve = ops.convolution if conv.groups == 1 else ops.group_convolution
        y = convolve(x, weight, list(conv.stride), pads, pads, list(conv.dilation), rule)
        return y if conv.bias is None else ops.add(y, self._along(self._node(conv.bias), 4, 1))

    def _linear(self, name: str, linear: Any, x: Any) -> Any:
        y = self.ops.matmul(x, self._filter(f"{name}.weight", linear.weight), False, True)
        return y if linear.bias is None else self.ops.add(y, self._node(linear.bias))

    def _scaled(self, norm: nn.Module, x: Any, axis: int) -> Any:
        if id(norm) not in self._scales:
            return x
        rank = len(x.shape)
        scale, shift = (self._along(part[id(norm)], rank, axis) for part in (self._scales, self._shifts))
        return self.ops.add(self.ops.multiply(x, scale), shift)

    def _grouped(self, norm: Any, x: Any) -> Any:
        """Each group of channels brought to mean 0 and deviation 1."""
        shape, ops = list(x.shape), self.ops
        apart = ops.reshape(x, self._index([shape[0], norm.num_groups, -1]), special_zero=False)
        normed = ops.mvn(apart, self._index([2]), True, norm.eps, "inside_sqrt")
        return ops.reshape(normed, self._index(shape), special_zero=False)

    def _layer_normed(self, norm: Any, x: Any) -> Any:
        if len(norm.normalized_shape) != 1:
            raise UnavailableError("There is no translation of a layer normalisation over several axes for OpenVINO.")
        return self.ops.mvn(x, self._index([len(x.shape) - 1]), True, norm.eps, "inside_sqrt")

    # functions and methods, called by name

    def _add(self, a: Any, b: Any) -> Any:
        return self.ops.add(self._node(a), self._node(b))

    def _sub(self, a: Any, b: Any) -> Any:
        return self.ops.subtract(self._node(a), self._node(b))

    def _mul(self, a: Any, b: Any) -> Any:
        return self.ops.multiply(self._node(a), self._node(b))

    def _matmul(self, a: Any, b: Any) -> Any:
        return self.ops.matmul(self._node(a), self._node(b), False, False)

    def _relu(self, x: Any, inplace: bool = False) -> Any:  # noqa: ARG002
        return self.ops.relu(x)

    def _relu6(self, x: Any, inplace: bool = False) -> Any:  # noqa: ARG002
        return self.ops.clamp(x, 0.0, 6.0)

    def _sigmoid(self, x: Any) -> Any:
        return self.ops.sigmoid(x)

    def _softmax(self, x: Any, dim: int, dtype: None = None) -> Any:  # noqa: ARG002
        return self.ops.softmax(x, dim % len(x.shape))

    def _mean(self, x: Any, dim: int | Sequence[int], keepdim: bool = False) -> Any:
        axes = [dim] if isinstance(dim, int) else list(dim)
        return self.ops.reduce_mean(x, self._index([axis % len(x.shape) for axis in axes]), keepdim)

    def _adaptive_avg_pool2d(self, x: Any, size: Sequence[int]) -> Any:
        return self.ops.adaptive_avg_pool(x, self._index([int(side) for side in size]))

    def _interpolate(self, x: Any, size: Sequence[int], mode: str, **other: Any) -> Any:
        if mode != "bilinear" or any(other.values()):
            raise UnavailableError(f"There is no translation of the interpolation '{mode}' for OpenVINO.")
        wanted = self._index([int(side) for side in size])
        return self.ops.interpolate(x, wanted, "linear_onnx", "sizes", axes=self._index([2, 3]))

    def _cat(self, parts: Sequence[Any], dim: int = 0) -> Any:
        return self.ops.concat([self._node(part) for part in parts], dim)

    def _flatten(self, x: Any, start_dim: int = 0) -> Any:
        return self._reshape(x, [*list(x.shape)[:start_dim], -1])

    def _transpose(self, x: Any, first: int, second: int) -> Any:
        order = list(range(len(x.shape)))
        order[first], order[second] = order[second], order[first]
        return self.ops.transpose(x, self._index(order))

    def _reshape(self, x: Any, *shape: Any) -> Any:
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], list | tuple) else shape
        return self.ops.reshape(x, self._index(list(wanted)), special_zero=False)

    def _chunk(self, x: Any, chunks: int, dim: int = 0) -> list[Any]:
        return list(self.ops.split(x, self._index(dim % len(x.shape)), chunks).outputs())

    def _contiguous(self, x: Any) -> Any:
        return x

    def _getattr(self, x: Any, name: str) -> Any:
        if name != "shape":
            raise UnavailableError(f"There is no translation of the attribute '{name}' for OpenVINO.")
        return tuple(x.shape)

    def _getitem(self, x: Any, index: Any) -> Any:
        """`x[:, :, None]` and the like: new axes only; and a part of what was split."""
        if isinstance(x, list | tuple):
            return x[index]
        parts = index if isinstance(index, tuple) else (index,)
        if not all(part is None or part == slice(None) for part in parts):
            raise UnavailableError(f"There is no translation of the index {index} for OpenVINO.")
        new = [axis for axis, part in enumerate(parts) if part is None]
        return self.ops.unsqueeze(x, self._index(new))

    # constants

    def _filter(self, name: str, weight: Tensor, groups: int = 1) -> Any:
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = weight.detach().contiguous().numpy()
        shaped = array if groups == 1 else array.reshape(groups, -1, *array.shape[1:])
        return self.ops.constant(shaped, shared_memory=True)

    def _node(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.ops.constant(value.detach().contiguous().float().numpy())
        return value if _is_node(value) else self.ops.constant(np.float32(value))

    def _index(self, value: int | Sequence[int]) -> Any:
        return self.ops.constant(np.array(value, dtype=np.int64))

    def _along(self, vector: Any, rank: int, axis: int) -> Any:
        """A [C] vector as a tensor of `rank` axes that lies along one of them."""
        shape = [-1 if place == axis else 1 for place in range(rank)]
        return self.ops.reshape(vector, self._index(shape), special_zero=False)


_FUNCTIONS: Mapping[Callable[..., Any], str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.sub: "sub",
    torch.sub: "sub",
    operator.mul: "mul",
    operator.imul: "mul",
    torch.mul: "mul",
    operator.matmul: "matmul",
    torch.matmul: "matmul",
    torch.relu: "relu",
    F.relu: "relu",
    F.relu6: "relu6",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    torch.softmax: "softmax",
    F.softmax: "softmax",
    torch.mean: "mean",
    torch.cat: "cat",
    torch.flatten: "flatten",
    F.adaptive_avg_pool2d: "adaptive_avg_pool2d",
    F.interpolate: "interpolate",
    torch.transpose: "transpose",
    getattr: "getattr",
    operator.getitem: "getitem",
}


def _is_node(value: Any) -> bool:
    return type(value).__module__.startswith("openvino")


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in _flat(part)]
    return _flat(list(value.values())) if isinstance(value, dict) else [value]


def _python(node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a node without an image in it computes, as torch and Python do it."""
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)
