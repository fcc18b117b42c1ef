"""From an allocation to a rung: the most accurate one whose measured cost fits the budget."""

from __future__ import annotations

from collections.abc import Iterable

from .decision import Ladder, Rung, RungCandidate, RungDecision
from .errors import BadInputError

Rank = tuple[float, int]  # of a rung: accuracy where all are measured, resolution


def choose_rung(
    ladder: Ladder,
    allocation: float,
    *,
    min_resolution: int | None = None,
    max_resolution: int | None = None,
    slowdown: float = 1.0,
) -> RungDecision:
    """The rung that `allocation` in [0, 1] affords.

    The budget is c_min + allocation * (c_max - c_min) over the rungs within the caps, so 0 is the cheapest rung, 1 the
    dearest, and one always fits. Among those that fit, the highest measured accuracy wins; without a measurement of
    all of them, the highest resolution. Caps that leave no rung keep the nearest one. On a device that is `slowdown`
    times as slow as it was when measured, each rung costs so many times as much of the same budget.
    """
    inside = [r for r in ladder.rungs if _within(r, min_resolution, max_resolution)]
    if not inside:
        far = min_resolution if min_resolution is not None else max_resolution
        inside = [min(ladder.rungs, key=lambda r: abs(r.resolution - (far or r.resolution)))]
    costs = _costs(inside)
    low, high = min(c for c, _ in costs.values()), max(c for c, _ in costs.values())
    budget = max(budget_ms(low, high, allocation), low * slowdown)
    by_accuracy = all(r.accuracy is not None for r in inside)

    order = _order(inside, by_accuracy)
    fitting = [r for r in inside if costs[r.resolution][0] * slowdown <= budget]
    best = max(fitting, key=lambda r: order[r.resolution])
    candidates = tuple(
        _candidate(r, costs, budget, best, by_accuracy, inside, slowdown)
        for r in sorted(ladder.rungs, key=lambda r: -r.resolution)
    )
    cost, estimated = costs[best.resolution]
    about = "about " if estimated else ""
    slowed = "" if slowdown == 1.0 else f" on this slowed device ({cost:.1f} ms calm)"
    text = (
        f"{best.resolution} px: allocation {allocation:.2f} gives a budget of {budget:.1f} ms, this rung costs "
        f"{about}{cost * slowdown:.1f} ms{slowed} and is the {'most accurate' if by_accuracy else 'finest'} that fits"
    )
    return RungDecision(
        task=ladder.task,
        resolution=best.resolution,
        patch_id=best.patch_id,
        budget_ms=budget,
        candidates=candidates,
        text=text,
    )


def budget_ms(low: float, high: float, allocation: float) -> float:
    """What `allocation` in [0, 1] affords between two costs: never less than the cheapest, at 1 the dearest."""
    return high if allocation >= 1.0 else max(low, min(high, low + allocation * (high - low)))


def ranks(candidates: Iterable[RungCandidate]) -> dict[int, Rank]:
    """How good the rungs within the caps are, by resolution: what `choose_rung` goes by among those that fit."""
    inside = [each.rung for each in candidates if each.within_caps]
    return _order(inside, all(rung.accuracy is not None for rung in inside))


def _order(inside: Iterable[Rung], by_accuracy: bool) -> dict[int, Rank]:
    return {r.resolution: ((r.accuracy or 0.0) if by_accuracy else 0.0, r.resolution) for r in inside}


def cheapest_at_least(ladder: Ladder, accuracy: float) -> Rung:
    """The cheapest rung whose measured accuracy is at least `accuracy`, a share. Raises BadInputError without one."""
    costs = _costs(list(ladder.rungs))
    good = [r for r in ladder.rungs if r.accuracy is not None and r.accuracy >= accuracy]
    if not good:
        best = max((r.accuracy for r in ladder.rungs if r.accuracy is not None), default=None)
        known = "none of them has been measured" if best is None else f"the best one reaches {best:.1%}"
        raise BadInputError(
            f"No rung of task '{ladder.task}' is known to be {accuracy:.1%} accurate; {known}.",
            hint="Ask for less, or train the task further.",
        )
    return min(good, key=lambda r: (costs[r.resolution][0], -(r.accuracy or 0.0)))


def _within(rung: Rung, low: int | None, high: int | None) -> bool:
    return (low is None or rung.resolution >= low) and (high is None or rung.resolution <= high)


def _costs(rungs: list[Rung]) -> dict[int, tuple[float, bool]]:
    """Cost and whether it is estimated: pixels times the mean measured cost a pixel, one nanosecond without any."""
    measured = [(r.cost_ms, r.resolution**2) for r in rungs if r.cost_ms is not None]
    per_pixel = sum(c / p for c, p in measured) / len(measured) if measured else 2e-4
    return {
        r.resolution: (r.cost_ms, False) if r.cost_ms is not None else (per_pixel * r.resolution**2, True)
        for r in rungs
    }


def _candidate(
    rung: Rung,
    costs: dict[int, tuple[float, bool]],
    budget: float,
    best: Rung,
    by_accuracy: bool,
    inside: list[Rung],
    slowdown: float,
) -> RungCandidate:
    if rung not in inside:
        cost = rung.cost_ms or 2e-4 * rung.resolution**2
        return RungCandidate(
            rung=rung,
            cost_ms=cost,
            estimated=rung.cost_ms is None,
            fits=False,
            chosen=False,
            within_caps=False,
            verdict=f"{rung.resolution} px refused: outside the policy's resolution caps",
        )
    cost, estimated = costs[rung.resolution]
    fits, chosen, now = cost * slowdown <= budget, rung is best, cost * slowdown
    about = " (estimated from pixels)" if estimated else ""
    if chosen:
        verdict = f"{rung.resolution} px chosen: {now:.1f} ms{about} fits the budget of {budget:.1f} ms"
    elif not fits:
        verdict = f"{rung.resolution} px refused: {now:.1f} ms{about} is over the budget of {budget:.1f} ms"
    elif by_accuracy:
        verdict = f"{rung.resolution} px not needed: {rung.accuracy:.1%} accurate, {best.resolution} px is better"
    else:
        verdict = f"{rung.resolution} px not needed: {best.resolution} px fits too and is finer"
    return RungCandidate(
        rung=rung,
        cost_ms=cost,
        slowed_ms=None if slowdown == 1.0 else now,
        estimated=estimated,
        fits=fits,
        chosen=chosen,
        verdict=verdict,
    )
