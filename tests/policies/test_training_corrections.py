"""Predictions follow what was measured: within bounds, against outliers, and without flapping."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.decision import TrainingPlan
from patchd.policies.training_corrections import BAND, LEAST, LEAST_STEPS, MOST, WINDOW, Observed, PlanUse, observe
from patchd.policies.training_costs import Way

STEP_MS, BYTES = 100.0, 100_000_000
RATIO = st.floats(0.01, 100.0)
KNOWN = st.floats(LEAST, MOST)


def use(
    time: float, memory: float | None = None, *, steps: int = 20, lean: bool = False, bf16: bool = False
) -> PlanUse:
    """A slice whose step took `time` and whose peak was `memory` times what is predicted here."""
    return PlanUse(
        plan=TrainingPlan(paused=False, lean=lean),
        resolution=64,
        batch=8,
        bf16=bf16,
        steps=steps,
        samples=steps * 8,
        seconds=1.0,
        cpu_seconds=1.0,
        step_ms=time * STEP_MS,
        step_cpu_ms=time * STEP_MS,
        peak_bytes=None if memory is None else int(memory * BYTES),
    )


def after(times: list[float], memories: list[float] | None = None) -> Observed:
    known: Observed | None = None
    for index, time in enumerate(times):
        known = observe(known, use(time, memories[index] if memories else None), STEP_MS, BYTES)
    assert known is not None
    return known


@given(st.lists(RATIO, min_size=1, max_size=30))
def test_a_factor_stays_within_its_bounds(ratios: list[float]) -> None:
    correction = after(ratios, ratios).correction
    assert LEAST <= correction.time <= MOST
    assert LEAST <= correction.memory <= MOST
    assert correction.slices == len(ratios)


@given(KNOWN, st.integers(2, 20))
def test_from_the_second_slice_on_the_prediction_is_what_is_measured_again_and_again(ratio: float, more: int) -> None:
    correction = after([ratio] * more, [ratio] * more).correction
    assert abs(correction.time / ratio - 1) <= BAND + 1e-9
    assert abs(correction.memory / ratio - 1) <= BAND + 1e-6


@given(KNOWN, RATIO, st.integers(3, WINDOW - 1))
def test_one_slice_that_went_astray_moves_nothing_once_three_agree(ratio: float, astray: float, before: int) -> None:
    known = after([ratio] * before)
    assert observe(known, use(astray), STEP_MS, BYTES).correction.time == known.correction.time


@given(KNOWN, st.lists(st.floats(-0.02, 0.02), min_size=WINDOW, max_size=60))
def test_noise_within_the_band_never_moves_a_factor_back_and_forth(ratio: float, noise: list[float]) -> None:
    known: Observed | None = after([ratio] * WINDOW)
    assert known is not None
    factors = set()
    for part in noise:
        known = observe(known, use(ratio * (1 + part)), STEP_MS, BYTES)
        factors.add(known.correction.time)
    assert len(factors) <= 2  # the bounds may cut the first one off


@given(RATIO, st.integers(1, LEAST_STEPS - 1))
def test_a_slice_of_too_few_steps_tells_nothing_of_time_but_of_memory(ratio: float, steps: int) -> None:
    known = observe(None, use(ratio, 2.0, steps=steps), STEP_MS, BYTES)
    assert known.time == ()
    assert known.correction.time == 1.0
    assert known.memory == (2.0,)


def test_what_was_not_predicted_or_not_measured_is_left_alone() -> None:
    assert observe(None, use(2.0, 2.0), None, None).time == ()
    assert observe(None, use(2.0, None), STEP_MS, BYTES).memory == ()


def test_another_way_of_running_is_corrected_by_itself() -> None:
    known = observe(None, use(2.0, lean=True), STEP_MS, BYTES)
    assert known.correction.way == Way(64, lean=True)
    assert observe(None, use(2.0, bf16=True), STEP_MS, BYTES).correction.way == Way(64, bf16=True)
