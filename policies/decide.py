"""One turn of the loop as a pure function: snapshot, policy and measured ladders in, decision with reasons out."""

from __future__ import annotations

from collections.abc import Mapping

from .choices import Choices
from .decision import Decision, Ladder, ReasonKind, SlowdownDecision, TrainingDecision, UnfreezeOrder
from .policy import Policy
from .rules import PolicyState, allocations
from .slowdown import Slowdown, counted, heed, in_words
from .snapshot import Snapshot
from .training_costs import TrainingSituation
from .training_plan import Plans, default_costs
from .training_times import TrainingDay, training_times


def decide(
    policy: Policy,
    snapshot: Snapshot,
    state: PolicyState,
    ladders: Mapping[str, Ladder],
    training: TrainingSituation | None,
    previous: Decision | None,
    id: str,
    choices: Choices | None = None,
    day: TrainingDay | None = None,
    plans: Plans | None = None,
    measured: float | None = None,
) -> tuple[Decision, PolicyState]:
    """The decision that follows, and what to remember for the next one. Deterministic; time is the snapshot's.

    `training` absent stands for a usual job at the costs that ship with patchd. `choices` and `plans`, kept from turn
    to turn, save choosing anew where nothing has changed. Without a `day` the policy's windows and its daily limit on
    training are left out. `measured` is how many times their calm cost the predictions since the last turn took.
    """
    situation = training or TrainingSituation(costs=default_costs())
    inference, allowed, after = allocations(policy, snapshot, state)
    paced = counted(after.slowdown, measured, snapshot)
    pace = heed(after.slowdown, paced, snapshot.time_s) if policy.inference.feedback else Slowdown()
    rungs, holds = (choices or Choices()).of(
        ladders,
        inference,
        after.rungs,
        snapshot.time_s,
        min_resolution=policy.inference.min_resolution,
        max_resolution=policy.inference.max_resolution,
        slowdown=pace.factor,
    )
    order = policy.training.order
    limits = situation.limits.model_copy(
        update={
            "max_fraction": policy.training.max_fraction,
            "order": "auto" if order == "auto" else UnfreezeOrder(order),
        }
    )
    plan = (plans or Plans()).of(allowed.value, situation.costs, situation.job, limits)
    plan = _for_its_job(plan, situation)
    waited_for = () if previous is None else tuple(each.key for each in previous.times.hindrances)
    decision = Decision(
        id=id,
        time_s=snapshot.time_s,
        policy=policy.policy.name,
        source=snapshot.source,
        inference=inference,
        training=allowed,
        rungs=rungs,
        plan=plan,
        slowdown=_told(pace) if policy.inference.feedback else None,
        times=training_times(policy.training, snapshot, day, waited_for),
    )
    return decision.model_copy(update={"changed": _changes(previous, decision)}), after.model_copy(
        update={"rungs": holds, "slowdown": pace}
    )


def _for_its_job(plan: TrainingDecision, situation: TrainingSituation) -> TrainingDecision:
    """The plan with the job it is for, or with what it tells of while none waits; its caps and its correction."""
    text = plan.text
    run = (plan.plan.resolution, plan.plan.lean, plan.plan.keep_features)
    for seen in situation.costs.corrections:
        if (seen.resolution, seen.lean, seen.keep_features) == run and (seen.time, seen.memory) != (1.0, 1.0):
            text += f"; as {seen.slices} slices showed, time is {seen.time:.2f} and memory {seen.memory:.2f} times"
            text += " what was measured for it"
    if not situation.job.id:
        text = f"nothing waits to be trained; a usual job on {situation.job.base} would get: {text}"
    limits = situation.limits
    told = {"memory_bytes": limits.memory_bytes, "features_bytes": limits.disk_bytes}
    return plan.model_copy(update={"job": situation.job.id or None, "text": text, **told})


def _told(pace: Slowdown) -> SlowdownDecision:
    return SlowdownDecision(measured=max(1e-3, pace.mean), factor=pace.factor, text=in_words(pace))


def _changes(before: Decision | None, now: Decision) -> tuple[str, ...]:
    if before is None:
        return ()
    said = []
    if before.policy != now.policy:
        said.append(f"policy {before.policy} -> {now.policy}.")
    for name in ("inference", "training"):
        old, new = getattr(before, name), getattr(now, name)
        if old.value != new.value:
            why = next(reason for reason in new.reasons if reason.kind is not ReasonKind.HOLD)
            said.append(f"{name} allocation {old.value:.2f} -> {new.value:.2f}: {why.text}.")
    if now.slowdown is not None and before.slowed_by != now.slowed_by:
        said.append(f"{now.slowdown.text}.")
    earlier = {rung.task: rung for rung in before.rungs}
    for gone in sorted(earlier.keys() - {rung.task for rung in now.rungs}):
        said.append(f"{gone}: answers no more.")
    for rung in now.rungs:
        old_rung = earlier.get(rung.task)
        if old_rung is None:
            said.append(f"{rung.task}: answers at {rung.resolution} px.")
        elif (old_rung.resolution, old_rung.patch_id) != (rung.resolution, rung.patch_id):
            new_patch = ", another patch" if old_rung.resolution == rung.resolution else ""
            said.append(f"{rung.task}: {old_rung.resolution} px -> {rung.resolution} px{new_patch}.")
    if _replanned(before.plan, now.plan):
        said.append(f"training plan: {now.plan.text}.")
    if {each.key for each in before.times.hindrances} != {each.key for each in now.times.hindrances}:
        said.append(f"{now.times.text or 'training waits for nothing any more'}.")
    return tuple(said)


def _replanned(before: TrainingDecision, now: TrainingDecision) -> bool:
    """Whether training does something else; while no job waits, what a plan would take is no news."""
    if before.job is None and now.job is None:
        return before.plan.as_run != now.plan.as_run
    return before.job != now.job or before.plan != now.plan
