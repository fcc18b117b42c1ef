"""One turn of the loop as a pure function: snapshot, policy and measured ladders in, decision with reasons out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .choices import Choices
from .decision import (
    Cap,
    CapKey,
    Decision,
    Ladder,
    ReasonKind,
    SlowdownDecision,
    TrainingDecision,
    UnfreezeOrder,
)
from .policy import Policy
from .policy_tables import Training
from .restrictions import of_device, of_task
from .rule_caps import caps_in_force
from .rules import PolicyState, allocations, rules_at
from .slowdown import Slowdown, counted, heed, in_words
from .snapshot import Snapshot
from .training_costs import PlanLimits, TrainingSituation
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
    matched = rules_at(policy, snapshot, state, None if day is None else day.local)
    inference, allowed, after = allocations(policy, snapshot, state, matched)
    caps = caps_in_force(policy, matched.matching)
    paced = counted(after.slowdown, measured, snapshot)
    pace = heed(after.slowdown, paced, snapshot.time_s) if policy.inference.feedback else Slowdown()
    rungs, holds = (choices or Choices()).of(
        ladders,
        inference,
        after.rungs,
        snapshot.time_s,
        of_device(policy, caps),
        {name: of_task(policy, caps, name) for name in policy.task if name in ladders},
        pace.factor,
    )
    order = policy.training.order
    limits = situation.limits.model_copy(
        update={
            "max_fraction": policy.training.max_fraction,
            "order": "auto" if order == "auto" else UnfreezeOrder(order),
        }
    )
    bounds = {cap.key: cap for cap in caps}
    if (memory := bounds.get(CapKey.MEMORY_BYTES)) is not None:
        known = limits.memory_bytes
        least = int(memory.value) if known is None else min(known, int(memory.value))
        limits = limits.model_copy(update={"memory_bytes": least})
    plan = (plans or Plans()).of(allowed.value, situation.costs, situation.job, limits)
    plan = _for_its_job(plan, situation, limits)
    forbidden = [cap.reasons[0].text for cap in caps if cap.key is CapKey.TRAINING]
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
        times=training_times(_table(policy, bounds), snapshot, day, waited_for, forbidden),
        caps=caps,
    )
    return decision.model_copy(update={"changed": _changes(previous, decision)}), after.model_copy(
        update={"rungs": holds, "slowdown": pace}
    )


def _table(policy: Policy, bounds: Mapping[CapKey, Cap]) -> Training:
    """The policy's `[training]` table with the daily limit that a rule lowers."""
    minutes = bounds.get(CapKey.MAX_MINUTES_PER_DAY)
    lowered = {} if minutes is None else {"max_minutes_per_day": minutes.value}
    return policy.training.model_copy(update=lowered) if lowered else policy.training


def _for_its_job(plan: TrainingDecision, situation: TrainingSituation, limits: PlanLimits) -> TrainingDecision:
    """The plan with the job it is for, or with what it tells of while none waits; its caps and its correction."""
    text = plan.text
    run = (plan.plan.resolution, plan.plan.lean, plan.plan.keep_features)
    for seen in situation.costs.corrections:
        if (seen.resolution, seen.lean, seen.keep_features) == run and (seen.time, seen.memory) != (1.0, 1.0):
            text += f"; as {seen.slices} slices showed, time is {seen.time:.2f} and memory {seen.memory:.2f} times"
            text += " what was measured for it"
    if not situation.job.id:
        text = f"nothing waits to be trained; a usual job on {situation.job.base} would get: {text}"
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
    said += _recapped(before.caps, now.caps)
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


def _recapped(before: Sequence[Cap], now: Sequence[Cap]) -> Iterator[str]:
    """What rules restrict now beside the allocations, and did not before, or no longer do."""
    old, new = ({cap.key: cap.value for cap in caps} for caps in (before, now))
    for cap in now:
        if old.get(cap.key) != cap.value:
            yield f"{cap.reasons[0].text}."
    for cap in before:
        if cap.key not in new:
            yield f"rule '{cap.rule}' no longer restricts {cap.key}."


def _replanned(before: TrainingDecision, now: TrainingDecision) -> bool:
    """Whether training does something else; while no job waits, what a plan would take is no news."""
    if before.job is None and now.job is None:
        return before.plan.as_run != now.plan.as_run
    return before.job != now.job or before.plan != now.plan
