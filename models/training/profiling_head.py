"""What the head and the optimiser cost: small, but all that there is where features are kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch import nn

from ...policies.training_costs import HeadCost, StepCost, TensorKind
from ..bases import Base
from .optimiser import NamedAdam
from .profiling_layout import Unit
from .profiling_times import line

REPEATS = 9
FEW_CLASSES, MANY_CLASSES = 2, 1000
FEW_IMAGES, MANY_IMAGES = 2, 32
ROWS = 10_000  # rows that a batch is chosen from
COPIED = 1 << 24  # bytes
WORKSPACE_BYTES = 51_000_000  # what a first small step takes, whatever its size (docs/training.md)


def _median_ms(work: Callable[[], object]) -> float:
    """Median processor time of `work`, milliseconds, a first run not counted."""
    taken = []
    for _ in range(REPEATS + 1):
        start = time.process_time()
        work()
        taken.append((time.process_time() - start) * 1e3)
    return median(taken[1:])


def head_cost(base: Base) -> HeadCost:
    """Time the last linear layer and the loss, few and many classes, few and many images."""
    head = base.network.get_submodule(base.head)
    features = head.get_parameter("weight").shape[1]

    def times(classes: int, images: int) -> tuple[float, float]:
        layer = nn.Linear(features, classes)
        given, right = torch.randn(images, features), torch.zeros(images, dtype=torch.int64)

        def forward() -> torch.Tensor:
            return nn.functional.cross_entropy(layer(given), right)

        def both() -> None:
            layer.zero_grad()
            forward().backward()  # type: ignore[no-untyped-call]

        ahead = _median_ms(forward)
        return ahead, max(0.0, _median_ms(both) - ahead)

    small, large = times(FEW_CLASSES, FEW_IMAGES), times(MANY_CLASSES, MANY_IMAGES)
    fits = [
        line(FEW_IMAGES * FEW_CLASSES, few, MANY_IMAGES * MANY_CLASSES, many)
        for few, many in zip(small, large, strict=True)
    ]
    return HeadCost(
        features=features,
        classes=base.classes,
        forward_ms=fits[0][1],
        backward_ms=fits[1][1],
        forward_class_ms=fits[0][0],
        backward_class_ms=fits[1][0],
    )


def step_cost(units: Sequence[Unit]) -> StepCost:
    """Time the optimiser on many small tensors and on few large ones, what any step takes, and copying."""
    tensors = [tensor for unit in units for tensor in unit.tensors]
    small = [tensor.parameters for tensor in tensors if tensor.kind in (TensorKind.SCALE, TensorKind.BIAS)] or [16] * 32
    large = [tensor.parameters for tensor in tensors if tensor.kind is TensorKind.WEIGHT] or [1 << 16] * 8
    ms = [_median_ms(_optimiser(sizes)) for sizes in (small, large)]
    # Two equations: tensors * tensor_ms + parameters * parameter_ms = ms.
    (a, b), (c, d) = ((len(small), sum(small)), (len(large), sum(large)))
    parameter_ms = max(0.0, (ms[1] * a - ms[0] * c) / max(1, d * a - b * c))
    tensor_ms = max(0.0, (ms[0] - parameter_ms * b) / a)
    source = torch.zeros(COPIED // 4)
    copy_ms = _median_ms(source.clone) / COPIED
    return StepCost(
        fixed_ms=max(0.0, _median_ms(_bare_step()) - tensor_ms),
        tensor_ms=tensor_ms,
        parameter_ms=parameter_ms,
        read_ms_per_byte=copy_ms,
        write_ms_per_byte=copy_ms,
        workspace_bytes=WORKSPACE_BYTES,
    )


def _bare_step() -> Callable[[], object]:
    """What comes with any step, on one parameter: choosing rows, the loss as a number, checks, the optimiser's call."""
    adam, rows, chosen = NamedAdam(), torch.zeros(ROWS), torch.arange(MANY_IMAGES)
    parameter = nn.Parameter(torch.zeros(()))
    adam.add("one", parameter, 1e-3)

    def step() -> None:
        adam.clear_gradients()
        with torch.autocast("cpu", torch.bfloat16, enabled=False):
            losses = (parameter * rows[chosen]).float()
        loss = losses.sum() / len(chosen)
        loss.backward()  # type: ignore[no-untyped-call]
        float(loss.detach())
        adam.gradient_norm()
        adam.step(0, 1)

    return step


def _optimiser(sizes: Sequence[int]) -> Callable[[], object]:
    """The check of all gradients and the moving of parameters of such `sizes`."""
    adam = NamedAdam()
    for index, size in enumerate(sizes):
        parameter = nn.Parameter(torch.zeros(size))
        parameter.grad = torch.zeros(size)
        adam.add(str(index), parameter, 1e-3)
    return lambda: (adam.gradient_norm(), adam.step(0, 1))
