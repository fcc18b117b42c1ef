"""How much of a cascade runs: the stages that an allocation affords, and whether a deadline leaves time for the next.

An answer of a shortened cascade carries no promise: the promise was certified for the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from .cascade import AcceptRule, Cascade, RuleKind, RungId, Stage
from .ladder import budget_ms
from .snapshot import Frozen

ALWAYS = AcceptRule(kind=RuleKind.ALWAYS)


class AffordedCascade(Frozen):
    """The stages of a cascade that run at one allocation; the last one accepts always."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    places: tuple[int, ...] = Field(min_length=1, description="index of each stage in the whole cascade")
    budget_ms: float = Field(ge=0)
    whole: bool = Field(description="whether no stage was cut")
    promised: bool = Field(description="whether the cascade's promise is good for these answers")
    text: str = Field(description="one sentence that says why")

    @property
    def rungs(self) -> tuple[RungId, ...]:
        """The rungs of the stages, in their order."""
        return tuple(stage.rung for stage in self.stages)


def afforded(
    cascade: Cascade,
    allocation: float,
    *,
    shorten: bool,
    costs_ms: Mapping[RungId, float] | None = None,
    max_resolution: int | None = None,
) -> AffordedCascade:
    """The stages of `cascade` that the inference `allocation` in [0, 1] affords.

    The budget is that of the ladder, over the stages' own costs: `costs_ms` of their rung where it is given, else as
    calibrated. A stage that costs more is cut, as is one that waits for its agreement; the cheapest stays. So 1 is the
    whole and more never means fewer stages. Without `shorten` it is the whole at any allocation. Stages of more pixels
    than the policy's `max_resolution` are cut in any case.
    """
    known = costs_ms or {}
    costs = [known.get(stage.rung, stage.cost_ms) for stage in cascade.stages]
    budget = budget_ms(min(costs), max(costs), allocation if shorten else 1.0)
    places = _fitting(cascade.stages, costs, budget, max_resolution)
    whole = len(places) == len(cascade.stages)
    return AffordedCascade(
        stages=cascade.stages if whole else _shortened(cascade.stages, places),
        places=places,
        budget_ms=budget,
        whole=whole,
        promised=whole and cascade.promise.holds,
        text=_text(cascade, costs, places, allocation, budget, shorten),
    )


def in_time(cost_ms: float, now_s: float, expires_s: float | None) -> bool:
    """Whether a stage that takes `cost_ms` ends by the deadline; times as those of `batching.Waiting`."""
    return expires_s is None or now_s + cost_ms / 1e3 <= expires_s


def _fitting(
    stages: Sequence[Stage], costs: Sequence[float], budget: float, max_resolution: int | None
) -> tuple[int, ...]:
    fitting: list[int] = []
    for place, (stage, cost) in enumerate(zip(stages, costs, strict=True)):
        allowed = max_resolution is None or stage.rung.resolution <= max_resolution
        if allowed and cost <= budget and stage.rule.earlier in (None, *fitting):
            fitting.append(place)
    return tuple(fitting) or (min(range(len(stages)), key=lambda place: costs[place]),)


def _shortened(stages: Sequence[Stage], places: Sequence[int]) -> tuple[Stage, ...]:
    """The stages at `places`, where agreement counts anew and the last one answers all that come to it."""
    kept = []
    for place in places[:-1]:
        rule = stages[place].rule
        earlier = None if rule.earlier is None else places.index(rule.earlier)
        kept.append(stages[place].model_copy(update={"rule": rule.model_copy(update={"earlier": earlier})}))
    last = stages[places[-1]].model_copy(update={"rule": ALWAYS, "share": max(0.0, 1.0 - sum(s.share for s in kept))})
    return (*kept, last)


def _text(
    cascade: Cascade, costs: Sequence[float], places: tuple[int, ...], allocation: float, budget: float, shorten: bool
) -> str:
    count = len(cascade.stages)
    if len(places) < count:
        cut = min(set(range(count)) - set(places), key=lambda place: costs[place])
        why = (
            f"allocation {allocation:.2f} gives a budget of {budget:.1f} ms and {cascade.stages[cut].rung} costs "
            f"{costs[cut]:.1f} ms"
            if costs[cut] > budget
            else f"the policy's resolution caps leave out {cascade.stages[cut].rung}"
        )
        return f"{len(places)} of {count} stages: {why}; a shortened cascade carries no promise"
    if count == 1:
        return f"{cascade.stages[0].rung} alone, the reference"
    why = (
        f"allocation {allocation:.2f} gives a budget of {budget:.1f} ms, the dearest costs {max(costs):.1f} ms"
        if shorten
        else "the policy does not shorten cascades"
    )
    promise = f"{cascade.promise.epsilon:.1%} at most is lost, by {cascade.promise.basis}"
    return f"all {count} stages: {why}; {promise if cascade.promise.holds else 'nothing is promised'}"
