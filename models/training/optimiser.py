"""The optimiser of a job: Adam over named parameters, each with the rate of its kind, on a cosine from the step alone.

Biases and scales get no weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

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

_FIELDS = ("step", "exp_avg", "exp_avg_sq")


class NamedAdam:
    """Adam (Kingma and Ba 2015) whose parameters have names, so that its state can be kept and given back by them.

    A parameter without a gradient is passed over and keeps its state.
    """

    def __init__(self) -> None:
        self._parameters: dict[str, nn.Parameter] = {}
        self._adam: torch.optim.Adam | None = None

    def add(self, name: str, parameter: nn.Parameter, rate: float) -> None:
        """Take a parameter in; those that are in keep their state."""
        self._parameters[name] = parameter
        if self._adam is None:
            self._adam = torch.optim.Adam([{"params": [parameter], "lr": rate, "base_lr": rate}], foreach=False)
            return
        # One group for each rate: a group for each parameter would cost more than all else in a step of the head.
        for group in self._adam.param_groups:
            if group["base_lr"] == rate:
                group["params"].append(parameter)
                return
        self._adam.add_param_group({"params": [parameter], "lr": rate, "base_lr": rate})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over parameters and state as `state` gave them; what is not there stays as it is."""
        for name, parameter in self._parameters.items():
            if (saved := tensors.get(f"p.{name}")) is not None:
                parameter.data.copy_(saved)
            fields = {key: tensors.get(f"o.{key}.{name}") for key in _FIELDS}
            state = {key: tensor.clone() for key, tensor in fields.items() if tensor is not None}
            if self._adam is not None and len(state) == len(fields):
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = torch.empty_like(parameter.data).copy_(state[key])
                self._adam.state[parameter] = state

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: parameters under `p.NAME`, the optimiser's state under `o.FIELD.NAME`."""
        tensors = {f"p.{name}": parameter.data for name, parameter in self._parameters.items()}
        if self._adam is not None:
            for name, parameter in self._parameters.items():
                for key, value in self._adam.state.get(parameter, {}).items():
                    tensors[f"o.{key}.{name}"] = value
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
        assert self._adam is not None
        share = rate * 0.5 * (1.0 + math.cos(math.pi * number / total))
        for group in self._adam.param_groups:
            group["lr"] = group["base_lr"] * share
        self._adam.step()
        return share
