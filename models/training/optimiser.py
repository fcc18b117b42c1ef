"""The optimiser of a job: Adam over named parameters, each with the rate of its kind, on a cosine from the step alone.

Biases and scales get no weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...policies.task import PatchKind

LEARNING_RATES = {
    PatchKind.SCALE_BIAS: 5e-3,
    PatchKind.STATISTICS: 0.0,  # nothing of it moves
    PatchKind.BIAS: 5e-3,
    PatchKind.DEPTHWISE: 2e-3,
    PatchKind.SEPARABLE: 5e-4,
    PatchKind.ADDED_NEURONS: 2e-3,
    PatchKind.ADDED_LAYER: 2e-3,
    PatchKind.SQUEEZE_EXCITE: 2e-3,
    PatchKind.OWN_SQUEEZE_EXCITE: 2e-3,
    PatchKind.GATE: 5e-2,  # through a sigmoid that starts where it is flat
    PatchKind.LITE_RESIDUAL: 2e-3,
    PatchKind.HEAD: 5e-3,
    PatchKind.RANDOM_HEAD: 5e-3,
    PatchKind.BASE_FRACTION: 5e-4,
}

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # as the paper suggests
_FIELDS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(slots=True)
class _Moments:
    """A parameter's state: steps taken, and the running means of its gradient and of that one's square."""

    step: Tensor  # float32 scalar
    exp_avg: Tensor
    exp_avg_sq: Tensor


class NamedAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) over named parameters, whose state can be kept and given back by name.

    A parameter without a gradient is passed over and keeps its state. Step for step and bit for bit what
    `torch.optim.Adam` does, which is not used because making one imports torch's compiler: 71 MB that every training
    worker would hold, more than most plans keep for their backward pass.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, nn.Parameter] = {}
        self._rates: dict[str, float] = {}
        self._moments: dict[str, _Moments] = {}

    def add(self, name: str, parameter: nn.Parameter, rate: float) -> None:
        """Take a parameter in; those that are in keep their state."""
        self._parameters[name], self._rates[name] = parameter, rate

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over parameters and state as `state` gave them; what is not there stays as it is."""
        for name, parameter in self._parameters.items():
            if (saved := tensors.get(f"p.{name}")) is not None:
                parameter.data.copy_(saved)
            step, first, second = (tensors.get(f"o.{field}.{name}") for field in _FIELDS)
            if step is not None and first is not None and second is not None:
                moments = (torch.empty_like(parameter.data).copy_(moment) for moment in (first, second))
                self._moments[name] = _Moments(step.clone(), *moments)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: parameters under `p.NAME`, the optimiser's state under `o.FIELD.NAME`."""
        tensors = {f"p.{name}": parameter.data for name, parameter in self._parameters.items()}
        for name, moments in self._moments.items():
            tensors |= {f"o.{field}.{name}": getattr(moments, field) for field in _FIELDS}
        return tensors

    def clear_gradients(self) -> None:
        """Before a backward pass."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def gradient_norm(self) -> float:
        """The Euclidean norm of all gradients; not finite where one of them is not."""
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def step(self, number: int, total: int, rate: float = 1.0) -> float:
        """One step; its rates follow a cosine (Loshchilov and Hutter 2017) from step `number` of `total` alone.

        The share of the rates given to `add` that it took comes back: the cosine's, times `rate`.
        """
        share = rate * 0.5 * (1.0 + math.cos(math.pi * number / total))
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                self._move(name, parameter, parameter.grad, self._rates[name] * share)
        return share

    @torch.no_grad()
    def _move(self, name: str, parameter: Tensor, gradient: Tensor, rate: float) -> None:
        moments = self._moments.get(name)
        if moments is None:
            still = torch.zeros_like(parameter)
            moments = self._moments[name] = _Moments(torch.zeros(()), still, still.clone())
        moments.step += 1
        steps = moments.step.item()
        moments.exp_avg.lerp_(gradient, 1 - BETA1)
        moments.exp_avg_sq.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        spread = (moments.exp_avg_sq.sqrt() / (1 - BETA2**steps) ** 0.5).add_(EPSILON)
        parameter.addcdiv_(moments.exp_avg, spread, value=-rate / (1 - BETA1**steps))
