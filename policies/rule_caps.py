"""What the matching rules restrict beside the two allocations: for each thing the most restrictive rule counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .conditions import Rule
from .decision import Cap, CapKey
from .matching import Match
from .policy import Policy
from .training_words import size_in_words


@dataclass(frozen=True, slots=True)
class _Kind:
    """One thing that a rule may restrict; a permission or a switch that is taken away is 0."""

    key: CapKey
    of_rule: Callable[[Rule], float | None]
    words: Callable[[float], str]
    own: Callable[[Policy], float | None] = lambda policy: None  # noqa: ARG005 (no table says more)


def _off(allowed: bool) -> float | None:
    return None if allowed else 0.0


_KINDS = (
    _Kind(
        CapKey.MAX_RESOLUTION,
        lambda rule: rule.max_resolution,
        lambda value: f"allows {value:g} px at most",
        lambda policy: policy.inference.max_resolution,
    ),
    _Kind(
        CapKey.KEEP_ALIVE_S,
        lambda rule: rule.keep_alive_s,
        lambda value: f"unloads the inference worker after {value:g} s of idleness",
        lambda policy: policy.inference.keep_alive_s,
    ),
    _Kind(
        CapKey.MEMORY_BYTES,
        lambda rule: rule.memory_bytes,
        lambda value: f"allows a training step {size_in_words(value)} of memory at most",
        lambda policy: policy.training.memory_bytes,
    ),
    _Kind(
        CapKey.MAX_MINUTES_PER_DAY,
        lambda rule: rule.max_minutes_per_day,
        lambda value: f"allows training {value:g} processor minutes of a day at most",
        lambda policy: policy.training.max_minutes_per_day,
    ),
    _Kind(CapKey.TRAINING, lambda rule: _off(rule.training is not False), lambda _: "does not permit training"),
    _Kind(CapKey.EXAMPLES, lambda rule: _off(rule.examples), lambda _: "does not permit examples to be handed over"),
    _Kind(
        CapKey.CASCADE,
        lambda rule: _off(rule.cascade.enabled),
        lambda _: "switches cascades off",
        lambda policy: _off(policy.cascade.enabled),
    ),
    _Kind(
        CapKey.EPSILON,
        lambda rule: rule.cascade.epsilon,
        lambda value: f"allows cascades that promise to lose {value:.3g} of the inputs at most",
    ),
    _Kind(
        CapKey.DELTA,
        lambda rule: rule.cascade.delta,
        lambda value: f"allows cascades whose promise is wrong with a probability of {value:.3g} at most",
    ),
)


def caps_in_force(policy: Policy, matching: Sequence[Match]) -> tuple[Cap, ...]:
    """One cap for each thing that a matching rule restricts further than the policy's tables do."""
    caps = []
    for kind in _KINDS:
        found = [(value, match) for match in matching if (value := kind.of_rule(match.rule)) is not None]
        found.sort(key=lambda each: each[0])
        own = kind.own(policy)
        if not found or (own is not None and own <= found[0][0]):
            continue
        least = found[0][0]
        reasons = tuple(match.reason(kind.words(value), _verdict(value == least)) for value, match in found)
        caps.append(Cap(key=kind.key, value=least, rule=found[0][1].rule.name, reasons=reasons))
    return tuple(caps)


def _verdict(decides: bool) -> str:
    return "the most restrictive matching rule" if decides else "matches too, but is less restrictive"


def caps_of_rule(rule: Rule) -> dict[CapKey, float]:
    """What a rule restricts while it matches, beside the allocations."""
    return {kind.key: value for kind in _KINDS if (value := kind.of_rule(rule)) is not None}


def own_bounds(policy: Policy) -> dict[CapKey, float]:
    """What the policy's tables say of the same things."""
    return {kind.key: value for kind in _KINDS if (value := kind.own(policy)) is not None}


def effects_in_words(rule: Rule) -> tuple[str, ...]:
    """What a rule restricts while it matches, beside the allocations."""
    return tuple(kind.words(value) for kind in _KINDS if (value := kind.of_rule(rule)) is not None)
