"""Every patch kind on networks of several families: it starts as the base, learns, and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CLASSES, NETWORKS, SIDE, make
from patchd.models.bases import Base, fingerprint
from patchd.models.networks import BatchRenorm2d, EfficientNetLite, features_of, final_layer, unit_of, units_of
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import Patch, check_useful, load_patch, make_kind, make_kinds, owners, save_patch, trainable
from patchd.models.patches.gate import OPEN, ChannelGate
from patchd.models.patches.separable import Separable
from patchd.policies.errors import BadInputError, PatchMismatchError
from patchd.policies.task import KindOptions, PatchKind, PatchMetadata, Preprocessing
from torch import nn

UNCHANGED = (  # kinds that start as the base, to the last bits of rounding
    PatchKind.SCALE_BIAS, PatchKind.DEPTHWISE, PatchKind.ADDED_NEURONS, PatchKind.ADDED_LAYER,
    PatchKind.SQUEEZE_EXCITE, PatchKind.BASE_FRACTION, PatchKind.BIAS, PatchKind.LITE_RESIDUAL,
)  # fmt: skip
JOINING = (PatchKind.ADDED_NEURONS, PatchKind.ADDED_LAYER, PatchKind.SQUEEZE_EXCITE, PatchKind.GATE)


@pytest.fixture(params=NETWORKS)
def base(request) -> Base:
    return Base(request.param, make(request.param), SIDE)


def images(count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def bound(base: Base, *kinds, values: str = "start", classes: int = CLASSES) -> PatchedNetwork:
    """The base with these kinds bound: with their values before training, or with random ones."""
    generator = torch.Generator().manual_seed(1)
    tensors: dict[str, torch.Tensor] = {}
    for kind in kinds:
        for name, tensor in kind.start(base.network, classes).items():
            first, second = torch.rand((2, *tensor.shape), generator=generator)
            tensors.setdefault(name, tensor if values == "start" else tensor * (0.3 + 0.5 * first) + 0.3 * second)
    patched = PatchedNetwork(base)
    patched.bind(tensors, kinds)
    return patched


@pytest.mark.parametrize("kind", UNCHANGED)
def test_a_kind_answers_as_the_base_before_it_is_trained(base, kind):
    expected = base.network(images())
    patched = bound(base, make_kind(kind))
    assert torch.allclose(patched.network(images()), expected, atol=1e-5)
    patched.remove()


@pytest.mark.parametrize("kind", [kind for kind in PatchKind if kind is not PatchKind.RANDOM_HEAD])
def test_a_trained_kind_changes_the_answers_and_its_removal_every_bit_back(base, kind):
    made = make_kind(kind)
    expected, before = base.network(images()), fingerprint(base.network)
    if not made.tensors(base.network):  # no depthwise filters in a transformer, for one
        with pytest.raises(BadInputError, match=f"'{kind}' finds nothing to act on"):
            check_useful((made,), base.network)
        return
    check_useful((made,), base.network)
    patched = bound(base, made, values="random")
    assert not torch.allclose(patched.network(images()), expected, atol=1e-3)
    patched.remove()
    assert torch.equal(base.network(images()), expected)
    assert fingerprint(base.network) == before


@pytest.mark.parametrize(
    "kind", [*JOINING, PatchKind.LITE_RESIDUAL, PatchKind.BIAS, PatchKind.SCALE_BIAS, PatchKind.HEAD]
)
def test_every_tensor_of_a_kind_learns(base, kind):
    made = make_kind(kind)
    learned = set(made.trainable(base.network))
    if not learned:
        pytest.skip("the kind finds nothing to act on in this network")
    start = made.start(base.network, CLASSES)
    tensors = {name: nn.Parameter(tensor, requires_grad=name in learned) for name, tensor in start.items()}
    patched = PatchedNetwork(base)
    optimiser = torch.optim.SGD([t for t in tensors.values() if t.requires_grad], lr=0.5)
    for step in range(2):  # a zero second factor passes no gradient to the first one before it has moved
        patched.bind(tensors, (made,))
        loss = nn.functional.cross_entropy(patched.network(images(8, step)), torch.arange(8) % CLASSES)
        optimiser.zero_grad()
        loss.backward()
        still = [name for name, t in tensors.items() if t.requires_grad and (t.grad is None or not t.grad.any())]
        optimiser.step()
        patched.remove()
    assert not still
    assert all(parameter.grad is None for parameter in base.network.parameters())


def test_kinds_combine_at_one_layer_in_their_fixed_order(base):
    options = {kind: KindOptions(where="*norm*") for kind in (PatchKind.GATE, PatchKind.SQUEEZE_EXCITE)}
    kinds = make_kinds((PatchKind.GATE, PatchKind.SQUEEZE_EXCITE, PatchKind.HEAD, PatchKind.SCALE_BIAS), options)
    assert [kind.kind for kind in kinds] == ["scale_bias", "squeeze_excite", "gate", "head"]
    patched = bound(base, *kinds, values="random", classes=3)
    assert patched.network(images()).shape == (2, 3)
    patched.remove()
    assert base.network(images()).shape == (2, CLASSES)


def test_a_pattern_names_the_layers():
    network = make("group_norm_resnet")
    assert make_kind(PatchKind.GATE, KindOptions(where="layers.0.*, layers.2.norm2")).sites(network) == (
        "layers.0.norm1", "layers.0.norm2", "layers.2.norm2",
    )  # fmt: skip
    assert make_kind(PatchKind.SCALE_BIAS, KindOptions(where="layers.1.norm2")).tensors(network) == (
        "layers.1.norm2.weight", "layers.1.norm2.bias",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        (PatchKind.GATE, {"rank": 2}, "'gate' has no option 'rank'; it takes where."),
        (PatchKind.HEAD, {"where": "*"}, "'head' has no option 'where'; it takes none."),
        (PatchKind.SEPARABLE, {"seed": 2}, "'separable' has no option 'seed'; it takes where, expansion, rank."),
    ],
)
def test_an_option_of_no_use_is_refused_in_one_sentence(kind, options, sentence):
    with pytest.raises(BadInputError) as caught:
        make_kind(kind, KindOptions(**options))
    assert sentence in str(caught.value)


def test_contradicting_kinds_are_refused():
    with pytest.raises(BadInputError, match="one head"):
        make_kinds((PatchKind.HEAD, PatchKind.RANDOM_HEAD), {})
    with pytest.raises(BadInputError, match="options for 'gate', which is not among"):
        make_kinds((PatchKind.HEAD,), {PatchKind.GATE: KindOptions(where="*")})


def test_a_missing_tensor_of_an_added_layer_is_named(base):
    made = make_kind(PatchKind.GATE, KindOptions(where="*"))
    tensors = made.start(base.network, CLASSES)
    gone = next(reversed(tensors))
    del tensors[gone]
    with pytest.raises(PatchMismatchError, match=f"lacks tensor '{gone}'"):
        PatchedNetwork(base).bind(tensors, (made,))


# --- the kinds one by one ------------------------------------------------------------------------------------------


def test_a_gate_scales_each_channel_by_the_sigmoid_of_its_mean():
    x = torch.randn(2, 3, 4, 5)
    gate = ChannelGate(3, image=True)
    gate.a.data, gate.b.data = torch.randn(3), torch.randn(3)
    by_hand = torch.stack([
        torch.stack([torch.sigmoid(gate.a[c] * x[n, c].mean() + gate.b[c]) * x[n, c] for c in range(3)])
        for n in range(2)
    ])  # fmt: skip
    assert torch.allclose(gate(x), by_hand, atol=1e-6)
    assert torch.sigmoid(torch.tensor(OPEN)) > 0.997


def test_a_gate_has_two_parameters_a_channel(base):
    made = make_kind(PatchKind.GATE, KindOptions(where="*"))
    channels = sum(base.network.get_submodule(site).weight.numel() for site in made.sites(base.network))
    assert sum(t.numel() for t in made.start(base.network, CLASSES).values()) == 2 * channels


@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3, 5]), st.integers(1, 2), st.booleans(),
    st.integers(1, 8), st.none() | st.integers(1, 8),
)  # fmt: skip
@settings(deadline=None)
def test_a_separable_convolution_starts_as_the_best_approximation(inputs, outputs, kernel, stride, bias, wide, rank):
    torch.manual_seed(inputs * 100 + outputs * 10 + kernel)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
    reduced = Separable(conv, wide, rank)
    x = torch.randn(2, inputs, 9, 8)
    with torch.no_grad():
        reduced.approximate(conv)
        assert reduced(x).shape == conv(x).shape
        kernel_of_reduced = _kernel(reduced, kernel)
    error = (kernel_of_reduced - conv.weight).double()
    # The best error is what the singular values cut off amount to (Eckart and Young), channel by channel.
    values = torch.linalg.svdvals(conv.weight.detach().double().flatten(2).permute(1, 2, 0))
    cut = values[:, wide:].square().sum() if kernel > 1 else values.new_zeros(())
    if rank is None or rank >= min(outputs, inputs * (wide if kernel > 1 else 1)):
        assert torch.allclose(error.square().sum(), cut, rtol=1e-3, atol=1e-6)
    else:
        assert cut - 1e-6 <= error.square().sum() <= conv.weight.square().sum() + 1e-6


def _kernel(reduced: Separable, side: int) -> torch.Tensor:
    """The dense kernel [outputs, inputs, side, side] that a reduced convolution amounts to."""
    mixing = reduced.pointwise.weight[:, :, 0, 0]
    if reduced.reduce is not None:
        mixing = mixing @ reduced.reduce.weight[:, :, 0, 0]
    if reduced.depthwise is None:
        return mixing[:, :, None, None]
    filters = reduced.depthwise.weight  # [inputs * expansion, 1, side, side]
    inputs = reduced.depthwise.in_channels
    terms = mixing[:, :, None, None] * filters[:, 0]
    return terms.view(len(mixing), inputs, -1, side, side).sum(2)


def test_a_whole_added_layer_is_the_identity_and_a_low_rank_one_is_smaller(base):
    where = KindOptions(where="*", rank=0)
    whole, low = (
        make_kind(PatchKind.ADDED_LAYER, where),
        make_kind(PatchKind.ADDED_LAYER, KindOptions(where="*", rank=2)),
    )
    expected = base.network(images())
    patched = bound(base, whole)
    assert torch.allclose(patched.network(images()), expected, atol=1e-5)
    patched.remove()

    def count(kind):
        return sum(tensor.numel() for tensor in kind.start(base.network, CLASSES).values())

    assert count(low) < count(whole)


def test_biases_are_those_of_normalisations_and_of_convolutions_that_have_one():
    names = make_kind(PatchKind.BIAS).tensors(make("group_norm_resnet"))
    assert names[:3] == ("stem.bias", "layers.0.norm1.bias", "layers.0.norm2.bias")
    assert {name.rpartition(".")[2] for name in names} == {"bias"}
    assert "fc.bias" not in names


def test_lite_residual_branches_stand_beside_blocks_and_keep_their_shape():
    network = make("group_norm_resnet")
    made = make_kind(PatchKind.LITE_RESIDUAL, KindOptions(reduction=2, kernel=5))
    assert made.sites(network) == ("layers.0", "layers.1", "layers.2")
    branch = made.skeleton(network.get_submodule("layers.1"))  # 16 to 32 channels, stride 2
    assert branch.filters.weight.shape == (8, 8, 5, 5)
    assert branch.pointwise.weight.shape == (32, 8, 1, 1)
    assert branch(torch.zeros(1, 16, 7, 7)).shape == (1, 32, 4, 4)
    with pytest.raises(ValueError, match="odd"):
        KindOptions(kernel=4)


def test_a_random_head_depends_on_its_seed_alone_and_is_not_trained(base):
    def drawn(seed):
        made = make_kind(PatchKind.RANDOM_HEAD, KindOptions(seed=seed))
        assert made.trainable(base.network) == ()
        return made.start(base.network, 7)[f"{final_layer(base.network)}.weight"]

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))
    assert drawn(3).shape[0] == 7


def test_squeeze_and_excite_of_the_network_itself_is_found_by_its_type():
    class SqueezeExcite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

    network = nn.Sequential(nn.Conv2d(3, 4, 1), SqueezeExcite(), nn.Flatten(), nn.Linear(4, 2))
    names = make_kind(PatchKind.OWN_SQUEEZE_EXCITE).tensors(network)
    assert names == ("1.fc1.weight", "1.fc1.bias", "1.fc2.weight", "1.fc2.bias")


def test_batch_renorm_is_batch_norm_in_evaluation_and_close_to_it_in_training():
    torch.manual_seed(0)
    norm, plain = BatchRenorm2d(4), nn.BatchNorm2d(4)
    x = torch.randn(8, 4, 6, 6) * 2 + 1
    assert torch.allclose(norm.eval()(x), plain.eval()(x), atol=1e-6)
    for _ in range(600):
        norm.train()(x)
    expected = (x - x.mean((0, 2, 3))[:, None, None]) / x.std((0, 2, 3), unbiased=False)[:, None, None]
    assert torch.allclose(norm(x), expected, atol=2e-2)
    assert torch.allclose(norm.eval()(x), expected, atol=2e-2)  # training and evaluation agree: its purpose


def test_depthwise_filters_and_kinds_of_lite0_have_the_documented_sizes():
    with torch.device("meta"):
        network = EfficientNetLite()
    total = sum(parameter.numel() for parameter in network.parameters())
    share = {
        kind: sum(
            torch.Size(made.shape(network, name, 1000)).numel() for name in made.trainable(network)
        ) / total
        for kind in PatchKind
        if (made := make_kind(kind)) is not None
    }  # fmt: skip
    for kind in (PatchKind.SCALE_BIAS, PatchKind.BIAS, *JOINING):
        assert share[kind] < 0.02, kind
    assert share[PatchKind.LITE_RESIDUAL] == pytest.approx(0.032, abs=0.002)
    assert share[PatchKind.DEPTHWISE] == pytest.approx(0.041, abs=0.003)
    assert share[PatchKind.RANDOM_HEAD] == 0


# --- any network ---------------------------------------------------------------------------------------------------


def test_parts_of_any_network_are_found(base):
    features = features_of(base.network, images())
    head = base.network.get_submodule(base.head)
    assert torch.allclose(head(features), base.network(images()), atol=1e-6)
    units = units_of(base.network)
    assert len(units) >= 4
    assert head not in units
    assert unit_of(base.network, base.head) == len(units)
    order = [
        unit_of(base.network, path.rpartition(".")[0]) for path, _ in base.network.named_parameters() if "." in path
    ]
    assert order == sorted(order)


def test_a_network_without_a_linear_layer_is_refused():
    with pytest.raises(BadInputError, match="Sequential has no linear layer"):
        Base("conv", nn.Sequential(nn.Conv2d(3, 4, 1)), SIDE)


@given(st.sampled_from(list(NETWORKS)), st.lists(st.sampled_from(list(PatchKind)), min_size=1, unique=True))
@settings(deadline=None, max_examples=40)
def test_any_combination_of_kinds_owns_each_tensor_once_and_binds(name, chosen):
    if PatchKind.HEAD in chosen and PatchKind.RANDOM_HEAD in chosen:
        chosen.remove(PatchKind.RANDOM_HEAD)
    base = Base(name, make(name), SIDE)
    kinds = make_kinds(chosen, {})
    owned = owners(kinds, base.network)
    assert set(trainable(kinds, base.network)) <= set(owned)
    starts: dict[str, torch.Tensor] = {}
    for kind in kinds:
        for key, tensor in kind.start(base.network, 4).items():
            assert tuple(tensor.shape) == kind.shape(base.network, key, 4)
            starts.setdefault(key, tensor)
    assert set(starts) == set(owned)
    patched = PatchedNetwork(base)
    patched.bind(starts, kinds)
    classes = 4 if {PatchKind.HEAD, PatchKind.RANDOM_HEAD} & set(chosen) else CLASSES
    assert patched.network(images()).shape == (2, classes)
    patched.remove()
    assert fingerprint(base.network) == base.hash


def test_a_patch_is_checked_against_the_base_whatever_other_patch_is_bound_to_it(tmp_path: Path) -> None:
    base = Base("own", make("efficientnet_lite"), SIDE)
    kinds = (PatchKind.ADDED_LAYER, PatchKind.GATE, PatchKind.HEAD)
    tensors = {
        name: tensor for kind in make_kinds(kinds, {}) for name, tensor in kind.start(base.network, CLASSES).items()
    }
    metadata = PatchMetadata(
        base=base.name, base_hash=base.hash, task="t", labels=tuple(map(str, range(CLASSES))), kinds=kinds,
        resolution=SIDE, preprocessing=Preprocessing(), parameters=1, base_parameters=base.parameters_count,
        created_s=0.0,
    )  # fmt: skip
    _, path = save_patch(Patch(metadata, tensors), tmp_path)
    patched = PatchedNetwork(base)
    patched.apply(load_patch(path, base))
    assert load_patch(path, base).tensors.keys() == tensors.keys()
    patched.remove()
