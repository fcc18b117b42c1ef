"""MobileNetV2 is the network of the paper, at every width."""

from __future__ import annotations

import pytest
import torch
from patchd.models.networks import MobileNetV2, units_of
from patchd.models.patches import make_kind
from patchd.policies.task import PatchKind


def meta(width: float = 1.0, depth: float = 1.0) -> MobileNetV2:
    with torch.device("meta"):
        return MobileNetV2(width, depth)


@pytest.mark.parametrize(
    ("width", "parameters", "neck"), [(1.0, 3_504_872, 1280), (0.5, 1_968_680, 1280), (1.4, 6_108_776, 1792)]
)
def test_parameters_are_those_of_the_published_networks(width: float, parameters: int, neck: int) -> None:
    network = meta(width)  # 3.5, 2.0 and 6.1 million in the paper's own list of models
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert network.classifier.in_features == neck


def test_maps_shrink_as_in_table_2() -> None:
    network = MobileNetV2(0.25, classes=3).eval()
    x, sides = torch.zeros(1, 3, 224, 224), []
    for unit in network.units:
        x = unit(x)
        sides.append(x.shape[-1])
    assert sides == [112, 112, *[56] * 2, *[28] * 3, *[14] * 7, *[7] * 3, 7, 7]
    assert network(torch.zeros(2, 3, 33, 47)).shape == (2, 3)


def test_depth_scales_repeats_between_the_ends_and_width_every_channel_but_the_neck() -> None:
    assert [len(meta(1.0, depth).blocks) for depth in (0.5, 1.0, 2.0)] == [11, 17, 32]
    assert meta(0.5).stem.conv.out_channels == 16
    assert meta(0.5).blocks[-1].project.conv.out_channels == 160


def test_every_unit_is_named_and_small_kinds_stay_small() -> None:
    network = meta()
    assert units_of(network) == network.units
    total = sum(parameter.numel() for parameter in network.parameters())
    for kind in (PatchKind.SCALE_BIAS, PatchKind.DEPTHWISE, *network.patch_sites):
        made = make_kind(kind)
        learned = sum(torch.Size(made.shape(network, name, 1000)).numel() for name in made.trainable(network))
        assert 0 < learned < 0.02 * total, kind
