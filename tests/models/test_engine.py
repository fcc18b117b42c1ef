"""The engine gives the patched network's answers, whatever was bound before."""

from __future__ import annotations

import pytest
import torch
from patchd.models.bases import Base, load_base
from patchd.models.engine import Engine, TorchEngine
from patchd.models.patches import Patch, make_kinds, owners
from patchd.models.patches.shapes import tensor_of
from patchd.policies.errors import BadInputError
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing


@pytest.fixture(scope="module")
def base() -> Base:
    return load_base("lite0")


def nudged_patch(base: Base, classes: int, seed: int) -> Patch:
    """Scale and bias of the base, each value moved a little, and a random head."""
    kinds = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, kind in owners(make_kinds(kinds, {}), base.network).items():
        shape = kind.shape(base.network, name, classes)
        noise = torch.randn(shape, generator=generator)
        own = tensor_of(base.network, name)
        tensors[name] = noise if name.startswith("classifier") else own * (1 + 0.05 * noise.clamp(-3, 3))
    metadata = PatchMetadata(
        base=base.name, base_hash=base.hash, task="nudged", labels=tuple(map(str, range(classes))), kinds=kinds,
        resolution=96, preprocessing=Preprocessing(), parameters=1, base_parameters=base.parameters_count, created_s=0,
    )  # fmt: skip
    return Patch(metadata, tensors)


def by_copy(base: Base, patch: Patch, inputs: torch.Tensor) -> torch.Tensor:
    """The reference: a separate network that holds the patch's values as its own."""
    from patchd.models.networks.efficientnet_lite import EfficientNetLite

    network = EfficientNetLite(classes=len(patch.metadata.labels)).eval()
    network.load_state_dict({**base.network.state_dict(), **patch.tensors})
    with torch.inference_mode():
        return network(inputs).softmax(1)


def test_patched_answers_equal_those_of_a_network_with_the_same_weights(base):
    engine: Engine = TorchEngine(base, 2)
    inputs = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    patches = [nudged_patch(base, classes, seed) for seed, classes in enumerate((10, 32))]
    bare = engine.predict(inputs)
    assert bare.shape == (2, 1000)
    for patch in (*patches, *patches):
        answer = engine.predict(inputs, patch)
        assert answer.shape == (2, len(patch.metadata.labels))
        assert torch.allclose(answer, by_copy(base, patch, inputs), atol=1e-3)
        assert torch.allclose(answer.sum(1), torch.ones(2))
    assert torch.equal(engine.predict(inputs), bare)


def test_odd_resolutions_and_memory_formats_are_all_the_same_to_it(base):
    engine = TorchEngine(base, 1)
    inputs = torch.randn(1, 3, 75, 75, generator=torch.Generator().manual_seed(0))
    last = inputs.contiguous(memory_format=torch.channels_last)
    assert torch.allclose(engine.predict(inputs), engine.predict(last), atol=1e-6)


def test_a_run_says_where_the_time_went(base):
    engine = TorchEngine(base, 1)
    patch = nudged_patch(base, 10, 0)
    inputs = torch.zeros(1, 3, 64, 64)
    engine.run(inputs, patch)
    run = engine.run(inputs, patch)
    assert run.logits.shape == (1, 10)
    assert 0 <= run.bind_ms < run.network_ms
    assert engine.threads == torch.get_num_threads() == 1


def test_a_wrong_shape_is_named(base):
    with pytest.raises(BadInputError, match=r"not \[3, 64, 64\]"):
        TorchEngine(base, 1).run(torch.zeros(3, 64, 64))
