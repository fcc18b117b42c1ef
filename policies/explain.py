"""A decision told in plain sentences."""

from __future__ import annotations

from .decision import AllocationDecision, Decision
from .signals import SIGNALS, SWITCH, signal_spec, signals
from .snapshot import Snapshot
from .training_words import size_in_words


def sentences(decision: Decision, snapshot: Snapshot) -> tuple[str, ...]:
    """What was seen, what the rules made of it, and what follows for every task and for training."""
    seen = signals(snapshot)
    specs = {name: signal_spec(name, snapshot) for name in seen}
    units = {name: spec.unit for name, spec in specs.items() if spec is not None}
    shown = ", ".join(f"{name} {_with_unit(value, units.get(name, ''))}" for name, value in seen.items())
    absent = [name for name in SIGNALS if name not in seen]
    said = [f"Under policy {decision.policy}, from {decision.source}: {shown}."]
    if absent:
        said.append(f"This machine has no {', '.join(absent)}.")
    said += [*_allocation("Inference", decision.inference), *_allocation("Training", decision.training)]
    for rung in decision.rungs:
        said.append(f"Task {rung.task} runs at {rung.text}.")
        said += [f"  {candidate.verdict}." for candidate in rung.candidates]
    said.append(f"Training plan: {decision.plan.text}.")
    if decision.plan.memory_bytes is not None:
        memory, disk = size_in_words(decision.plan.memory_bytes), size_in_words(decision.plan.features_bytes)
        said.append(f"A step may take {memory} of memory beside the base, kept features {disk} of the disk.")
    said += [f"  {candidate.verdict}." for candidate in decision.plan.candidates]
    if decision.times.hindrances:
        said.append("Training waits, whatever the allocation:")
        said += [f"  {hindrance.text}." for hindrance in decision.times.hindrances]
    said += [f"  {text}." for text in decision.times.assumed]
    return tuple(said)


def _with_unit(value: float, unit: str) -> str:
    if unit == SWITCH:
        return "true" if value >= 0.5 else "false"
    if unit == "share":
        return f"{value:.3g}"
    return f"{value / 1e9:.3g} GB" if unit == "bytes" else f"{value:.4g} {unit}".rstrip()


def _allocation(name: str, allocation: AllocationDecision) -> list[str]:
    return [
        f"{name} allocation is {allocation.value:.2f}; the rules ask for {allocation.target:.2f}.",
        *(f"  {reason.text}." for reason in allocation.reasons),
    ]
