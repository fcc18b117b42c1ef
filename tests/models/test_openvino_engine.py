"""The OpenVINO engine answers as the torch reference does, and leaves to it what it cannot run."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from networks import NETWORKS, SIDE, make
from patchd.models import openvino_engine
from patchd.models.bases import Base, fingerprint, load_base
from patchd.models.engine import Engine, TorchEngine
from patchd.models.graph_cache import GraphCache
from patchd.models.openvino_engine import OpenVinoEngine
from patchd.models.openvino_graph import AffinePart, affine_row
from patchd.models.patches import Patch, make_kinds, owners
from patchd.models.patches.shapes import tensor_of
from patchd.models.photographs import crops
from patchd.models.preprocessing import decode_image, to_input
from patchd.policies.errors import BadInputError, UnavailableError
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing
from patched import moved
from torch import Tensor, nn


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
FILTERS = (*AFFINE, PatchKind.BASE_FRACTION)


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
    assert not engine.remarks
    assert fingerprint(base.network) == base.hash


@pytest.mark.parametrize(("name", "side"), [("lite1", 240), ("lite2", 260)])
def test_the_larger_bases_agree_with_the_reference_at_their_own_resolutions(
    name: str, side: int, photographs: dict[str, Path]
) -> None:
    base = load_base(name)
    inputs = to_input(decode_image(photographs["china"].read_bytes()), side, Preprocessing()).unsqueeze(0)
    assert inputs.shape == (1, 3, side, side)
    engine, reference = OpenVinoEngine(base, 2), TorchEngine(base, 2)
    for patch in (None, nudged(base, AFFINE, 1)):
        expected = reference.run(inputs, patch)
        reference.patched.remove()
        run = engine.run(inputs, patch)
        assert (run.engine, engine.remarks) == ("openvino", ())
        assert torch.allclose(run.logits, expected.logits, atol=1e-3)


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


def test_images_of_different_tasks_share_a_batch_and_each_gets_its_own_answer(base: Base) -> None:
    engine = OpenVinoEngine(base, 2)
    patches = [None, nudged(base, AFFINE, 1), nudged(base, (PatchKind.HEAD,), 2, 3), nudged(base, FILTERS, 3)]
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    mixed = [*patches, *reversed(patches)]
    run = engine.run_mixed(images, mixed)
    assert set(run.engines) == {"openvino"}
    for image, patch, logits in zip(images, mixed, run.logits, strict=True):
        expected = TorchEngine(base, 1)
        assert torch.allclose(logits, expected.run(image.unsqueeze(0), patch).logits[0], atol=1e-3)
        expected.patched.remove()
    assert fingerprint(base.network) == base.hash


@pytest.mark.parametrize("kind", [kind for kind in PatchKind if kind is not PatchKind.OWN_SQUEEZE_EXCITE])
def test_every_patch_kind_runs_on_it_and_leaves_the_base_s_own_graph_alone(base: Base, kind: PatchKind) -> None:
    engine = OpenVinoEngine(base, 2)
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    engine.run(inputs)
    before = engine.run(inputs)
    patch = moved(base, (kind,))
    run = engine.run(inputs, patch)
    reference = TorchEngine(base, 1)
    assert run.engine == "openvino"
    assert torch.allclose(run.logits, reference.run(inputs, patch).logits, atol=1e-3)
    reference.patched.remove()
    larger = torch.nn.functional.interpolate(inputs, 96)  # compiled after it: from the base's own filters
    assert torch.allclose(engine.run(larger).logits, TorchEngine(base, 1).run(larger).logits, atol=1e-3)
    assert torch.equal(before.logits, engine.run(inputs).logits)
    assert fingerprint(base.network) == base.hash


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_any_family_run_on_it(name: str) -> None:
    own = Base(name, make(name), SIDE)
    engine = OpenVinoEngine(own, 2)
    inputs = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    run = engine.run(inputs)
    assert torch.allclose(run.logits, TorchEngine(own, 1).run(inputs).logits, atol=1e-3)
    assert (run.engine, engine.remarks) == ("openvino", ())


class Branching(nn.Module):
    """A network whose way depends on what it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3))
        return self.fc(mean if mean.sum() > 0 else -mean)


def test_a_network_that_cannot_be_traced_runs_on_the_reference_and_the_reason_is_said() -> None:
    torch.manual_seed(0)
    own = Base("branching", Branching(), SIDE)
    engine = OpenVinoEngine(own, 2)
    inputs = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    run = engine.run(inputs)
    assert run.engine == "torch"
    assert torch.equal(run.logits, TorchEngine(own, 1).run(inputs).logits)
    assert engine.remarks[0].startswith("The network Branching cannot be traced")
    engine.run(inputs)
    assert len(engine.remarks) == 1


