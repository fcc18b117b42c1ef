"""What several benchmarks measure on: a made-up patch, and OpenVINO's own model of a network folded for one patch."""

from __future__ import annotations

from typing import Any

import openvino
import torch
from openvino import opset15 as ops
from patchd.models.bases import Base
from patchd.models.openvino_graph import Arrays, affine_row, graph
from patchd.models.patches import Patch, make_kinds, owners
from patchd.models.patches.shapes import tensor_of
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing

CLASSES = 10
KINDS = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
LABELS = tuple(map(str, range(CLASSES)))


def made_up_patch(base: Base, seed: int, task: str = "benchmark", side: int = 224) -> Patch:
    """The base's own scales and biases, each a little moved, and a head of ten classes."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name in owners(make_kinds(KINDS, {}), base.network):
        own = tensor_of(base.network, name)
        shape = (CLASSES, *own.shape[1:]) if name.startswith("classifier") else own.shape
        noise = torch.randn(shape, generator=generator)
        tensors[name] = noise * 0.1 if name.startswith("classifier") else own * (1 + 0.02 * noise)
    metadata = PatchMetadata(
        base=base.name,
        base_hash=base.hash,
        task=task,
        labels=LABELS,
        kinds=KINDS,
        resolution=side,
        preprocessing=Preprocessing(),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        base_parameters=base.parameters_count,
        created_s=0.0,
    )
    return Patch(metadata, tensors)


def folded_model(base: Base, patch: Patch | None, side: int, arrays: Arrays) -> Any:
    """Base and patch (None: the base alone) as one OpenVINO model of constants for one image, head included.

    `arrays` keeps the filters, which are not copied: they must live as long as the model and what is compiled of it.
    """
    tensors = {} if patch is None else patch.tensors
    model = graph(base.network, side, arrays, affine_row(base.network, tensors))
    head = base.network.get_submodule(base.head)
    weight, bias = (
        tensors.get(f"{base.head}.{leaf}", head.get_parameter(leaf)).detach().numpy() for leaf in ("weight", "bias")
    )
    features = model.get_results()[0].input_value(0)
    logits = ops.add(ops.matmul(features, ops.constant(weight), False, True), ops.constant(bias))
    return openvino.Model([logits], model.get_parameters(), "folded")
