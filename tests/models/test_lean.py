"""Lean passes give the gradients that torch's own give, keep less, and leave nothing behind."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from networks import CLASSES, NETWORKS, SIDE, make
from patchd.models.bases import Base, fingerprint
from patchd.models.networks import EfficientNetLite
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import make_kinds
from patchd.models.training.bits import pack_open, where_open
from patchd.models.training.features import FeatureStore
from patchd.models.training.inputs import Part, PartInputs
from patchd.models.training.lean import lean
from patchd.models.training.meter import kept_bytes, tensors_of
from patchd.models.training.rung import RungTraining
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import PatchKind, Preprocessing, TaskSpec, TrainSpec
from torch import Tensor, nn

K = PatchKind
COMBINATIONS = [(kind, K.HEAD) for kind in PatchKind if kind not in (K.HEAD, K.RANDOM_HEAD)] + [
    (K.SCALE_BIAS, K.BASE_FRACTION, K.HEAD),
    (K.SCALE_BIAS, K.GATE, K.ADDED_LAYER, K.HEAD),
]


def trained(network: nn.Module, kinds: tuple[PatchKind, ...]) -> tuple[PatchedNetwork, dict[str, nn.Parameter]]:
    """The network in float64 with these kinds bound to it, and the parameters that train."""
    torch.manual_seed(0)
    made, base = make_kinds(kinds, {}), Base("own", network.double(), SIDE)
    names = {name for kind in made for name in kind.trainable(network)}
    start = {name: value for kind in reversed(made) for name, value in kind.start(network, CLASSES).items()}
    moved = {
        name: value.double() * (1 + 0.1 * torch.rand_like(value)) + 0.05 * torch.randn(value.shape)
        for name, value in start.items()
    }
    bound = {name: nn.Parameter(value, requires_grad=name in names) for name, value in moved.items()}
    patched = PatchedNetwork(base)
    patched.bind({name: p if p.requires_grad else p.data for name, p in bound.items()}, made)
    return patched, {name: p for name, p in bound.items() if p.requires_grad}


def pass_through(patched: PatchedNetwork, parameters: dict[str, nn.Parameter], side: int, leanly: bool):
    """Answers and gradients of one step, and the bytes kept in it."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, side, side, generator=generator).double()
    images = images.contiguous(memory_format=patched.base.memory_format)
    answers: list[Tensor] = []

    def forward() -> Tensor:
        with lean(patched.network) if leanly else nullcontext():
            answers.append(patched.network(images))
        return answers[0]

    kept = kept_bytes(forward, (*tensors_of(patched.network), images))
    nn.functional.cross_entropy(answers[0], torch.arange(4)).backward()
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = None
    return answers[0].detach(), gradients, kept


def same_and_less(patched: PatchedNetwork, parameters: dict[str, nn.Parameter], side: int = SIDE) -> float:
    """Compare a lean step with a plain one; the share of the bytes that it keeps."""
    answers, gradients, kept = pass_through(patched, parameters, side, leanly=False)
    lean_answers, lean_gradients, lean_kept = pass_through(patched, parameters, side, leanly=True)
    assert torch.allclose(lean_answers, answers, rtol=1e-9, atol=1e-12)
    for name, gradient in gradients.items():
        mine = lean_gradients[name]
        assert (gradient is None) == (mine is None), name
        if gradient is not None:
            assert torch.allclose(mine, gradient, rtol=1e-7, atol=1e-9 * float(gradient.abs().max())), name
    assert lean_kept <= kept * 33 / 32  # a rectifier's bits come on top where its output is needed anyway
    return lean_kept / max(1, kept)


