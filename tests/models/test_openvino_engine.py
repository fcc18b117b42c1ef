"""The OpenVINO engine answers as the torch reference does, and leaves to it what it cannot run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from patchd.models import openvino_engine
from patchd.models.bases import Base, fingerprint, load_base
from patchd.models.engine import Engine, TorchEngine
from patchd.models.openvino_engine import OpenVinoEngine
from patchd.models.openvino_graph import affine_row
from patchd.models.patches import Patch, make_kinds, owners
from patchd.models.patches.shapes import tensor_of
from patchd.models.preprocessing import decode_image, to_input
from patchd.policies.errors import BadInputError, UnavailableError
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing
from torch import Tensor


@pytest.fixture(scope="module", params=["lite0", "lite2"])
def base(request: pytest.FixtureRequest) -> Base:
    return load_base(request.param)


def nudged(base: Base, kinds: tuple[PatchKind, ...], seed: int, classes: int = 10) -> Patch:
    """A patch whose tensors are the base's, each a little moved; the classifier is drawn anew."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name in owners(make_kinds(kinds, {}), base.network):
        own = tensor_of(base.network, name)
        if name.startswith("classifier"):
            tensors[name] = torch.randn((classes, *own.shape[1:]), generator=generator) * 0.1
        else:
            tensors[name] = own * (1 + 0.05 * torch.randn(own.shape, generator=generator).clamp(-2, 2))
    metadata = PatchMetadata(
        base=base.name, base_hash=base.hash, task="t", labels=tuple(map(str, range(classes))), kinds=kinds,
        resolution=96, preprocessing=Preprocessing(), parameters=1, base_parameters=base.parameters_count,
        created_s=0.0,
    )  # fmt: skip
    return Patch(metadata, tensors)


AFFINE = (PatchKind.SCALE_BIAS, PatchKind.HEAD)


@pytest.mark.parametrize("side", [224, 96, 75])
def test_photographs_get_the_reference_s_logits_with_and_without_patches(
    base: Base, photographs: dict[str, Path], side: int
) -> None:
    engine: Engine = OpenVinoEngine(base, 2)
    reference = TorchEngine(base, 2)
    patches = [None, nudged(base, AFFINE, 1), nudged(base, (PatchKind.HEAD,), 2, 3), nudged(base, AFFINE, 3, 100)]
    for file in photographs.values():
        inputs = to_input(decode_image(file.read_bytes()), side, Preprocessing()).unsqueeze(0)
        for patch in (*patches, *patches):
            expected = reference.run(inputs, patch).logits
            reference.patched.remove()
            run = engine.run(inputs, patch)
            assert run.logits.shape == expected.shape
            assert torch.allclose(run.logits, expected, atol=1e-3), (run.logits - expected).abs().max()
    assert run.engine == "openvino"
    assert not engine.refused
    assert fingerprint(base.network) == base.hash


def test_a_batch_is_answered_as_its_images_one_by_one(base: Base) -> None:
    engine = OpenVinoEngine(base, 2)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    patch = nudged(base, AFFINE, 4)
    for _ in range(2):
        together = engine.run(images, patch)
        alone = [engine.run(image.unsqueeze(0), patch) for image in images]
    assert {together.engine, *(run.engine for run in alone)} == {"openvino"}
    assert torch.allclose(together.logits, torch.cat([run.logits for run in alone]), atol=1e-3)


def test_the_row_of_a_patch_is_what_its_normalisations_compute(base: Base) -> None:
    patch = nudged(base, AFFINE, 5)
    row = affine_row(base.network, dict(patch.tensors))
    norm = base.network.stem.norm
    scale, shift = row[0, 0, : norm.num_features], row[0, 1, : norm.num_features]
    x = torch.randn(1, norm.num_features, 4, 4)
    mean, variance, weight, bias = (
        patch.tensors[f"stem.norm.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")
    )
    expected = torch.nn.functional.batch_norm(x, mean, variance, weight, bias, eps=norm.eps).numpy()
    assert np.allclose(x.numpy() * scale[:, None, None] + shift[:, None, None], expected, atol=1e-4)


def test_a_patch_that_changes_filters_runs_on_the_reference_and_leaves_the_graphs_alone(base: Base) -> None:
    engine = OpenVinoEngine(base, 1)
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    engine.run(inputs)
    before = engine.run(inputs)
    filters = nudged(base, (*AFFINE, PatchKind.BASE_FRACTION), 6)
    run = engine.run(inputs, filters)
    assert run.engine == "torch"
    larger = torch.nn.functional.interpolate(inputs, 96)
    engine.run(larger)  # compiled after it: from the base's own filters
    assert torch.allclose(engine.run(larger).logits, TorchEngine(base, 1).run(larger).logits, atol=1e-3)
    after = engine.run(inputs)
    assert (before.engine, after.engine) == ("openvino", "openvino")
    assert torch.equal(before.logits, after.logits)


def test_a_graph_that_disagrees_is_refused_in_words_and_torch_answers(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "affine_row", lambda network, tensors: affine_row(network, tensors) * 1.01)
    engine = OpenVinoEngine(base, 1)
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        run = engine.run(inputs)
        assert run.engine == "torch"
        assert torch.equal(run.logits, TorchEngine(base, 1).run(inputs).logits)
    assert "at 64 px differ from the reference's" in engine.refused[64]


def test_wrong_shapes_are_named_as_by_the_reference(base: Base) -> None:
    with pytest.raises(BadInputError, match=r"not \[3, 64, 64\]"):
        OpenVinoEngine(base, 1).run(torch.zeros(3, 64, 64))


def test_without_the_package_it_says_what_to_install(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnavailableError, match="Install the package openvino"):
        OpenVinoEngine(base, 1)
