"""From the training allocation to what a step may touch: patch reach and unfrozen share of the base."""

from __future__ import annotations

from pydantic import Field

from .decision import PlanCandidate, TrainingDecision, TrainingPlan
from .snapshot import Frozen

HEAD_ONLY, EVERYWHERE = 0.0, 1.0  # reach: the classifier alone; all of the network


class PlanCost(Frozen):
    """The cost of a plan as a share of a full fine-tuning step at the same resolution and batch."""

    reach: float = Field(ge=0, le=1)
    fraction: float = Field(ge=0, le=1)
    cost: float = Field(gt=0)


def _shares() -> tuple[PlanCost, ...]:
    rows = (
        (HEAD_ONLY, 0.0, 0.12),
        (0.39, 0.0, 0.33),
        (0.72, 0.0, 0.42),
        (EVERYWHERE, 0.0, 0.49),
        (EVERYWHERE, 0.25, 0.50),
        (EVERYWHERE, 0.5, 0.51),
        (EVERYWHERE, 0.75, 0.52),
        (EVERYWHERE, 1.0, 1.0),
    )
    return tuple(PlanCost(reach=reach, fraction=fraction, cost=cost) for reach, fraction, cost in rows)


class TrainingCosts(Frozen):
    """Costs of the plans that can be chosen, each with its predicted cost.

    The defaults were measured on EfficientNet-Lite0, batch 32 at 128 px, on two AVX-512 cores (docs/policy.md).
    """

    plans: tuple[PlanCost, ...] = Field(default_factory=_shares, min_length=1)


def plan_training(allocation: float, costs: TrainingCosts, *, max_fraction: float = 1.0) -> TrainingDecision:
    """The most useful plan whose predicted cost is within `allocation`: deepest reach first, then largest fraction.

    Neither reach nor fraction falls as the allocation rises. Below the cheapest plan training pauses.
    """
    ordered = sorted(costs.plans, key=lambda p: (p.reach, p.fraction))
    allowed = [p for p in ordered if p.fraction <= max_fraction]
    fitting = [p for p in allowed if 0 < p.cost <= allocation]
    best = fitting[-1] if fitting else None
    candidates = tuple(
        PlanCandidate(
            plan=TrainingPlan(paused=False, reach=p.reach, fraction=p.fraction, cost=p.cost),
            fits=p in fitting,
            chosen=p is best,
            verdict=_verdict(p, p is best, p in allowed, allocation, max_fraction),
        )
        for p in ordered
    )
    if best is None:
        least = min(p.cost for p in ordered)
        text = f"training pauses: the allocation {allocation:.2f} is below {least:.2f}, the share of the cheapest plan"
        return TrainingDecision(plan=TrainingPlan(paused=True, reach=HEAD_ONLY), candidates=candidates, text=text)
    plan = TrainingPlan(paused=False, reach=best.reach, fraction=best.fraction, cost=best.cost)
    text = f"{_words(best)}: predicted cost {best.cost:.2f} of a full step, within the allocation {allocation:.2f}"
    return TrainingDecision(plan=plan, candidates=candidates, text=text)


def reach_in_words(reach: float) -> str:
    """How deep patch parameters train, for people."""
    if reach == HEAD_ONLY:
        return "head only"
    return "patch everywhere" if reach == EVERYWHERE else f"patch in the upper {reach * 100:.0f} % of the network"


def _words(plan: PlanCost) -> str:
    reach = reach_in_words(plan.reach)
    frozen = "base frozen" if plan.fraction == 0 else f"{plan.fraction * 100:.0f} % of the base unfrozen"
    return f"{reach}, {frozen}"


def _verdict(plan: PlanCost, chosen: bool, allowed: bool, allocation: float, max_fraction: float) -> str:
    if chosen:
        return f"{_words(plan)} chosen: cost {plan.cost:.2f} is within {allocation:.2f}"
    if not allowed:
        return f"{_words(plan)} refused: the policy unfreezes at most {max_fraction * 100:.0f} % of the base"
    if plan.cost > allocation:
        return f"{_words(plan)} refused: cost {plan.cost:.2f} is over the allocation {allocation:.2f}"
    return f"{_words(plan)} not needed: a more useful plan fits"
