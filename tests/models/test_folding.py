"""Folded networks answer as the patched base does, and whatever stays says why."""

from __future__ import annotations

import pytest
import torch
from networks import CLASSES, NETWORKS, SIDE, make
from patchd.models.bases import Base, fingerprint, load_base
from patchd.models.folding import Folded, fold
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import Patch
from patchd.models.photographs import crops
from patchd.models.tracing import NORMS
from patchd.policies.errors import BadInputError
from patchd.policies.task import KindOptions, PatchKind
from patched import moved
from torch import Tensor

K = PatchKind
KINDS = [kind for kind in PatchKind if kind is not K.OWN_SQUEEZE_EXCITE]
COMBINATIONS = [(kind,) for kind in KINDS] + [
    (K.SCALE_BIAS, K.HEAD),
    (K.SCALE_BIAS, K.ADDED_LAYER, K.HEAD),
    (K.SCALE_BIAS, K.GATE, K.ADDED_LAYER, K.HEAD),
    (K.SCALE_BIAS, K.ADDED_NEURONS, K.SQUEEZE_EXCITE, K.RANDOM_HEAD),
    (K.BIAS, K.GATE, K.LITE_RESIDUAL, K.HEAD),
]


def check(base: Base, patch: Patch | None, inputs: Tensor) -> Folded:
    """Fold, and compare with the patched base."""
    folded = fold(base, patch)
    with torch.inference_mode():
        with PatchedNetwork(base).patched(patch) as network:
            expected = network(inputs)
        got = folded.network(inputs)
    assert (got - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))
    assert fingerprint(base.network) == base.hash
    return folded


def left(folded: Folded) -> list[str]:
    """The normalisations that a folded network still scales and shifts with."""
    return [
        path
        for path, module in folded.network.named_modules()
        if type(module) in NORMS and getattr(module, "weight", None) is not None
    ]


@pytest.mark.parametrize("kinds", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_answers_as_the_patched_one_and_accounts_for_every_normalisation(
    name: str, kinds: tuple[PatchKind, ...]
) -> None:
    base = Base(name, make(name), SIDE)
    try:
        patch = moved(base, kinds)
        empty = not patch.tensors
    except BadInputError:
        empty = True
    if empty:
        pytest.skip("the kind finds nothing to act on in this network")
    inputs = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    folded = check(base, patch, inputs)
    norms = [path for path, module in base.network.named_modules() if type(module) in NORMS]
    told = [step.path for step in folded.steps] + [kept.path for kept in folded.kept]
    assert len(told) == len(set(told))
    assert {path.replace(".inner", "") for path in told} >= set(norms)
    assert {kept.path for kept in folded.kept} >= set(left(folded))
    assert all(kept.why for kept in folded.kept)


@pytest.mark.parametrize("name", ["lite0", "lite2"])
def test_the_bases_fold_without_a_rest(name: str) -> None:
    base = load_base(name)
    for kinds in ((K.SCALE_BIAS, K.HEAD), (K.SCALE_BIAS, K.ADDED_LAYER, K.HEAD)):
        folded = check(base, moved(base, kinds), crops(2, 96))
        assert folded.kept == ()
        assert left(folded) == []
        assert not any("layer" in path for path, _ in folded.network.named_modules())
    assert len(fold(base, None).steps) == sum(type(module) in NORMS for module in base.network.modules())


def test_a_whole_added_layer_folds_like_one_of_low_rank() -> None:
    base = Base("own", make("efficientnet_lite"), SIDE)
    patch = moved(base, (K.ADDED_LAYER,), {K.ADDED_LAYER: KindOptions(rank=0)})
    folded = check(base, patch, torch.randn(2, 3, SIDE, SIDE))
    assert any(step.path.endswith(".layer") for step in folded.steps)
    assert folded.kept == ()


def test_what_stays_says_why() -> None:
    def reasons(name: str, kinds: tuple[PatchKind, ...]) -> dict[str, str]:
        base = Base(name, make(name), SIDE)
        return {kept.path: kept.why for kept in fold(base, moved(base, kinds)).kept}

    lite = reasons("efficientnet_lite", (K.GATE, K.HEAD))
    assert lite["blocks.0.depthwise.norm:gate"] == "a gate depends on its input"
    resnet = reasons("group_norm_resnet", (K.SCALE_BIAS, K.HEAD))
    assert resnet["layers.0.norm1"] == (
        "it computes its statistics from its input, and it is read by 'relu', which is no linear layer"
    )
    assert resnet["layers.0.norm2"].endswith("it is read by 'add', which is no linear layer")
    assert reasons("vision_transformer", (K.SCALE_BIAS, K.HEAD)) == {}  # every layer norm stands before linear layers
    depthwise = reasons("efficientnet_lite", (K.SCALE_BIAS, K.HEAD))
    assert depthwise == {}
    base = Base("own", make("efficientnet_lite"), SIDE)
    options = {K.ADDED_LAYER: KindOptions(where="blocks.*.depthwise.norm", rank=2)}
    dense = fold(base, moved(base, (K.ADDED_LAYER,), options)).kept
    assert dense
    assert all("which it would make dense" in kept.why for kept in dense)


def test_classes_are_those_of_the_patch() -> None:
    base = Base("own", make("efficientnet_lite"), SIDE)
    patch = moved(base, (K.HEAD,))
    assert fold(base, patch).network(torch.zeros(1, 3, SIDE, SIDE)).shape == (1, CLASSES)
