"""Curves as dots in the terminal: within its width, without colour, telling what they show."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.cli.curves import ROWS, curve_text, plot
from patchd.policies.task import MemberProgress
from patchd.policies.training_curve import CurvePoint

VALUES = st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf)


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def falling(rung: int, side: int, steps: int = 60) -> list[CurvePoint]:
    return [
        CurvePoint(
            time_s=0.0,
            rung=rung,
            resolution=side,
            epoch=step // 20,
            step=step,
            loss=2.0 * 0.95**step + 0.1,
            validation=None if step < 20 else 0.5 + step / 200,
        )
        for step in range(1, steps + 1)
    ]


def test_loss_and_validation_are_drawn_rung_after_rung() -> None:
    text = curve_text([*falling(0, 128), *falling(1, 96)])
    loss, validation = text.split("validation accuracy, now 0.800")
    assert loss.startswith("\x1b[1mloss, now 0.192\x1b[0m\n   2.00 \u2502") or "2.00 \u2502" in loss
    for part in (loss, validation):
        assert "128 px" in part
        assert "96 px" in part
        assert "120 steps" in part
        assert sum("\u2502" in line for line in part.splitlines()) == ROWS


def test_nothing_is_drawn_of_a_job_that_has_not_begun() -> None:
    assert curve_text([]) == ""
    assert plot([], 0, {}) == "nothing to draw yet"
    assert "validation" not in curve_text([falling(0, 64)[0]])


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 1000), VALUES), max_size=20), max_size=3),
    st.integers(0, 1000),
    st.dictionaries(st.integers(0, 1000), st.sampled_from(["64 px", "224 px"]), max_size=5),
)
def test_whatever_is_drawn_fits_the_terminal(lines, last, places) -> None:
    text = plot(lines, last, places)
    assert max(map(len, text.splitlines())) <= 80
    assert len(text.splitlines()) in (1, ROWS + 1)


def test_a_line_falls_from_the_upper_left_to_the_lower_right() -> None:
    rows = plot([[(0.0, 1.0), (10.0, 0.0)]], 10, {}).splitlines()
    filled = [[i for i, c in enumerate(row) if "\u2800" < c < "\u2900"] for row in rows[:-1]]
    assert all(filled)
    assert [min(row) for row in filled] == sorted(min(row) for row in filled)
    assert (min(filled[0]), max(filled[-1])) == (rows[0].index("\u2502") + 1, 79)


def test_the_gradient_of_each_of_several_tasks_is_drawn() -> None:
    members = (MemberProgress(task="a", resolution=64, gradient_norm=2.0), MemberProgress(task="b", resolution=64))
    points = [CurvePoint(time_s=1.0, rung=0, resolution=64, epoch=0, step=step, members=members) for step in (1, 2)]
    assert "gradient of a at 64 px on the base, now 2 (each counts as one)" in curve_text(points)
    assert "gradient of b" not in curve_text(points)
