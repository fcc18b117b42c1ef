"""Layers whose backward pass keeps only what the gradients asked for need, at the cost of some work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.autograd import Function

from .bits import pack_open, where_open

ENOUGH_SMALLER = 2  # an input that much smaller than the output is kept in its place, for more work


@dataclass(frozen=True, slots=True)
class Convolution:
    """How a convolution runs: stride, zeros (left, right, top, bottom), dilation and groups."""

    stride: tuple[int, int]
    zeros: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Its output [N, C', H', W']."""
        padded, padding = self._padded(x)
        return F.conv2d(padded, weight, bias, self.stride, padding, self.dilation, self.groups)

    def backward(
        self, gradient: Tensor, x: Tensor | None, shape: Sequence[int], weight: Tensor, wanted: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients with respect to the input of `shape` and to the filters, as `wanted`.

        Without that of the filters the input `x` itself is not needed.
        """
        if x is None:  # torch asks for one; nothing reads its numbers
            layout = torch.channels_last if _is_channels_last(weight, gradient) else torch.contiguous_format
            x = torch.empty(tuple(shape), dtype=gradient.dtype, memory_format=layout)
        padded, padding = self._padded(x)
        to_input, to_weight, _ = torch.ops.aten.convolution_backward(
            gradient, padded, weight, None, self.stride, padding, self.dilation, False, (0, 0), self.groups,
            (*wanted, False),
        )  # fmt: skip
        if to_input is not None and padded is not x:
            left, _, top, _ = self.zeros
            to_input = to_input[:, :, top : top + shape[2], left : left + shape[3]]
        return to_input, to_weight

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        left, right, top, bottom = self.zeros
        if left == right and top == bottom:
            return x, (top, left)
        return F.pad(x, self.zeros), (0, 0)


def _is_channels_last(*tensors: Tensor) -> bool:
    return any(
        tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous() for tensor in tensors
    )


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a batch normalisation in eval mode normalises by: mean and variance [C], and eps."""

    mean: Tensor
    variance: Tensor
    eps: float

    def deviation(self) -> Tensor:
        """1 / sqrt(variance + eps), [C]."""
        return torch.rsqrt(self.variance + self.eps)


class ConvolveNormalise(Function):
    """Convolution, batch normalisation in eval mode and rectifier as one: y = min(max(0, s (W * x) + t), ceiling).

    Kept are, beside parameters: the rectifier's bits; the input, if the filters train or if the scale does and the
    input is much smaller than the output; else, if the scale trains, what the filters gave. With g the gradient at s z
    + t, where z = W * x, the scale's own needs sum(g z), which is the inner product of W and the gradient of the
    filters: so the input serves for both. Where z is not kept, W and s are multiplied first and cost no pass of their
    own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        statistics: Statistics,
        convolution: Convolution,
        ceiling: float | None,
    ) -> Tensor:
        """`scale` and `shift` are the normalisation's [C]; `ceiling` is inf for a ReLU and None for no rectifier."""
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        needs_scale = ctx.needs_input_grad[2]
        keeps_input = ctx.needs_input_grad[1] or (needs_scale and _is_smaller(x, weight, convolution))
        convolved: Tensor | None = None
        if needs_scale and not keeps_input:
            convolved = convolution(x, weight.to(x.dtype), None)
            y = F.batch_norm(
                convolved, statistics.mean, statistics.variance, scale, shift, training=False, eps=statistics.eps
            )
        else:
            whole = scale * statistics.deviation()
            y = convolution(x, _scaled(weight, whole).to(x.dtype), (shift - statistics.mean * whole).to(x.dtype))
        bits = None
        if ceiling is not None:
            y.clamp_(0.0, None if ceiling == math.inf else ceiling)
            bits = pack_open(y, ceiling)
        kept = (x if keeps_input else None, convolved, bits)
        ctx.save_for_backward(weight, scale, statistics.mean, statistics.variance, *kept)
        ctx.eps, ctx.convolution, ctx.shape, ctx.strides = statistics.eps, convolution, x.shape, y.stride()
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input, filters, scale and shift."""
        weight, scale, mean, variance, x, convolved, bits = ctx.saved_tensors
        statistics = Statistics(mean, variance, ctx.eps)
        needs_x, needs_weight, needs_scale, needs_shift = ctx.needs_input_grad[:4]
        if bits is not None:
            gradient = where_open(bits, gradient, ctx.strides)
        to_scale: Tensor | None = None
        to_weight: Tensor | None = None
        if convolved is not None:
            gradient, to_scale, to_shift = torch.ops.aten.native_batch_norm_backward(
                gradient, convolved, scale, mean, variance, None, None, False, ctx.eps, (needs_x, True, True)
            )
            to_x, _ = (
                ctx.convolution.backward(gradient, None, ctx.shape, weight.to(gradient.dtype), (True, False))
                if (needs_x)
                else (None, None)
            )
            return to_x, None, to_scale, to_shift if needs_shift else None, None, None, None
        to_shift = gradient.sum((0, 2, 3), dtype=scale.dtype) if needs_shift or needs_scale else None
        deviation = statistics.deviation()
        whole = scale * deviation
        to_x, to_whole = ctx.convolution.backward(
            gradient, x, ctx.shape, _scaled(weight, whole).to(gradient.dtype), (needs_x, x is not None)
        )
        if to_whole is not None:
            to_whole = to_whole.to(weight.dtype)
            if needs_scale:
                to_scale = deviation * ((to_whole * weight).sum((1, 2, 3)) - mean * to_shift)
            if needs_weight:
                to_weight = _scaled(to_whole, whole)
        return to_x, to_weight, to_scale, to_shift if needs_shift else None, None, None, None


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight * scale[:, None, None, None]


def _is_smaller(x: Tensor, weight: Tensor, convolution: Convolution) -> bool:
    """Whether the input is so much smaller than the output that it is worth working more for."""
    (down, across), outputs = convolution.stride, len(weight)
    return ENOUGH_SMALLER * x.shape[1] * down * across <= outputs


class FrozenConvolution(Function):
    """A convolution whose filters are not trained: keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, convolution: Convolution) -> Tensor:
        """The output [N, C', H', W']."""
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        ctx.save_for_backward(weight)
        ctx.convolution, ctx.shape = convolution, x.shape
        return convolution(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input and bias."""
        (weight,) = ctx.saved_tensors
        needs_x, _, needs_bias = ctx.needs_input_grad[:3]
        to_x = None
        if needs_x:
            to_x, _ = ctx.convolution.backward(gradient, None, ctx.shape, weight.to(gradient.dtype), (True, False))
        return to_x, None, gradient.sum((0, 2, 3), dtype=weight.dtype) if needs_bias else None, None


class FrozenNormalise(Function):
    """A batch normalisation in eval mode whose scale is not trained: keeps nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | None, shift: Tensor | None, statistics: Statistics) -> Tensor:
        """As torch computes it."""
        ctx.save_for_backward(scale, statistics.mean, statistics.variance)
        ctx.eps = statistics.eps
        return F.batch_norm(x, statistics.mean, statistics.variance, scale, shift, training=False, eps=statistics.eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of input and bias: a constant in each channel, and the sum."""
        scale, mean, variance = ctx.saved_tensors
        whole = Statistics(mean, variance, ctx.eps).deviation()
        if scale is not None:
            whole = whole * scale
        axes = [axis for axis in range(gradient.dim()) if axis != 1]
        to_x = gradient * whole.view(-1, *(1,) * (gradient.dim() - 2)) if ctx.needs_input_grad[0] else None
        return to_x, None, gradient.sum(axes) if ctx.needs_input_grad[2] else None, None


class Rectify(Function):
    """min(max(0, x), ceiling), keeping one bit an element. `x` is dense."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float, inplace: bool) -> Tensor:
        """In place where asked."""
        highest = None if ceiling == math.inf else ceiling
        if inplace:
            y = x.clamp_(0.0, highest)
            ctx.mark_dirty(x)
        else:
            y = x.clamp(0.0, highest)
        ctx.save_for_backward(pack_open(y, ceiling))
        ctx.strides = y.stride()
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient where the rectifier is open."""
        (bits,) = ctx.saved_tensors
        return where_open(bits, gradient, ctx.strides), None, None


class AveragePool(Function):
    """Means over equal windows of each channel, to a given size, keeping nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
        """[N, C, H, W] to [N, C, *size]."""
        ctx.shape = x.shape
        ctx.layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
        return F.adaptive_avg_pool2d(x, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Each place's share."""
        x = torch.empty(ctx.shape, dtype=gradient.dtype, memory_format=ctx.layout)  # torch reads its shape alone
        return torch.ops.aten._adaptive_avg_pool2d_backward(gradient, x), None
