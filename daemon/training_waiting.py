"""Why a training job does not advance, in words."""

from __future__ import annotations

from ..policies.decision import Decision, TrainingPlan
from ..policies.policy import Policy
from ..policies.restrictions import training_forbidden
from ..policies.task import JobState, PatchKind, only_statistics
from ..policies.training_plan import HEAD_ONLY
from .api.schemas import JobView
from .training_jobs import FINAL
from .training_together import why_not_together

PAUSED = TrainingPlan(paused=True)


def plan_in_force(decision: Decision | None) -> TrainingPlan:
    """The plan that training follows now; none while nothing has been decided or something hinders training."""
    return PAUSED if decision is None or decision.times.hindrances else decision.plan.plan


def waiting_for(job: JobView, decision: Decision | None, active: str | None, policy: Policy) -> str | None:
    """What a job waits for, while job `active` is in hand; None when it trains or has ended."""
    if job.state in FINAL:
        return None
    if job.state is JobState.PAUSED:
        return "paused by request"
    if (forbidden := training_forbidden(policy, job.spec.tasks)) is not None:
        return forbidden
    if decision is None:
        return "nothing has been decided yet"
    if (why := why_not(job, plan_in_force(decision), decision)) is not None:
        return why
    return f"job {active} trains first" if active is not None and active != job.id else None


def why_not(job: JobView, plan: TrainingPlan, decision: Decision | None) -> str | None:
    """Why a job cannot advance under a plan; None when it can."""
    if plan.paused:
        return "paused" if decision is None else decision.times.text or decision.plan.text
    if only_statistics(job.spec.kinds):
        return None
    if plan.reach == HEAD_ONLY and plan.fraction == 0 and PatchKind.HEAD not in job.spec.kinds:
        return "the allocation allows the head only, and this job does not train the head"
    return why_not_together(job.spec, plan)
