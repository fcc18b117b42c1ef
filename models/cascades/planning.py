"""From a table to a promised cascade: split, search, certify. Planning again for other costs needs nothing new."""

from __future__ import annotations

from dataclasses import dataclass

from ...policies.cascade import Cascade, RungId
from .costs import CascadeCosts
from .greedy import ALLOWANCES, Point, search
from .promise import certify, path_of, to_certify
from .table import ScoreTable


@dataclass(frozen=True)
class Planned:
    """A cascade, and everything else that the search looked at."""

    cascade: Cascade
    points: tuple[Point, ...]
    frontier: tuple[Point, ...]


def plan(
    table: ScoreTable,
    costs: CascadeCosts,
    reference: RungId,
    *,
    epsilon: float,
    delta: float,
    now_s: float,
    seed: int = 0,
) -> Planned:
    """The cheapest cascade to `reference` for which a mean loss of at most `epsilon` can be promised.

    May be called again on the same table with other costs: the split depends on the seed, the number of inputs,
    `epsilon` and `delta` only, and the path on the search part and the costs, so the certifying part is as fresh to the
    new path as it was to the old one, provided the costs were not chosen by looking at it. Every plan is a test of its
    own at `delta`. What is not promised is that *all* of several plans hold at once: their errors add up, to k times
    delta for k plans, as they also do for someone who plans over and over until a plan holds.

    Raises BadInputError when the table lacks the reference or a cost is unmeasured, ValueError unless epsilon and
    delta lie in (0, 1).
    """
    searched, certifying = table.split(to_certify(len(table), epsilon, delta), seed)
    found = search(searched, costs, reference, [epsilon * share for share in ALLOWANCES])
    path = path_of(found.cascades, costs.stage_costs([reference])[0], len(certifying), epsilon, delta)
    cascade = certify(
        path, certifying, costs, reference, epsilon=epsilon, delta=delta, search_samples=len(searched), now_s=now_s
    )
    return Planned(cascade, found.points, found.frontier)
