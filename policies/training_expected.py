"""What was to be expected of a plan that ran: predicted from the costs as measured, whatever slices showed since."""

from __future__ import annotations

from dataclasses import dataclass

from .training_chain import level_of
from .training_corrections import PlanUse
from .training_costs import JobOutline, TrainingCosts
from .training_job_prices import JobPrices, Run, full
from .training_prices import Prices


@dataclass(frozen=True, slots=True)
class Expected:
    """A step of a plan, uncorrected: processor milliseconds, peak memory, and those of a full step."""

    step_cpu_ms: float
    memory_bytes: int
    full_step_ms: float


def expected(costs: TrainingCosts, job: JobOutline, use: PlanUse) -> Expected:
    """What `costs` say of the plan that `use` tells of."""
    prices = Prices(costs)
    predictor = JobPrices(prices, job)
    run = Run(use.resolution, use.plan.lean, use.plan.keep_features, use.plan.micro_batch)
    own = predictor.predict(level_of(prices, job, use.plan).trained, run, corrected=False)
    whole = predictor.predict(full(prices), Run(job.full_resolution), corrected=False)
    return Expected(own.step_cpu_ms, own.memory_bytes, whole.step_cpu_ms)
