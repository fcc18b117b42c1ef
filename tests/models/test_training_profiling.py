"""Measuring training costs: of any network, leaving nothing behind, with the bytes that passes really keep."""

from __future__ import annotations

import math

import pytest
import torch
from networks import make
from patchd.models.bases import Base, fingerprint
from patchd.models.patches.base_fraction import BaseFraction
from patchd.models.training.meter import kept_bytes, tensors_of
from patchd.models.training.profiling import LARGE, measure_costs, measured_of
from patchd.models.training.profiling_layout import layout, let_train
from patchd.models.training.profiling_times import excess, fitted, line
from patchd.policies.decision import UnfreezeOrder
from patchd.policies.errors import BadInputError
from patchd.policies.training_chain import chain
from patchd.policies.training_costs import JobOutline, TensorKind, TrainingCosts
from patchd.policies.training_job_prices import JobPrices, Run, full
from patchd.policies.training_prices import Prices, Trained
from torch import nn

SIDE = 48


@pytest.fixture(scope="module")
def base() -> Base:
    return Base("small", make("efficientnet_lite"), SIDE)


@pytest.fixture(scope="module")
def costs(base: Base) -> TrainingCosts:
    measured = measure_costs(base, (32, SIDE), seconds=0.0)
    assert measured is not None
    return measured


def kept_by_a_pass(base: Base, names: frozenset[str]) -> int:
    """Bytes that a forward pass of one image keeps, each storage once, parameters and buffers not counted."""
    images = torch.randn(1, 3, SIDE, SIDE).contiguous(memory_format=base.memory_format)
    let_train(base.network, names)
    kept = kept_bytes(lambda: base.network(images), tensors_of(base.network))
    let_train(base.network, ())
    return kept


def test_every_tensor_of_every_unit_has_its_costs(base: Base, costs: TrainingCosts) -> None:
    assert [at.resolution for at in costs.at] == [32, SIDE]
    for at in costs.at:
        assert [unit.name for unit in at.units] == [unit.name for unit in layout(base.network)]
        assert at.images == LARGE
        told = {tensor.name for unit in at.units for tensor in unit.plain.tensors}
        assert told == {name for name, _ in base.network.named_parameters() if not name.startswith("classifier")}
        assert all(unit.frozen_ms + unit.frozen_call_ms > 0 for unit in at.units)
    assert costs.step.tensor_ms > 0
    assert costs.head.features == base.network.get_submodule(base.head).in_features
    assert TrainingCosts.model_validate_json(costs.model_dump_json()) == costs


def test_the_lean_way_keeps_less_of_every_unit(costs: TrainingCosts) -> None:
    for unit in costs.at[-1].units:
        assert unit.lean is not None
        assert unit.lean.kept_bytes < unit.plain.kept_bytes / 10
        told = [tensor.kept_bytes for tensor in unit.lean.tensors if tensor.kind is TensorKind.BIAS]
        assert told
        assert not any(told)  # the gradient of a bias needs nothing


def test_depth_within_a_unit_is_told_in_forward_order(costs: TrainingCosts) -> None:
    for unit in costs.at[-1].units:
        shares = [tensor.reach_share for tensor in unit.plain.tensors]
        assert shares == sorted(shares, reverse=True)
        assert all(tensor.reach_bytes <= unit.plain.kept_bytes for tensor in unit.plain.tensors)


def test_measuring_leaves_no_bit_no_hook_and_no_gradient_behind(base: Base) -> None:
    before = fingerprint(base.network)
    assert measure_costs(base, (32,), seconds=0.0) is not None
    assert fingerprint(base.network) == before == base.hash
    for module in base.network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module.training
    assert all(not p.requires_grad and p.grad is None for p in base.network.parameters())


def test_measuring_stops_when_asked_to(base: Base) -> None:
    asked = iter([False] * 5 + [True] * 1000)
    assert measure_costs(base, (32,), seconds=0.0, should_stop=lambda: next(asked)) is None
    assert all(not p.requires_grad for p in base.network.parameters())


