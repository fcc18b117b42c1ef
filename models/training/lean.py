"""Forward passes that keep for the backward pass only what a plan's gradients need.

torch keeps for every operation all that any of its gradients could need: the input of a frozen convolution, for one.
Within `lean(network)` operations are carried out by functions that look at what is trained (`lean_functions`): a frozen
convolution or normalisation keeps nothing, nor does one of which only the bias trains (Cai et al. 2020, TinyTL,
section 3.1), and a rectifier keeps one bit an element. What has no such function runs as ever. Gradients are the same,
to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode

from ..networks.efficientnet_lite import ConvNorm, SameConv2d, same_padding
from .bits import is_dense
from .lean_functions import (
    AveragePool,
    Convolution,
    ConvolveNormalise,
    FrozenConvolution,
    FrozenNormalise,
    Rectify,
    Statistics,
)

RELU6 = 6.0


@contextmanager
def lean(network: nn.Module) -> Iterator[None]:
    """Let forward passes of `network` within the body keep little. No module is copied or left changed.

    The backward pass may come after the body.
    """
    fused = [module for module in network.modules() if type(module) is ConvNorm]
    for module in fused:
        module.__dict__["forward"] = _Fused(module)  # an instance's attribute goes before its class's method
    try:
        with _Lean():
            yield
    finally:
        for module in fused:
            module.__dict__.pop("forward", None)


class _Fused:
    """The forward pass of a convolution, a batch normalisation and perhaps a ReLU6 as one function."""

    def __init__(self, module: ConvNorm) -> None:
        self._module = module

    def __call__(self, x: Tensor) -> Tensor:
        conv, norm = self._module.conv, self._module.norm
        plain = type(conv) is SameConv2d and isinstance(norm, nn.BatchNorm2d) and _is_fixed(norm)
        if not plain or norm.weight is None or norm.bias is None or not _is_recorded(x, *self._module.parameters()):
            return ConvNorm.forward(self._module, x)
        top, bottom = same_padding(x.shape[-2], conv.kernel_size[0], conv.stride[0])
        left, right = same_padding(x.shape[-1], conv.kernel_size[1], conv.stride[1])
        how = Convolution(_pair(conv.stride), (left, right, top, bottom), _pair(conv.dilation), conv.groups)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        statistics = Statistics(norm.running_mean, norm.running_var, norm.eps)
        ceiling = RELU6 if self._module.active else None
        return _apply(ConvolveNormalise, x, conv.weight, norm.weight, norm.bias, statistics, how, ceiling)


def _apply(function: type[Function], *inputs: object) -> Tensor:
    return cast(Tensor, function.apply(*inputs))  # type: ignore[no-untyped-call]


def _is_fixed(norm: nn.BatchNorm2d) -> bool:
    """Whether it normalises by its running statistics."""
    return not norm.training and norm.running_mean is not None


def _is_recorded(*tensors: Tensor | None) -> bool:
    """Whether an operation on these has a backward pass."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


class _Lean(TorchFunctionMode):
    """Replaces single operations, of any network, where that keeps less."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        replaced = _REPLACED.get(func)
        if replaced is not None and torch.is_grad_enabled():
            result = replaced(*args, **(kwargs or {}))
            if result is not None:
                return result
        return func(*args, **(kwargs or {}))


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: str | int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor | None:
    if weight.requires_grad or isinstance(padding, str) or input.dim() != 4 or not _is_recorded(input, bias):
        return None
    down, across = _pair(padding)
    how = Convolution(_pair(stride), (across, across, down, down), _pair(dilation), groups)
    return _apply(FrozenConvolution, input, weight, bias, how)


def _normalise(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
) -> Tensor | None:
    trains = weight is not None and weight.requires_grad
    if trains or training or running_mean is None or running_var is None or not _is_recorded(input, bias):
        return None
    return _apply(FrozenNormalise, input, weight, bias, Statistics(running_mean, running_var, eps))


def _rectify(x: Tensor, ceiling: float, inplace: bool) -> Tensor | None:
    if not _is_recorded(x) or not is_dense(x):
        return None
    return _apply(Rectify, x, ceiling, inplace)


def _relu(input: Tensor, inplace: bool = False) -> Tensor | None:
    return _rectify(input, math.inf, inplace)


def _relu6(input: Tensor, inplace: bool = False) -> Tensor | None:
    return _rectify(input, RELU6, inplace)


def _hardtanh(
    input: Tensor,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> Tensor | None:
    return _rectify(input, max_val, inplace) if min_val == 0 else None


def _average(input: Tensor, output_size: tuple[int, int]) -> Tensor | None:
    return _apply(AveragePool, input, output_size) if _is_recorded(input) else None


_REPLACED: Mapping[Callable[..., Any], Callable[..., Tensor | None]] = {
    F.conv2d: _convolve,
    F.batch_norm: _normalise,
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.adaptive_avg_pool2d: _average,
}
