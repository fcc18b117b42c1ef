"""The traces that ship are those that the program draws."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from patchd.policies.presets_loader import trace_names, trace_text

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from make_traces import SCENES


@pytest.mark.parametrize("scene", SCENES, ids=[scene.name for scene in SCENES])
def test_a_shipped_trace_is_what_the_program_draws(scene) -> None:
    assert scene.text() == trace_text(scene.name)


def test_all_but_the_demo_are_drawn() -> None:
    assert {scene.name for scene in SCENES} | {"demo"} == set(trace_names())