@pytest.mark.parametrize("kinds", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_torch_with_every_kind(name: str, kinds: tuple[PatchKind, ...]) -> None:
    patched, parameters = trained(make(name), kinds)
    same_and_less(patched, parameters)


@pytest.mark.parametrize(
    ("kinds", "share"),
    [((K.BIAS, K.HEAD), 0.02), ((K.BIAS, K.LITE_RESIDUAL, K.HEAD), 0.04), ((K.SCALE_BIAS, K.HEAD), 0.25)],
    ids=["bias", "bias + lite residual", "scale and bias"],
)
def test_what_is_kept_follows_from_what_trains(kinds: tuple[PatchKind, ...], share: float) -> None:
    torch.manual_seed(0)
    patched, parameters = trained(EfficientNetLite(0.5, 0.5, CLASSES).eval(), kinds)
    assert same_and_less(patched, parameters, 64) < share


@pytest.mark.parametrize("chosen", range(1, 8))
def test_parts_of_a_layer_train_alone(chosen: int) -> None:
    """Filters, scale and bias in every combination: each asks for something else to be kept."""
    patched = PatchedNetwork(Base("own", make("efficientnet_lite").double(), SIDE))
    parameters = {
        name: parameter.requires_grad_()
        for unit in ("blocks.1.depthwise", "blocks.2.expand", "blocks.2.project")
        for place, leaf in enumerate(("conv.weight", "norm.weight", "norm.bias"))
        for name, parameter in [(f"{unit}.{leaf}", patched.network.get_parameter(f"{unit}.{leaf}"))]
        if chosen >> place & 1
    }
    same_and_less(patched, parameters)


def test_nothing_is_left_behind_not_even_by_an_error() -> None:
    network = make("efficientnet_lite")
    before, base = [dict(module.__dict__) for module in network.modules()], fingerprint(network)
    with pytest.raises(RuntimeError), lean(network):
        network(torch.zeros(1, 4, SIDE, SIDE))
    with lean(network), torch.no_grad():
        leanly = network(torch.ones(1, 3, SIDE, SIDE))
    assert torch.equal(leanly, network(torch.ones(1, 3, SIDE, SIDE)).detach())
    assert [module.__dict__.keys() for module in network.modules()] == [each.keys() for each in before]
    assert fingerprint(network) == base


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("ceiling", [6.0, math.inf])
def test_bits_stand_for_where_a_rectifier_is_open(layout, dtype, ceiling) -> None:
    y = (torch.randn(3, 5, 7, 3, generator=torch.Generator().manual_seed(0)) * 6).clamp(0, ceiling).to(dtype)
    y = y.contiguous(memory_format=layout)
    packed = pack_open(y, ceiling)
    assert packed.nbytes == -(-y.numel() // 8)
    gradient = torch.randn(3, 5, 1, 1).to(dtype).expand(y.shape)
    assert torch.equal(where_open(packed, gradient, y.stride()), torch.where((y > 0) & (y < ceiling), gradient, 0))


def test_a_lean_plan_keeps_less_of_a_step(tmp_path: Path) -> None:
    base = Base("own", make("efficientnet_lite"), SIDE)
    part = Part(torch.randint(0, 256, (4, SIDE, SIDE, 3), dtype=torch.uint8), torch.arange(4))
    task = TaskSpec(name="t", labels=tuple("abcd"), resolutions=(SIDE,))
    spec = TrainSpec(task="t", kinds=(K.SCALE_BIAS, K.HEAD))
    inputs = PartInputs(part, Preprocessing(), base.memory_format)
    rung = RungTraining(base, task, spec, inputs, {}, FeatureStore(tmp_path))
    kept = []
    for leanly in (False, True):
        rung.follow(TrainingPlan(paused=False, lean=leanly))
        kept.append(kept_bytes(lambda: rung.logits_of(0, torch.arange(4)), tensors_of(base.network)))
        rung.close()
    assert kept[1] < kept[0] / 3


def test_single_operations_of_any_network_keep_little() -> None:
    norm = nn.BatchNorm2d(4).eval().requires_grad_(False)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    cases: list[tuple[Callable[[], Tensor], int]] = [
        (lambda: nn.functional.conv2d(x, torch.ones(4, 4, 3, 3), padding=1), 4 * 4 * 9 * 4),
        (lambda: norm(x), 0),
        (lambda: torch.relu(x), -(-x.numel() // 8)),
        (lambda: nn.ReLU6(inplace=True)(x + 1), -(-x.numel() // 8)),
        (lambda: nn.functional.adaptive_avg_pool2d(x, (3, 3)), 0),
    ]
    for operation, bytes_ in cases:
        with lean(norm):
            assert kept_bytes(operation, tensors_of(norm)) == bytes_
