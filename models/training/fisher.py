"""Which tensors of a base have most to learn from a task: empirical Fisher information, tensor by tensor.

The trace of the empirical Fisher information of a tensor is the mean over images of the squared norm of its gradient:
how fast the loss can fall by moving it. On-device sparse updates choose what to train by such figures over what that
costs: by measured contribution in Lin et al. 2022 ("On-Device Training Under 256KB Memory", section 3.2), by Fisher
information over memory and computation in Kwon et al. 2024 ("TinyTrain", section 3.2).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...policies.task import Preprocessing
from ..bases import Base
from ..networks import features_of
from .inputs import network_inputs, permutation
from .optimiser import NamedAdam
from .profiling_layout import layout, let_train

HEAD_BATCH, HEAD_STEPS, HEAD_RATE, HEAD_DECAY = 32, 50, 5e-3, 1e-3
FEWEST_IMAGES = 8  # whatever the time: gradients of fewer say nothing
MOST_IMAGES = 64


def importance(
    base: Base,
    images: Tensor,
    classes: Tensor,
    count: int,
    preprocessing: Preprocessing,
    *,
    seconds: float = 20.0,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, float] | None:
    """Fisher information of every tensor of the base that can train, by name; None when asked to stop before the end.

    `images` are uint8 [N, R, R, 3] of the task's training part, `classes` int64 [N] below `count`. A head is fitted to
    the base's features first: without one that knows the task, gradients would only tell what the head lacks. Uses at
    most 64 images and, from the eighth on, about `seconds`. The base keeps every bit. No patch may be bound meanwhile.
    """
    began = time.monotonic()
    chosen = permutation(len(images), seed)[:MOST_IMAGES]
    images, classes = images[chosen], classes[chosen]
    names = [tensor.name for unit in layout(base.network) for tensor in unit.tensors]
    totals = dict.fromkeys(names, 0.0)
    used = 0
    let_train(base.network, ())
    try:
        features = _features(base, images, preprocessing, should_stop)
        if features is None:
            return None
        head = _fitted_head(features, classes, count)
        for image, right in zip(torch.split(images, 1), torch.split(classes, 1), strict=True):
            if should_stop():
                return None
            if used >= FEWEST_IMAGES and time.monotonic() - began > seconds:
                break
            let_train(base.network, names)
            inputs = network_inputs(image, preprocessing, base.memory_format)
            nn.functional.cross_entropy(head(features_of(base.network, inputs)), right).backward()  # type: ignore[no-untyped-call]
            for name in names:
                gradient = base.network.get_parameter(name).grad
                totals[name] += 0.0 if gradient is None else float(gradient.square().sum())
            used += 1
    finally:
        let_train(base.network, ())
    return {name: total / used for name, total in totals.items()}


def _features(
    base: Base, images: Tensor, preprocessing: Preprocessing, should_stop: Callable[[], bool]
) -> Tensor | None:
    parts = []
    with torch.no_grad():
        for batch in torch.split(images, HEAD_BATCH):
            if should_stop():
                return None
            parts.append(features_of(base.network, network_inputs(batch, preprocessing, base.memory_format)))
    return torch.cat(parts)


def _fitted_head(features: Tensor, classes: Tensor, count: int) -> nn.Linear:
    """A linear layer fitted to features [N, F], started at zero; frozen."""
    head = nn.Linear(features.shape[1], count)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    adam = NamedAdam()
    for name, parameter in head.named_parameters():
        adam.add(name, parameter, HEAD_RATE)
    for _ in range(HEAD_STEPS):
        adam.clear_gradients()
        size = head.weight.square().sum() + head.bias.square().sum()
        loss = nn.functional.cross_entropy(head(features), classes) + 0.5 * HEAD_DECAY * size
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step(0, 1)
    return head.requires_grad_(False)
