"""Training plans in words: what was chosen, what was refused, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .decision import PlanCandidate, TrainingPlan
from .training_costs import PlanLimits

MOST_CANDIDATES = 12


@dataclass(frozen=True, slots=True)
class Weighed:
    """A plan with how it fared; `other_rung`: it is the best for a rung that is not the one chosen."""

    plan: TrainingPlan
    fits: bool
    chosen: bool
    within_memory: bool
    other_rung: bool = False


def reach_in_words(reach: float) -> str:
    """How deep patch parameters train, for people."""
    if reach == 0.0:
        return "head only"
    return "patch everywhere" if reach == 1.0 else f"patch in the upper {reach * 100:.0f} % of the network"


def plan_in_words(plan: TrainingPlan) -> str:
    """What trains and how it is run."""
    parts = [reach_in_words(plan.reach)]
    if plan.biases_only and plan.reach > 0:
        parts.append("biases alone")
    if plan.fraction == 0:
        parts.append("base frozen")
    elif plan.fraction == 1:
        parts.append("all of the base unfrozen")
    else:
        chosen = f", in {len(plan.tensors)} tensors" if plan.tensors else ""
        parts.append(f"{_percent(plan.fraction)} of the base unfrozen{chosen}")
    if plan.keep_features:
        parts.append("features of the frozen part kept")
    if plan.lean:
        parts.append("lean gradients")
    if plan.micro_batch is not None:
        parts.append(f"micro-batches of {plan.micro_batch}")
    at = "" if plan.resolution is None else f" at {plan.resolution} px"
    return ", ".join(parts) + at


def _percent(share: float) -> str:
    """A share that is neither nothing nor all is never called 0 or 100 %."""
    return f"{min(99.9, max(0.1, share * 100)):.3g} %"


def chosen_text(plan: TrainingPlan, allocation: float, full_resolution: int) -> str:
    """The sentence on the plan in force."""
    takes = ""
    if plan.step_ms is not None and plan.memory_bytes is not None:
        takes = f" ({plan.step_ms:.0f} ms and {size_in_words(plan.memory_bytes)} a step)"
    share = f"predicted cost {plan.cost:.2f} of a full step at {full_resolution} px"
    return f"{plan_in_words(plan)}: {share}{takes}, within the allocation {allocation:.2f}"


def paused_text(weighed: Sequence[Weighed], allocation: float, limits: PlanLimits) -> str:
    """The sentence on why nothing trains."""
    if allocation <= 0:
        return "training pauses: the allocation is 0"
    if not weighed:
        return "training pauses: the job's patch kinds have nothing that this base could train"
    able = [one for one in weighed if one.within_memory]
    if not able:
        least = min(one.plan.memory_bytes or 0 for one in weighed)
        cap = size_in_words(limits.memory_bytes or 0)
        return f"training pauses: the smallest plan takes {size_in_words(least)} of memory, and {cap} are allowed"
    least_cost = min(one.plan.cost for one in able)
    return f"training pauses: the allocation {allocation:.2f} is below {least_cost:.2f}, the share of the cheapest plan"


def candidates(weighed: Sequence[Weighed], allocation: float, limits: PlanLimits) -> tuple[PlanCandidate, ...]:
    """What `patchctl explain` lists."""
    best = next((one.plan for one in weighed if one.chosen), None)
    return tuple(
        PlanCandidate(plan=one.plan, fits=one.fits, chosen=one.chosen, verdict=_verdict(one, best, allocation, limits))
        for one in weighed[:MOST_CANDIDATES]
    )


def _verdict(one: Weighed, best: TrainingPlan | None, allocation: float, limits: PlanLimits) -> str:
    words, cost = plan_in_words(one.plan), one.plan.cost
    if one.chosen:
        return f"{words} chosen: cost {cost:.2f} is within {allocation:.2f}"
    if not one.within_memory:
        least, cap = size_in_words(one.plan.memory_bytes or 0), size_in_words(limits.memory_bytes or 0)
        return f"{words} refused: takes {least} of memory even one image at a time, and {cap} are allowed"
    if not one.fits:
        return f"{words} refused: cost {cost:.2f} is over the allocation {allocation:.2f}"
    if one.other_rung and best is not None:
        return f"{words} waits: the rung at {best.resolution} px comes first"
    return f"{words} not needed: a more useful plan fits"


def size_in_words(size: float) -> str:
    """Bytes for people."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
