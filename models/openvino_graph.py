"""The base as an OpenVINO graph, with every normalisation an input of it.

A batch normalisation in eval mode is a multiply-add a channel: y = s x + t with s = weight / sqrt(var + eps) and
t = bias - mean s. The graph takes s and t of all its normalisations as one input [1, 2, C_total], so that a patch is a
row of numbers and swapping it costs nothing. It ends at the pooled features; the classifier is the patch's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .networks.efficientnet_lite import ConvNorm, EfficientNetLite, InvertedResidual

Row = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Filters = Mapping[str, Row]


def _norms(network: nn.Module) -> list[tuple[str, nn.BatchNorm2d]]:
    """The batch normalisations of a network with their names, in forward order."""
    return [(name, module) for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]


def affine_row(network: nn.Module, tensors: Mapping[str, Tensor]) -> Row:
    """Scale and shift of all normalisations [1, 2, C_total], `tensors` standing in for the network's own."""
    scales, shifts = [], []
    for name, norm in _norms(network):
        own = dict(norm.state_dict())
        weight, bias, mean, variance = (
            tensors.get(f"{name}.{leaf}", own[leaf]) for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight.double() / torch.sqrt(variance.double() + norm.eps)
        scales.append(scale)
        shifts.append(bias.double() - mean.double() * scale)
    row = torch.stack([torch.cat(scales), torch.cat(shifts)]).unsqueeze(0).float()
    return np.ascontiguousarray(row.detach().numpy())


def filters(network: EfficientNetLite) -> Filters:
    """The filters of all convolutions by name, in the order that OpenVINO wants, sharing memory with the network's."""
    return {
        name: module.weight.detach().contiguous().numpy()
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    }


def graph(network: EfficientNetLite, shared: Filters, side: int, batch: int, row: Row | None = None) -> Any:
    """The network up to its pooled features as an OpenVINO model.

    Inputs: image float32 [batch, 3, side, side] and affine float32 [1, 2, C_total]. Output: features [batch, 1280].
    `shared` are the network's `filters`: they are not copied and must live as long as what is compiled of the graph.
    With a `row` the second input is that constant, which OpenVINO folds into the filters: a graph of one patch alone.
    """
    import openvino
    from openvino import opset15 as ops

    names = {id(module): name for name, module in network.named_modules()}
    found = [norm for _, norm in _norms(network)]
    channels = [norm.num_features for norm in found]
    image = ops.parameter([batch, 3, side, side], np.float32, name="image")
    given = ops.parameter([1, 2, sum(channels)], np.float32, name="affine")
    affine = given if row is None else ops.constant(row)

    def vectors(part: Any) -> dict[int, Any]:
        """One [1, C, 1, 1] tensor for each normalisation, by its identity."""
        column = ops.reshape(part, ops.constant(np.array([1, -1, 1, 1])), special_zero=False)
        pieces = ops.variadic_split(column, ops.constant(np.array(1)), ops.constant(np.array(channels)))
        return {id(norm): pieces.output(index) for index, norm in enumerate(found)}

    halves = ops.split(affine, ops.constant(np.array(1)), 2)
    scales, shifts = vectors(halves.output(0)), vectors(halves.output(1))

    def conv_norm(x: Any, unit: ConvNorm) -> Any:
        conv = unit.conv
        weight, strides, none = shared[names[id(conv)]], list(conv.stride), [0, 0]
        if conv.groups > 1:
            grouped = ops.constant(weight.reshape(conv.groups, -1, *weight.shape[1:]), shared_memory=True)
            x = ops.group_convolution(x, grouped, strides, none, none, [1, 1], "SAME_UPPER")
        else:
            whole = ops.constant(weight, shared_memory=True)
            x = ops.convolution(x, whole, strides, none, none, [1, 1], "SAME_UPPER")
        x = ops.add(ops.multiply(x, scales[id(unit.norm)]), shifts[id(unit.norm)])
        return ops.clamp(x, 0.0, 6.0) if unit.active else x

    x = conv_norm(image, network.stem)
    for block in cast("Iterable[InvertedResidual]", network.blocks):
        y = x if block.expand is None else conv_norm(x, block.expand)
        y = conv_norm(conv_norm(y, block.depthwise), block.project)
        x = ops.add(y, x) if block.residual else y
    x = conv_norm(x, network.neck)
    features = ops.reduce_mean(x, ops.constant(np.array([2, 3])), False)
    return openvino.Model([features], [image, given] if row is None else [image], "features")