def test_a_graph_that_disagrees_is_refused_in_words_and_torch_answers(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = AffinePart.row
    monkeypatch.setattr(AffinePart, "row", lambda self, tensors: row(self, tensors) * 1.01)
    engine = OpenVinoEngine(base, 1)
    inputs = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        run = engine.run(inputs)
        assert run.engine == "torch"
        assert torch.equal(run.logits, TorchEngine(base, 1).run(inputs).logits)
    (remark,) = engine.remarks
    assert "at 64 px differ from the reference's" in remark


def test_graphs_come_from_the_disk_the_second_time_and_a_damaged_one_is_made_anew(
    base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    patch = nudged(base, FILTERS, 3)

    def answers() -> list[Tensor]:
        engine = OpenVinoEngine(base, 2, cache=GraphCache(tmp_path))
        runs = [engine.run(inputs), engine.run(inputs[:1]), engine.run(inputs[:1], patch)]
        assert {run.engine for run in runs} == {"openvino"}
        assert not engine.remarks
        return [run.logits for run in runs]

    first = answers()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    with monkeypatch.context() as without:
        without.setattr(openvino_engine, "graph", lambda *_: pytest.fail("compiled, though it lies on the disk"))
        assert all(torch.equal(a, b) for a, b in zip(first, answers(), strict=True))
    data = bytearray(files[0].read_bytes())
    data[5000] ^= 1
    files[0].write_bytes(data)
    files[1].write_bytes(data[:4000])
    assert all(torch.equal(a, b) for a, b in zip(first, answers(), strict=True))
    assert sorted(tmp_path.iterdir()) == files
    assert files[0].read_bytes() != data


def test_a_graph_that_cannot_be_kept_is_said_once_and_used(base: Base, tmp_path: Path) -> None:
    cache = GraphCache(tmp_path / "graphs")
    (tmp_path / "graphs").rmdir()
    engine = OpenVinoEngine(base, 1, cache=cache)
    for side in (64, 96):
        assert engine.run(torch.zeros(1, 3, side, side)).engine == "openvino"
    (remark,) = engine.remarks
    assert remark.startswith("A compiled graph is not kept: ")


def test_graphs_in_memory_are_bounded_and_the_one_used_last_stays(base: Base) -> None:
    engine = OpenVinoEngine(base, 1, graph_bytes=2 * 4 * base.parameters_count)
    for side in (64, 96, 64, 128):
        engine.run(torch.zeros(1, 3, side, side))
    assert [key.side for key in engine._graphs] == [64, 128]


def test_bfloat16_is_used_only_where_it_agrees_on_photographs_and_said_otherwise(base: Base) -> None:
    engine = OpenVinoEngine(base, 2, precision="bf16")
    inputs = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    logits = engine.run(inputs).logits
    expected = TorchEngine(base, 1).run(inputs).logits
    if not engine.remarks:  # judged good: then it is coarser than f32, but near
        assert torch.allclose(logits, expected, atol=2.0)
        return
    (remark,) = engine.remarks
    assert "so f32 is used" in remark
    assert torch.allclose(logits, expected, atol=1e-3)


def test_the_photographs_are_real_inputs_and_the_same_for_everyone() -> None:
    first, again, other = crops(4, 64), crops(4, 64), crops(4, 64, seed=1)
    assert first.shape == (4, 3, 64, 64)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert all(float(crop.std()) > 0.05 for crop in first)


def test_wrong_shapes_are_named_as_by_the_reference(base: Base) -> None:
    with pytest.raises(BadInputError, match=r"not \[3, 64, 64\]"):
        OpenVinoEngine(base, 1).run(torch.zeros(3, 64, 64))


def test_without_the_package_it_says_what_to_install(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UnavailableError, match="Install the package openvino"):
        OpenVinoEngine(base, 1)


def test_a_resolution_warmed_in_another_thread_is_compiled_no_more_and_answers_as_the_reference(monkeypatch) -> None:
    base = load_base("lite0")
    engine, patch = OpenVinoEngine(base, 2), nudged(base, AFFINE, 0)
    inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 64, 64), np.float32))
    warming = Thread(target=engine.warm, args=(64,))
    warming.start()
    while warming.is_alive():
        engine.run(inputs[..., :32, :32], patch)  # the first one has a graph made and the reference bound meanwhile
    warming.join()
    monkeypatch.setattr(engine, "_compile", lambda key: pytest.fail(f"{key.side} px was compiled again"))
    expected = TorchEngine(load_base("lite0"), 2).run(inputs, patch).logits
    assert torch.allclose(engine.run(inputs, patch).logits, expected, atol=1e-3 * max(1.0, float(expected.abs().max())))
    assert torch.allclose(engine.run(inputs[:1], patch).logits, expected[:1], atol=1e-2)
    assert not engine.remarks
