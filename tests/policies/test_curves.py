"""Curves over signals: between their points, never above themselves, and still where a signal only swings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.curves import BAND, STEP, Curve
from pydantic import ValidationError

HEIGHTS = st.floats(0, 1)


@st.composite
def curves(draw: st.DrawFn) -> Curve:
    xs = sorted(draw(st.sets(st.integers(0, 1000), min_size=2, max_size=6)))
    return Curve(over="battery.charge", points=tuple((x / 1000, draw(HEIGHTS)) for x in xs))


def test_between_points_the_line_is_straight_and_beyond_them_level() -> None:
    curve = Curve(over="battery.charge", points=((0.1, 0.2), (0.5, 1.0), (0.9, 0.6)))
    assert [curve.at(x) for x in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)] == pytest.approx(
        [0.2, 0.2, 0.6, 1.0, 0.8, 0.6, 0.6]
    )


@given(curves(), st.floats(-1, 2))
@settings(max_examples=50)
def test_a_level_is_at_most_a_step_below_the_curve_and_never_above(curve: Curve, x: float) -> None:
    height, level = curve.at(x), curve.level(x)
    assert min(y for _, y in curve.points) - 1e-9 <= height <= max(y for _, y in curve.points)
    assert level <= height + 1e-9
    assert level > height - STEP - 1e-6
    assert 0 <= level <= 1


@given(curves(), st.floats(0, 1), st.lists(st.floats(-1, 1), min_size=3, max_size=60))
@settings(max_examples=50)
def test_noise_within_the_band_around_any_mean_moves_what_is_read_in_one_direction_only(
    curve: Curve, mean: float, noise: list[float]
) -> None:
    band = BAND * (curve.points[-1][0] - curve.points[0][0])
    held, read = None, []
    for each in noise:
        held = curve.held(mean + 0.999 * each * band, held)
        read.append(held)
    assert read in (sorted(read), sorted(read, reverse=True))  # towards the mean, and never past it


def test_after_a_first_sample_at_its_mean_a_swinging_signal_never_moves_the_level() -> None:
    curve = Curve(over="battery.charge", points=((0.0, 0.0), (1.0, 1.0)))
    held = curve.held(0.5, None)
    for turn in range(200):
        held = curve.held(0.5 + (0.019 if turn % 2 else -0.019), held)
        assert curve.level(held) == 0.5


@given(curves(), st.lists(st.floats(0, 1), min_size=1, max_size=30))
@settings(max_examples=50)
def test_what_is_read_is_within_the_band_of_the_signal(curve: Curve, values: list[float]) -> None:
    held = None
    for value in values:
        held = curve.held(value, held)
        assert abs(held - value) <= BAND * (curve.points[-1][0] - curve.points[0][0]) + 1e-12


@pytest.mark.parametrize(
    ("over", "points", "said"),
    [
        ("battery.charge", ((0.5, 1.0),), "at least 2"),
        ("battery.charge", ((0.5, 1.0), (0.5, 0.9)), "must grow"),
        ("battery.charge", ((0.5, 1.0), (20, 0.9)), "share from 0 to 1"),
        ("temperature.max", ((60, 1.0), (90, 1.1)), "from 0 to 1"),
        ("temperature.maxi", ((60, 1.0), (90, 0.1)), "did you mean 'temperature.max"),
        ("power.on_mains", ((0, 1.0), (1, 0.1)), "true or false"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused(over: str, points: tuple[tuple[float, float], ...], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Curve(over=over, points=points)