@pytest.mark.parametrize("name", ["group_norm_resnet", "vision_transformer", "batch_renorm"])
def test_other_networks_can_be_measured(name: str) -> None:
    network = make(name)
    costs = measure_costs(Base(name, network, 32), (32,), seconds=0.0)
    assert costs is not None
    kinds = {tensor.kind for unit in costs.at[0].units for tensor in unit.plain.tensors}
    assert TensorKind.SCALE in kinds
    prices = Prices(costs)
    assert JobPrices(prices, JobOutline(full_resolution=32)).predict(full(prices), Run(32)).cost == pytest.approx(1.0)


def test_the_bytes_of_any_plan_are_those_that_a_pass_keeps(base: Base, costs: TrainingCosts) -> None:
    prices = Prices(costs)
    units = prices.names
    every = frozenset(tensor.name for unit in units for tensor in unit)
    norms = frozenset(t.name for unit in units for t in unit if t.kind in (TensorKind.SCALE, TensorKind.BIAS))
    upper = frozenset(t.name for unit in units[len(units) // 2 :] for t in unit)
    middle = frozenset([units[len(units) // 2][-2].name])
    for names in (every, norms, upper, norms & upper, middle):
        price = prices.price(Trained(names, head=False), SIDE, 10)
        counted = kept_by_a_pass(base, names)
        features = costs.head.features * 4
        transient = max(unit.plain.transient_bytes for unit in costs.at[-1].units)
        assert price.kept_image_bytes >= counted - features
        assert price.kept_image_bytes <= counted + features + transient


@pytest.mark.parametrize("order", [UnfreezeOrder.PATCH_FIRST, UnfreezeOrder.DOWNWARDS])
def test_a_level_of_the_chain_is_what_the_trainer_lets_train(
    base: Base, costs: TrainingCosts, order: UnfreezeOrder
) -> None:
    units = layout(base.network)
    norms = {t.name for unit in units for t in unit.tensors if t.kind in (TensorKind.SCALE, TensorKind.BIAS)}
    levels = chain(Prices(costs), JobOutline(), order, 1.0)
    assert levels[-1].fraction == levels[-1].reach == 1.0
    for level in levels:
        first = len(units) - round(level.reach * len(units))
        reached = {tensor.name for unit in units[first:] for tensor in unit.tensors}
        unfrozen = set(BaseFraction(fraction=level.fraction).tensors(base.network)) if level.fraction else set()
        assert level.trained.tensors == (norms & reached) | unfrozen


def test_three_resolutions_stand_for_many() -> None:
    assert measured_of((224, 192, 160, 128, 96)) == (96, 160, 224)
    assert measured_of((64,)) == (64,)
    assert measured_of((96, 96, 64, 32)) == (32, 64, 96)


def test_a_line_through_two_sizes_has_no_negative_part() -> None:
    assert line(2, 14.0, 8, 26.0) == (2.0, 10.0)
    assert line(2, 1.0, 8, 16.0) == (2.0, 0.0)
    assert line(2, 9.0, 8, 8.0) == (0.0, 8.0)
    assert fitted(2, [{"a": 14.0}, {"a": 99.0}, {"a": 14.0}], 8, [{"a": 26.0}] * 3) == {"a": (2.0, 10.0)}


def test_differences_below_zero_do_not_raise_the_sum() -> None:
    more = {"a": (3.0, 1.0), "b": (1.0, 1.0)}
    less = {"a": (1.0, 1.0), "b": (2.0, 0.0)}
    found = excess(more, less)
    assert found == {"a": (1.0, 0.0), "b": (0.0, 1.0)}
    assert math.isclose(sum(image for image, _ in found.values()), 1.0)


def test_a_network_of_only_a_head_is_refused() -> None:
    with pytest.raises(BadInputError, match="nothing below its head"):
        layout(nn.Sequential(nn.Linear(3, 2)))
