"""A decision told in plain sentences under short headings: what was seen, what the rules made of it, what follows."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from .decision import AllocationDecision, Decision, PlanCandidate, ReasonKind, RungCandidate, RungDecision
from .signal_readings import SignalReading, readings
from .signal_words import value_in_words
from .snapshot import Frozen, Snapshot
from .training_words import plan_in_words, size_in_words
from .verdicts import RuleVerdict


class Section(Frozen):
    """One heading with what belongs under it: sentences, and where there are several of a kind, items of a list."""

    key: str = Field(
        description="stable: summary, signals, rules, inference, slowdown, training, task:NAME, plan, times, ..."
    )
    heading: str
    sentences: tuple[str, ...] = ()
    items: tuple[str, ...] = Field((), description="whole sentences as well")


def sections(
    decision: Decision,
    snapshot: Snapshot,
    rules: Sequence[RuleVerdict] | None,
    task: str | None = None,
    told_of: Sequence[SignalReading] | None = None,
) -> tuple[Section, ...]:
    """The decision told; of one task alone where one is given. `rules` is None where nobody has kept the verdicts.

    `told_of` are the signals with their sources; without them those of the snapshot are told without.
    """
    rungs = [rung for rung in decision.rungs if task in (None, rung.task)]
    told = [_summary(decision, rungs, with_training=task is None), *_rules(decision.policy, rules)]
    told.append(_allocation("inference", decision.inference, rules is not None))
    if decision.slowdown is not None:
        paced = _capitalised(f"{decision.slowdown.text}.")
        told.append(Section(key="slowdown", heading="What predictions take", sentences=(paced,)))
    told += [*_caps(decision), *(_task(rung) for rung in rungs)]
    if task is None:
        told += [_allocation("training", decision.training, rules is not None), _plan(decision), *_times(decision)]
    readings_told = readings(snapshot, {}, snapshot.time_s) if told_of is None else told_of
    return (*told, _signals(snapshot, readings_told))


def _summary(decision: Decision, rungs: Sequence[RungDecision], *, with_training: bool) -> Section:
    """What is done, and the reason that decides, in a few sentences."""
    said = [_because("Inference", decision.inference)]
    said += [f"Task {rung.task} is answered at {rung.resolution} px." for rung in rungs]
    if with_training:
        said += [_because("Training", decision.training), _trains(decision)]
    return Section(key="summary", heading="In short", sentences=tuple(said))


def _because(name: str, allocation: AllocationDecision) -> str:
    why = f": {allocation.reasons[0].text}" if allocation.reasons else ""
    return f"{name} may spend {allocation.value:.2f}{why}."


def _trains(decision: Decision) -> str:
    unmet, chosen = len(decision.times.hindrances), decision.plan
    if unmet:
        return f"Training waits, for {unmet} of the policy's conditions {'is' if unmet == 1 else 'are'} not met."
    if chosen.job is None:
        return "Nothing waits to be trained."
    if chosen.plan.paused:
        return _capitalised(f"{chosen.text}.")
    return f"Job {chosen.job} trains: {plan_in_words(chosen.plan)}."


def _signals(snapshot: Snapshot, told: Sequence[SignalReading]) -> Section:
    """What there is with value, age and source, and what there is not with the reason, those of one reason together."""
    items = []
    for each in told:
        if each.value is not None:
            source = f", from {each.source}" if each.source else ""
            items.append(
                f"{each.name} is {value_in_words(each.value, each.unit)}, {each.age_s or 0.0:.1f} s old{source}."
            )
    lead = () if snapshot.source == "device" else (f"They come from {snapshot.source}, not from the device.",)
    missing = (f"Absent: {', '.join(names)}: {why}." for why, names in absent_by_reason(told).items())
    return Section(key="signals", heading="Signals", sentences=(*lead, *missing), items=tuple(items))


def absent_by_reason(told: Sequence[SignalReading]) -> dict[str, list[str]]:
    """The names of the signals that are absent, by why they are."""
    found: dict[str, list[str]] = {}
    for each in told:
        if each.value is None:
            found.setdefault(each.absent_because or "nothing here tells it", []).append(each.name)
    return found


def _rules(policy: str, rules: Sequence[RuleVerdict] | None) -> list[Section]:
    if rules is None:
        text = "What each rule said then was not kept: an older patchd took this decision."
        return [Section(key="rules", heading=f"Rules of policy {policy}", sentences=(text,))]
    if not rules:
        return [Section(key="rules", heading=f"Rules of policy {policy}", sentences=("It has none.",))]
    matching, others = [rule for rule in rules if rule.matches], [rule for rule in rules if not rule.matches]
    found = [Section(key="rules.match", heading="Rules that match", sentences=() if matching else ("None.",))]
    found[0] = found[0].model_copy(update={"items": tuple(f"{rule.text}." for rule in matching)})
    if others:
        items = tuple(f"{rule.text}." for rule in others)
        found.append(Section(key="rules.other", heading="Rules that do not match", items=items))
    return found


def _allocation(name: str, allocation: AllocationDecision, rules_told: bool) -> Section:
    """What is in force, what is asked for, and why; signals that are missing are told of with their rules."""
    held = allocation.value != allocation.target
    asked = f", and the rules ask for {allocation.target:.2f}" if held else ""
    reasons = (each for each in allocation.reasons if not (rules_told and each.kind is ReasonKind.MISSING_SIGNAL))
    return Section(
        key=name,
        heading=f"{name.capitalize()} allocation",
        sentences=(f"It is {allocation.value:.2f}{asked}.",),
        items=tuple(_capitalised(f"{reason.text}.") for reason in reasons),
    )


def _caps(decision: Decision) -> list[Section]:
    """What rules restrict beside the allocations, each with all rules that do."""
    items = tuple(_capitalised(f"{reason.text}.") for cap in decision.caps for reason in cap.reasons)
    return [Section(key="caps", heading="What rules restrict besides", items=items)] if items else []


def _task(rung: RungDecision) -> Section:
    return Section(
        key=f"task:{rung.task}",
        heading=f"Task {rung.task}",
        sentences=(f"It is answered at {rung.text}.",),
        items=tuple(_rung(candidate) for candidate in rung.candidates),
    )


def _rung(candidate: RungCandidate) -> str:
    """The verdict on a rung with its cost, which that on a rung without need leaves out."""
    cost = f"{candidate.cost_ms:.1f} ms{'' if candidate.slowed_ms is None else ' calm'}"
    estimated = " (estimated from pixels)" if candidate.estimated else ""
    return f"{candidate.verdict}{'' if cost in candidate.verdict else f'; it costs {cost}{estimated}'}."


def _plan(decision: Decision) -> Section:
    plan = decision.plan
    said = [_capitalised(f"{plan.text}.")]
    if plan.memory_bytes is not None:
        memory, disk = size_in_words(plan.memory_bytes), size_in_words(plan.features_bytes)
        said.append(f"A step may take {memory} of memory beside the base, kept features {disk} of the disk.")
    items = tuple(_capitalised(_candidate(candidate)) for candidate in plan.candidates)
    return Section(key="plan", heading="Training plan", sentences=tuple(said), items=items)


def _candidate(candidate: PlanCandidate) -> str:
    cost = f"cost {candidate.plan.cost:.2f}"
    return f"{candidate.verdict}{'' if cost in candidate.verdict else f'; its predicted {cost}'}."


def _times(decision: Decision) -> list[Section]:
    times = decision.times
    waits = ("Training waits, whatever the allocation:",) if times.hindrances else ()
    items = (*(each.text for each in times.hindrances), *times.assumed)
    if not items:
        return []
    return [
        Section(
            key="times",
            heading="When training may run",
            sentences=waits or ("It may run now.",),
            items=tuple(_capitalised(f"{text}.") for text in items),
        )
    ]


def _capitalised(text: str) -> str:
    """A sentence begins with a capital, unless its first word is a name with a dot or an underscore, as keys have."""
    first = text.split(maxsplit=1)[0] if text else ""
    return text if "." in first.rstrip(".") or "_" in first else text[:1].upper() + text[1:]


def flattened(told: Sequence[Section]) -> tuple[str, ...]:
    """All sentences of all sections, without their headings."""
    return tuple(sentence for section in told for sentence in (*section.sentences, *section.items))
