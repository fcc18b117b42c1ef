"""Patches come back from disk as they were, fit one base only, and leave no trace when removed."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.models.bases import Base, fingerprint
from patchd.models.networks.efficientnet_lite import EfficientNetLite
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import Patch, load_patch, make_kind, make_kinds, owners, read_metadata, save_patch, trainable
from patchd.models.patches.base_fraction import BaseFraction
from patchd.models.patches.scale_bias import ScaleBias
from patchd.models.patches.shapes import tensor_of
from patchd.policies.errors import NotFoundError, PatchMismatchError
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing
from safetensors.torch import save
from torch import nn

CLASSES = 10
ALL_KINDS = tuple(kind for kind in PatchKind if kind is not PatchKind.RANDOM_HEAD)  # a patch has one head
some_kinds = st.lists(st.sampled_from(ALL_KINDS), min_size=1, unique=True).map(tuple)


def tiny_base(seed: int = 0) -> Base:
    torch.manual_seed(seed)
    return Base("tiny", EfficientNetLite(0.25, 0.5, CLASSES), 32)


@pytest.fixture(scope="module")
def base() -> Base:
    return tiny_base()


def make_patch(base: Base, kinds: tuple[PatchKind, ...], classes: int = CLASSES, seed: int = 0) -> Patch:
    """A patch of random positive values, as large as its kinds allow."""
    if PatchKind.HEAD not in kinds:
        classes = CLASSES
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.rand(kind.shape(base.network, name, classes), generator=generator) + 0.1
        for name, kind in owners(make_kinds(kinds, {}), base.network).items()
    }
    metadata = PatchMetadata(
        base=base.name,
        base_hash=base.hash,
        task="random",
        labels=tuple(f"class {index}" for index in range(classes)),
        kinds=kinds,
        resolution=96,
        preprocessing=Preprocessing(),
        parameters=sum(tensors[name].numel() for name in trainable(make_kinds(kinds, {}), base.network)),
        base_parameters=base.parameters_count,
        created_s=1.0,
    )
    return Patch(metadata, tensors)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.contiguous(), other.contiguous())


# --- kinds ---------------------------------------------------------------------------------------------------------


def test_scale_and_bias_of_lite0_is_what_the_mission_counts():
    with torch.device("meta"):
        network = EfficientNetLite()
    names = ScaleBias().trainable(network)
    trained = sum(tensor_of(network, name).numel() for name in names)
    assert trained == 2 * 21_008
    assert trained < 0.02 * sum(parameter.numel() for parameter in network.parameters())
    assert len(ScaleBias().tensors(network)) == 2 * len(names)


def test_scale_and_bias_finds_norms_by_type_in_any_network():
    network = nn.Sequential(nn.GroupNorm(2, 4), nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4)), nn.BatchNorm1d(4))
    assert ScaleBias().tensors(network) == (
        "0.weight", "0.bias", "1.0.weight", "1.0.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var",
    )  # fmt: skip
    assert ScaleBias().tensors(nn.BatchNorm2d(3, affine=False)) == ("running_mean", "running_var")


def test_scale_and_bias_head_and_convolutions_own_every_tensor_once(base):
    kinds = (PatchKind.SCALE_BIAS, PatchKind.HEAD, PatchKind.BASE_FRACTION)
    owned = [name for kind in kinds for name in make_kind(kind).tensors(base.network)]
    assert len(owned) == len(set(owned))
    stored = {name for name in base.network.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(owned) == stored


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_frees_more_of_the_base_from_the_head_down(base, one, other):
    low, high = sorted((one, other))
    all_names = BaseFraction(fraction=1.0).tensors(base.network)
    fewer, more = BaseFraction(fraction=low).tensors(base.network), BaseFraction(fraction=high).tensors(base.network)
    assert all_names[len(all_names) - len(more) :] == more
    assert more[len(more) - len(fewer) :] == fewer
    total = sum(tensor_of(base.network, name).numel() for name in all_names)
    assert sum(tensor_of(base.network, name).numel() for name in more) <= high * total


def test_the_ends_of_fraction_are_nothing_and_every_convolution(base):
    assert BaseFraction(fraction=0.0).tensors(base.network) == ()
    convolutions = [m for m in base.network.modules() if isinstance(m, nn.Conv2d)]
    assert len(BaseFraction(fraction=1.0).tensors(base.network)) == len(convolutions)
    with pytest.raises(ValueError, match="fraction"):
        BaseFraction(fraction=1.5)


# --- files ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(kinds=some_kinds, classes=st.integers(2, 40), seed=st.integers(0, 2**31))
def test_a_saved_patch_comes_back_bit_for_bit(base, kinds, classes, seed):
    patch = make_patch(base, kinds, classes, seed)
    with tempfile.TemporaryDirectory() as folder:
        patch_id, path = save_patch(patch, Path(folder))
        assert path.name == f"{patch_id}.safetensors"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == patch_id
        assert [entry.name for entry in Path(folder).iterdir()] == [path.name]
        loaded = load_patch(path, base)
        assert read_metadata(path) == loaded.metadata == patch.metadata
        assert set(loaded.tensors) == set(patch.tensors)
        assert all(same_bits(loaded.tensors[name], tensor) for name, tensor in patch.tensors.items())
        assert save_patch(loaded, Path(folder))[0] == patch_id


def test_a_part_of_the_base_fraction_is_a_whole_patch(base, tmp_path):
    patch = make_patch(base, (PatchKind.BASE_FRACTION,))
    some = {name: patch.tensors[name] for name in BaseFraction(fraction=0.5).tensors(base.network)}
    assert 0 < len(some) < len(patch.tensors)
    _, path = save_patch(Patch(patch.metadata, some), tmp_path)
    assert set(load_patch(path, base).tensors) == set(some)


def refused(base: Base, patch: Patch, folder: Path) -> str:
    _, path = save_patch(patch, folder)
    with pytest.raises(PatchMismatchError) as caught:
        load_patch(path, base)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def altered(patch: Patch, **changes: object) -> Patch:
    return replace(patch, metadata=patch.metadata.model_copy(update=changes))


@settings(max_examples=25)
@given(data=st.data())
def test_a_tensor_that_does_not_fit_is_refused_by_name(base, data):
    patch = make_patch(base, (PatchKind.SCALE_BIAS, PatchKind.HEAD), 5)
    name = data.draw(st.sampled_from(sorted(patch.tensors)))
    tensors = dict(patch.tensors)
    tensor = tensors.pop(name)
    change = data.draw(st.sampled_from(["missing", "renamed", "longer", "half", "inf", "nan"]))
    expected = f"'{name}'"
    if change == "renamed":
        tensors[name + "x"] = tensor
    elif change == "longer":
        tensors[name] = torch.cat([tensor, tensor])
    elif change == "half":
        tensors[name] = tensor.half()
    elif change in ("inf", "nan"):
        tensors[name] = tensor.clone()
        tensors[name].view(-1)[-1] = float(change)
    with tempfile.TemporaryDirectory() as folder:
        assert expected in refused(base, Patch(patch.metadata, tensors), Path(folder))


def test_a_tensor_beside_the_kinds_is_refused_by_name(base, tmp_path):
    patch = make_patch(base, (PatchKind.HEAD,))
    extra = {**patch.tensors, "stem.conv.weight": torch.zeros(32, 3, 3, 3)}
    assert "'stem.conv.weight', which does not belong to its kinds (head)" in refused(
        base, Patch(patch.metadata, extra), tmp_path
    )


def test_a_patch_of_another_base_is_refused_with_both_fingerprints(base, tmp_path):
    patch = make_patch(tiny_base(seed=1), (PatchKind.HEAD,))
    text = refused(base, patch, tmp_path)
    assert patch.metadata.base_hash[:12] in text
    assert base.hash[:12] in text
    assert "made for base 'lite2', not for 'tiny'" in refused(base, altered(patch, base="lite2"), tmp_path)


def test_another_count_of_classes_needs_a_head(base, tmp_path):
    patch = altered(make_patch(base, (PatchKind.SCALE_BIAS,)), labels=("a", "b"))
    assert "names 2 classes but brings no head" in refused(base, patch, tmp_path)


def test_a_newer_format_is_refused(base, tmp_path):
    assert "has format 2" in refused(base, altered(make_patch(base, (PatchKind.HEAD,)), format=2), tmp_path)


def test_a_missing_file_is_named(tmp_path):
    for read in (load_patch, read_metadata):
        with pytest.raises(NotFoundError, match=r"no patch file .*absent\.safetensors"):
            read(tmp_path / "absent.safetensors")


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_sentence(base, data):
    with tempfile.TemporaryDirectory() as folder:
        _, path = save_patch(make_patch(base, (PatchKind.HEAD,), 2), Path(folder))
        good = path.read_bytes()
        place = data.draw(st.integers(0, len(good) - 1))
        if data.draw(st.booleans()):
            bad = good[:place]
        else:
            bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
        path.write_bytes(bad)
        with pytest.raises(PatchMismatchError, match="damaged"):
            load_patch(path, base)
        # Under another name only the structure can tell, and nothing but our own errors may come out of it.
        other = Path(folder, "imported.safetensors")
        other.write_bytes(bad)
        for read in (lambda: load_patch(other, base), lambda: read_metadata(other)):
            try:
                read()
            except PatchMismatchError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("content", [b"", b"\x00", b"hello, I am no patch", b"\xff" * 64, struct.pack("<Q", 2) + b"{}",
                                     struct.pack("<Q", 2) + b"[]", save({"classifier.weight": torch.zeros(1)}),
                                     save({}, {"patchd": json.dumps({"format": 1})})])  # fmt: skip
def test_what_is_no_patch_file_is_said_to_be_none(content, tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (load_patch, read_metadata):
        with pytest.raises(PatchMismatchError, match=r"x\.safetensors is no whole patch file"):
            read(path)


# --- applying ------------------------------------------------------------------------------------------------------


def storage_of(network: nn.Module) -> dict[str, tuple[int, int]]:
    """The identity of every tensor object and of its memory."""
    named = [*network.named_parameters(), *network.named_buffers()]
    return {name: (id(tensor), tensor.data_ptr()) for name, tensor in named}


@settings(max_examples=25)
@given(sequence=st.lists(st.one_of(st.none(), st.integers(0, 5)), max_size=12))
def test_removing_a_patch_restores_every_bit(base, sequence):
    kinds = (
        (PatchKind.SCALE_BIAS,), (PatchKind.HEAD,), (PatchKind.SCALE_BIAS, PatchKind.HEAD),
        (PatchKind.BASE_FRACTION,), ALL_KINDS, (PatchKind.HEAD, PatchKind.BASE_FRACTION),
    )  # fmt: skip
    patches = [make_patch(base, chosen, 3 + index, seed=index) for index, chosen in enumerate(kinds)]
    before, hash_before = storage_of(base.network), fingerprint(base.network)
    patched = PatchedNetwork(base)
    for step in sequence:
        if step is None:
            patched.remove()
            assert patched.active is None
            assert fingerprint(base.network) == hash_before
            continue
        patched.apply(patches[step])
        assert patched.active is patches[step]
        bound = {tensor.data_ptr() for tensor in base.network.state_dict().values()}
        own = {tensor.data_ptr() for tensor in patches[step].tensors.values()}
        assert bound - own <= {pointer for _, pointer in before.values()}, "a tensor of the patch before is still bound"
        assert own <= bound or PatchKind.SEPARABLE in patches[step].metadata.kinds  # it takes a patched layer's place
    patched.remove()
    assert storage_of(base.network) == before
    assert fingerprint(base.network) == hash_before == base.hash


def test_training_a_bound_patch_leaves_the_base_alone(base):
    patch = make_patch(base, (PatchKind.SCALE_BIAS, PatchKind.HEAD), 4)
    patched = PatchedNetwork(base)
    untouched = {name: tensor.clone() for name, tensor in patch.tensors.items()}
    with patched.patched(patch) as network:
        network.train()
        parameters = [tensor_of(network, name) for name in trainable(make_kinds(patch.metadata.kinds, {}), network)]
        for parameter in parameters:
            parameter.requires_grad_(True)
        optimiser = torch.optim.SGD(parameters, lr=0.1)
        network(torch.randn(4, 3, 32, 32)).square().mean().backward()
        optimiser.step()
        network.eval()
    assert fingerprint(base.network) == base.hash
    assert not any(parameter.requires_grad for parameter in base.network.parameters())
    assert all(parameter.grad is None for parameter in base.network.parameters())
    # What was learned, and the statistics that moved, are in the patch.
    for name in ("stem.norm.running_mean", "stem.norm.weight", "classifier.bias"):
        assert not torch.equal(patch.tensors[name], untouched[name]), name


def test_a_context_restores_what_was_bound_before_even_after_an_error(base):
    one, other = make_patch(base, (PatchKind.HEAD,), 3), make_patch(base, (PatchKind.SCALE_BIAS,))
    patched = PatchedNetwork(base)
    patched.apply(one)
    with pytest.raises(ZeroDivisionError), patched.patched(other):
        1 / (patched.active is not other)
    assert patched.active is one
    with patched.patched(None):
        assert patched.active is None
        assert fingerprint(base.network) == base.hash
    patched.remove()


def test_a_patch_without_a_place_changes_nothing(base):
    patch = make_patch(base, (PatchKind.HEAD,))
    patched = PatchedNetwork(base)
    with pytest.raises(PatchMismatchError, match=r"no tensor 'blocks\.99\.weight'"):
        patched.apply(Patch(patch.metadata, {**patch.tensors, "blocks.99.weight": torch.zeros(1)}))
    assert patched.active is None
    assert fingerprint(base.network) == base.hash
