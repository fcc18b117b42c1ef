"""What the planner must know of a job's patch and only the network can tell."""

from __future__ import annotations

import math
from collections import defaultdict

from torch import nn

from ...policies.task import TrainSpec
from ...policies.training_costs import AddedLayer
from ..patches import make_kinds


def added_layers(network: nn.Module, spec: TrainSpec, classes: int) -> tuple[AddedLayer, ...]:
    """The layers that the job's kinds join to modules of the network, with what trains in each. No patch is bound."""
    layers: list[AddedLayer] = []
    for kind in make_kinds(spec.kinds, spec.options):
        sizes: dict[str, list[int]] = defaultdict(list)
        for name in kind.trainable(network):
            site, joined, _ = name.partition(":")
            if joined:
                sizes[site].append(math.prod(kind.shape(network, name, classes)))
        layers += [
            AddedLayer(site=site, kind=kind.kind, parameters=sum(of), tensors=len(of)) for site, of in sizes.items()
        ]
    return tuple(layers)
