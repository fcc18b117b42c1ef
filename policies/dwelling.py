"""A task's resolution changes at most once in ten seconds, whatever the allocation does in them.

Holding back changes of the allocation could not give that without holding back its falls: of two falls, or of a rise
and a fall, that lie closer together, one has to wait. It is the resolution that waits; the allocation, and with it
training and the stages of cascades, obeys at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from pydantic import Field

from .decision import RungCandidate, RungDecision
from .ladder import Rank, ranks
from .snapshot import Frozen

DWELL_S = 10.0
ONCE = f"a resolution changes once in {DWELL_S:.0f} s at most"
EARNED = f"a better rung must have been allowed for {DWELL_S:.0f} s"


class RungHold(Frozen):
    """Memory of one task's rung: its resolution, when that changed, and what has been allowed since when."""

    resolution: int
    changed_s: float | None = Field(None, description="absent: as at the first decision")
    allowed_since_s: float | None = Field(None, description="since when the rules have asked for a better rung")
    allowed: int | None = Field(None, description="resolution of the least of those rungs")

    def rebased(self, now: float) -> RungHold:
        """The memory after the clock was set back to `now`: no span measured across that counts."""
        return self.model_copy(
            update={
                "changed_s": None if self.changed_s is None else now,
                "allowed_since_s": None if self.allowed_since_s is None else now,
            }
        )


def settle(
    hold: RungHold | None,
    afforded: RungDecision,
    asked: RungDecision,
    lowest: Callable[[], RungDecision],
    now: float,
) -> tuple[RungDecision, RungHold]:
    """The rung that answers, and what to remember of it.

    `afforded` is what the allocation in force affords, `asked` what the one that the rules ask for would, `lowest`
    what it would if each condition that waits out its `for_s` held on: a fall goes that far at once, for the next
    change is ten seconds away. A rung that is no more, or that a cap forbids, is left at once. A better rung must have
    been asked for during ten seconds, and no more is taken than was asked for in all of them.
    """
    if hold is None:
        return afforded, RungHold(resolution=afforded.resolution)
    in_force = _candidate(afforded, hold.resolution)
    if in_force is None or not in_force.within_caps:
        if afforded.resolution == hold.resolution:  # caps that leave no rung keep the nearest
            return afforded, hold
        return afforded, RungHold(resolution=afforded.resolution, changed_s=now)
    order = ranks(afforded.candidates)
    hold = _heard(hold, asked.resolution, order, now)
    if afforded.resolution == hold.resolution:
        return afforded, hold
    changed_s = -math.inf if hold.changed_s is None else hold.changed_s
    settled = now - changed_s > DWELL_S
    if not in_force.fits:
        if settled:
            fallen = lowest()
            return fallen, RungHold(resolution=fallen.resolution, changed_s=now)
        return _kept(afforded, in_force, DWELL_S - (now - changed_s), ONCE), hold
    since = now if hold.allowed_since_s is None else hold.allowed_since_s
    least = None if hold.allowed is None else _candidate(afforded, hold.allowed)
    better = afforded.resolution
    if least is not None and least.fits:
        better = min(better, least.rung.resolution, key=order.__getitem__)
    if settled and now - since >= DWELL_S and order[better] > order[hold.resolution]:
        return _taken(afforded, better), hold.model_copy(update={"resolution": better, "changed_s": now})
    why = EARNED if now - since < DWELL_S else ONCE
    return _kept(afforded, in_force, DWELL_S - (now - max(since, changed_s)), why), hold


def _heard(hold: RungHold, asked: int, order: Mapping[int, Rank], now: float) -> RungHold:
    """The memory with what the rules ask for now: since when better than what is in force, and the least."""
    if order[asked] <= order[hold.resolution]:
        return hold if hold.allowed is None else RungHold(resolution=hold.resolution, changed_s=hold.changed_s)
    known = hold.allowed if hold.allowed in order else None
    allowed = asked if known is None else min(known, asked, key=order.__getitem__)
    if known == allowed:
        return hold
    since = now if hold.allowed_since_s is None else hold.allowed_since_s
    return hold.model_copy(update={"allowed_since_s": since, "allowed": allowed})


def _candidate(decision: RungDecision, resolution: int) -> RungCandidate | None:
    return next((each for each in decision.candidates if each.rung.resolution == resolution), None)


def _kept(decision: RungDecision, in_force: RungCandidate, left_s: float, why: str) -> RungDecision:
    """The rung in force, where the decision is for another one later."""
    kept = f"{in_force.rung.resolution} px kept for {max(0.0, left_s):.0f} s more"
    over = "" if in_force.fits else f"{_cost(in_force)} is over the budget of {decision.budget_ms:.1f} ms, but "
    return _with(decision, in_force, f"{kept}: {over}{why}", f"{kept}, as {why}; then {decision.text}")


def _taken(decision: RungDecision, resolution: int) -> RungDecision:
    """The best rung that was allowed long enough, where the decision is for a better one."""
    candidate = _candidate(decision, resolution)
    if candidate is None or candidate.chosen:
        return decision
    why = f"{resolution} px chosen: no better one was allowed during all of the last {DWELL_S:.0f} s"
    return _with(decision, candidate, why, why)


def _with(decision: RungDecision, taken: RungCandidate, verdict: str, text: str) -> RungDecision:
    """The decision with another of its candidates in place of the chosen one."""
    said = []
    for each in decision.candidates:
        if each is taken:
            each = each.model_copy(update={"chosen": True, "verdict": verdict})
        elif each.chosen:
            fits = f"{_cost(each)} fits the budget of {decision.budget_ms:.1f} ms"
            each = each.model_copy(update={"chosen": False, "verdict": f"{each.rung.resolution} px waits: {fits}"})
        said.append(each)
    rung = taken.rung
    update = {"resolution": rung.resolution, "patch_id": rung.patch_id, "candidates": tuple(said), "text": text}
    return decision.model_copy(update=update)


def _cost(candidate: RungCandidate) -> str:
    return f"{candidate.cost_ms if candidate.slowed_ms is None else candidate.slowed_ms:.1f} ms"
