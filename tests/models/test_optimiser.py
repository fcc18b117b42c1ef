"""The optimiser: what `torch.optim.Adam` does, by name, without what that one loads."""

from __future__ import annotations

import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.models.training.optimiser import NamedAdam
from torch import nn

SHAPES = ((3,), (2, 3), (4, 1, 3, 3))


def parameters(seed: int) -> list[nn.Parameter]:
    made = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=made)) for shape in SHAPES]


@given(seed=st.integers(0, 1000), missing=st.lists(st.integers(0, 2), min_size=1, max_size=12))
@settings(max_examples=25)
def test_it_moves_parameters_as_torch_s_own_adam_does_bit_for_bit(seed: int, missing: list[int]) -> None:
    """In each step one of the parameters has no gradient."""
    ours, theirs = parameters(seed), parameters(seed)
    named = NamedAdam()
    for index, parameter in enumerate(ours):
        named.add(str(index), parameter, 1e-2)
    adam = torch.optim.Adam(theirs, 1e-2, foreach=False)
    gradients = torch.Generator().manual_seed(seed + 1)
    for number, without in enumerate(missing):
        for index in range(len(SHAPES)):
            gradient = torch.randn(SHAPES[index], generator=gradients)
            ours[index].grad = None if index == without else gradient.clone()
            theirs[index].grad = None if index == without else gradient.clone()
        for group in adam.param_groups:
            group["lr"] = 1e-2 * named.step(number, len(missing))
        adam.step()
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_a_state_that_was_given_back_goes_on_with_the_same_bits() -> None:
    def run(steps: range, named: NamedAdam, moved: list[nn.Parameter]) -> None:
        for number in steps:
            for parameter in moved:
                parameter.grad = torch.full_like(parameter, 0.1 * (number + 1))
            named.step(number, 6)

    def fresh() -> tuple[NamedAdam, list[nn.Parameter]]:
        moved, named = parameters(1), NamedAdam()
        for index, parameter in enumerate(moved):
            named.add(str(index), parameter, 1e-2)
        return named, moved

    whole, moved = fresh()
    run(range(6), whole, moved)
    first, half = fresh()
    run(range(3), first, half)
    kept = {name: tensor.clone() for name, tensor in first.state().items()}
    second, again = fresh()
    second.restore(kept)
    run(range(3, 6), second, again)
    assert all(torch.equal(one, other) for one, other in zip(moved, again, strict=True))


def test_a_step_does_not_load_torch_s_compiler() -> None:
    code = """
import sys, torch
from patchd.models.training.optimiser import NamedAdam
parameter = torch.nn.Parameter(torch.ones(3))
adam = NamedAdam()
adam.add("p", parameter, 0.1)
parameter.square().sum().backward()
adam.gradient_norm()
adam.step(0, 1)
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
