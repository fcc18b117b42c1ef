"""What is expected of a plan that ran is what was predicted when it was chosen, with no correction in it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.policies.decision import UnfreezeOrder
from patchd.policies.training_corrections import PlanUse
from patchd.policies.training_costs import Correction, JobOutline, PlanLimits
from patchd.policies.training_expected import expected
from patchd.policies.training_plan import plan_training
from training_costs import SIDES, costs

COSTS = costs()
IMPORTANCE = tuple(
    (t.name, float(i % 5 + 1)) for i, t in enumerate(t for u in COSTS.at[0].units for t in u.plain.tensors)
)
JOB = JobOutline(resolutions=(SIDES[1],), full_resolution=SIDES[1], importance=IMPORTANCE)


@settings(max_examples=40)
@given(
    st.floats(0.05, 1),
    st.sampled_from(list(UnfreezeOrder)),
    st.sampled_from([None, 120_000_000]),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
)
def test_a_prediction_is_found_again_without_its_correction(
    allocation: float, order: UnfreezeOrder, memory: int | None, time_factor: float, memory_factor: float
) -> None:
    ways = [(lean, kept) for lean in (False, True) for kept in (False, True)]
    corrections = tuple(
        Correction(resolution=SIDES[1], lean=lean, keep_features=kept, time=time_factor, memory=memory_factor, slices=3)
        for lean, kept in ways
    )
    corrected = COSTS.model_copy(update={"corrections": corrections})
    limits = PlanLimits(max_fraction=0.6, order=order, memory_bytes=memory, disk_bytes=10**9)
    plan = plan_training(allocation, corrected, JOB, limits).plan
    if plan.paused:
        return
    use = PlanUse(
        plan=plan,
        resolution=SIDES[1],
        batch=JOB.batch_size,
        steps=10,
        samples=320,
        seconds=1,
        cpu_seconds=1,
        step_ms=1,
        step_cpu_ms=1,
    )
    found = expected(COSTS, JOB, use)
    assert plan.step_ms is not None
    assert plan.memory_bytes is not None
    assert found.step_cpu_ms * time_factor == pytest.approx(plan.step_ms * COSTS.threads)
    assert found.memory_bytes * memory_factor == pytest.approx(plan.memory_bytes, abs=2)
    assert found.full_step_ms >= found.step_cpu_ms * 0.1
