"""Re-estimated statistics: what is estimated, in pieces or at once, and a base that stays as it was."""

from __future__ import annotations

from pathlib import Path

import networks
import pytest
import torch
from patchd.models.bases import Base, fingerprint
from patchd.models.engine import TorchEngine
from patchd.models.folding import fold
from patchd.models.patches import Patch, make_kind
from patchd.models.patches.statistics import Statistics
from patchd.models.training.statistics import BATCH, StatisticsEstimate
from patchd.policies.task import KindOptions, PatchKind, PatchMetadata, Preprocessing
from torch import Tensor, nn

IMAGES = 2 * BATCH + 5  # the last five join the second batch


@pytest.fixture
def images() -> Tensor:
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 + 0.5


def estimate(network: nn.Module, images: Tensor, directory: Path, momentum: float | None = None) -> dict[str, Tensor]:
    made = StatisticsEstimate(network, Statistics(momentum=momentum), directory, "images")
    assert made.run(len(images), lambda start, end: images[start:end], lambda: False)
    return made.tensors()


def test_the_first_layers_statistics_are_those_of_its_inputs(images: Tensor, tmp_path: Path) -> None:
    network = networks.make("efficientnet_lite")
    found = estimate(network, images, tmp_path)
    seen = network.get_submodule("stem.conv")(images).transpose(0, 1).flatten(1)
    assert torch.allclose(found["stem.norm.running_mean"], seen.mean(1), atol=1e-4)
    assert torch.allclose(found["stem.norm.running_var"], seen.var(1), rtol=2e-2)  # the mean over batches, not of all


@pytest.mark.parametrize("momentum", [None, 0.1])
def test_the_estimate_is_what_torch_gathers_in_training_mode(
    images: Tensor, tmp_path: Path, momentum: float | None
) -> None:
    found = estimate(networks.make("efficientnet_lite"), images[: 2 * BATCH], tmp_path, momentum)
    reference = networks.make("efficientnet_lite").train()
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
            if momentum is None:
                module.reset_running_stats()
    with torch.no_grad():
        for batch in torch.split(images[: 2 * BATCH], BATCH):
            reference(batch)
    own = reference.state_dict()
    assert len(found) == sum("running" in name for name in own)
    for name, tensor in found.items():
        assert torch.allclose(tensor, own[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("name", ["efficientnet_lite", "batch_renorm"])
def test_an_estimate_made_in_pieces_and_reread_from_the_disk_has_the_same_bits_and_leaves_the_base_untouched(
    images: Tensor, tmp_path: Path, name: str
) -> None:
    network = networks.make(name)
    before, counters = fingerprint(network), {k: v.clone() for k, v in network.state_dict().items() if "tracked" in k}
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = estimate(network, images, tmp_path / "whole")
    pieces = 0
    while True:
        part = StatisticsEstimate(network, Statistics(), tmp_path / "parts", "images")
        pieces += 1
        if part.run(len(images), lambda start, end: images[start:end], lambda: True):
            break
        part.save()
    assert pieces == 2
    assert all(torch.equal(tensor, part.tensors()[key]) for key, tensor in whole.items())
    assert fingerprint(network) == before
    assert all(torch.equal(network.state_dict()[key], value) for key, value in counters.items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_statistics_of_other_images_are_not_taken_from_the_disk(images: Tensor, tmp_path: Path) -> None:
    network = networks.make("batch_renorm")
    made = StatisticsEstimate(network, Statistics(), tmp_path, "some images")
    made.run(len(images), lambda start, end: images[start:end], lambda: True)
    made.save()
    other = StatisticsEstimate(network, Statistics(), tmp_path, "other images")
    other.run(len(images), lambda start, end: images[start:end], lambda: False)
    assert torch.equal(other.tensors()["norm1.running_mean"], estimate(network, images, tmp_path)["norm1.running_mean"])


def test_where_narrows_it_and_networks_without_batch_norms_have_none() -> None:
    network = networks.make("efficientnet_lite")
    kind = make_kind(PatchKind.STATISTICS, KindOptions(where="stem.*"))
    assert kind.tensors(network) == ("stem.norm.running_mean", "stem.norm.running_var")
    assert kind.trainable(network) == ()
    assert make_kind(PatchKind.STATISTICS).tensors(networks.make("group_norm_resnet")) == ()


def test_a_patch_of_statistics_folds_and_answers_alike_everywhere(images: Tensor, tmp_path: Path) -> None:
    base = Base("small", networks.make("efficientnet_lite"), 32)
    metadata = PatchMetadata(
        base=base.name,
        base_hash=base.hash,
        task="t",
        labels=tuple(map(str, range(networks.CLASSES))),
        kinds=(PatchKind.STATISTICS,),
        resolution=32,
        preprocessing=Preprocessing(),
        parameters=0,
        base_parameters=base.parameters_count,
        created_s=0.0,
    )
    patch = Patch(metadata, estimate(base.network, images, tmp_path))
    engine = TorchEngine(base)
    plain, expected = engine.run(images[:4]).logits, engine.run(images[:4], patch).logits
    engine.patched.remove()
    with torch.inference_mode():
        folded = fold(base, patch).network(images[:4])
    assert torch.allclose(folded, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(expected, plain, atol=1e-3)
