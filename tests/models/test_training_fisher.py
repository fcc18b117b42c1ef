"""Fisher information by tensor: the mean squared gradient norm, the base untouched, stopped when asked."""

from __future__ import annotations

import pytest
import torch
from networks import CLASSES, SIDE, make
from patchd.models.bases import Base, fingerprint
from patchd.models.networks import features_of
from patchd.models.training.fisher import FEWEST_IMAGES, importance
from patchd.models.training.inputs import network_inputs, permutation
from patchd.models.training.profiling_layout import layout
from patchd.policies.task import Preprocessing

COUNT = 12


@pytest.fixture(scope="module")
def base() -> Base:
    return Base("small", make("efficientnet_lite"), SIDE)


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)
    return images, torch.arange(COUNT) % CLASSES


def test_every_tensor_has_its_information_and_the_base_keeps_every_bit(
    base: Base, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    found = importance(base, *data, CLASSES, Preprocessing())
    assert found is not None
    assert set(found) == {tensor.name for unit in layout(base.network) for tensor in unit.tensors}
    assert all(value >= 0 for value in found.values())
    assert any(value > 0 for value in found.values())
    assert fingerprint(base.network) == base.hash
    assert all(not p.requires_grad and p.grad is None for p in base.network.parameters())


def test_the_same_data_and_seed_give_the_same_figures(base: Base, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    first, second = (importance(base, *data, CLASSES, Preprocessing(), seconds=1e9) for _ in range(2))
    assert first == second


def test_the_figures_are_mean_squared_norms_of_single_gradients(
    base: Base, data: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    head = torch.nn.Linear(base.network.get_submodule(base.head).in_features, CLASSES).requires_grad_(False)
    monkeypatch.setattr("patchd.models.training.fisher._fitted_head", lambda *_: head)
    found = importance(base, *data, CLASSES, Preprocessing(), seconds=1e9)
    assert found is not None
    name = layout(base.network)[-1].tensors[0].name
    parameter = base.network.get_parameter(name).requires_grad_()
    total = 0.0
    for index in permutation(COUNT, 0).tolist():
        inputs = network_inputs(data[0][index : index + 1], Preprocessing(), base.memory_format)
        loss = torch.nn.functional.cross_entropy(head(features_of(base.network, inputs)), data[1][index : index + 1])
        total += float(torch.autograd.grad(loss, parameter)[0].square().sum())
    parameter.requires_grad_(False)
    assert found[name] == pytest.approx(total / COUNT, rel=1e-4)


def test_little_time_still_gives_figures_of_a_few_images(base: Base, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert FEWEST_IMAGES < COUNT
    assert importance(base, *data, CLASSES, Preprocessing(), seconds=0.0) is not None


def test_it_stops_when_asked_to(base: Base, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert importance(base, *data, CLASSES, Preprocessing(), should_stop=lambda: True) is None
    assert all(not p.requires_grad for p in base.network.parameters())
