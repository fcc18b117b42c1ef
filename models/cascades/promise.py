"""The promise of a cascade: tests on inputs that the search has not seen, in the frame of Learn-then-Test.

For each cascade of a path the hypothesis is "its mean loss against the reference exceeds epsilon". The path is tested
by falling prospect of passing, each cascade at delta, up to the first hypothesis that stands (fixed-sequence testing);
the last cascade that passed is promised. Then with probability at least 1 - delta over the certifying inputs its mean
loss is at most epsilon, whatever the distribution (Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test", 2021).

The p-values are valid at any sample size. Which of two tests makes them is settled on the search part, so the choice is
independent of the inputs that are tested on.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...policies.cascade import (
    LEAST_SEARCH,
    AcceptRule,
    Cascade,
    Promise,
    RuleKind,
    RungId,
    Stage,
    check_promise,
    missing,
    needed,
)
from .costs import CascadeCosts
from .greedy import WORTH, Point
from .simulation import Outcome, Step, expected_cost, run
from .table import ScoreTable

LossArray = NDArray[np.int8]
_BETS = 40  # stakes that are tried on the search part
_MOST_OF_STAKE = 0.98  # of the largest allowed one; with all of it a single loss would be final


@dataclass(frozen=True)
class BinomialTest:
    """Counts the losses and nothing else. What is won is left out, which can only raise the p-value."""

    def p_value(self, losses: LossArray, epsilon: float) -> float:
        """P(Binomial(n, epsilon) <= losses): of the hypothesis that the mean exceeds `epsilon`."""
        return binomial_tail(int((losses > 0).sum()), len(losses), epsilon)


@dataclass(frozen=True)
class BettingTest:
    """Bets on every input that it loses less than epsilon: the wealth of a fair game that the hypothesis makes unfair.

    Under the hypothesis K_t = prod over i <= t of 1 + stake * (epsilon - x_i) is a supermartingale, so by Ville's
    inequality 1 / max K_t is a p-value (Waudby-Smith and Ramdas 2024). Takes what is won into account.
    """

    stake: float  # in [0, 1 / (1 - epsilon)]

    def p_value(self, losses: LossArray, epsilon: float) -> float:
        """Of the hypothesis that the mean of `losses`, each -1, 0 or 1, in their random order, exceeds `epsilon`."""
        if not len(losses):
            return 1.0
        with np.errstate(divide="ignore"):
            wealth = np.cumsum(np.log(np.maximum(0.0, 1 + self.stake * (epsilon - losses.astype(np.float64)))))
        return math.exp(-max(0.0, float(wealth.max())))


def binomial_tail(k: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= k), summed in logarithms."""
    if k >= n:
        return 1.0
    i = np.arange(1, k + 1)
    terms = np.concatenate(([0.0], np.cumsum(np.log((n - i + 1) / i) + math.log(p) - math.log1p(-p))))
    terms += n * math.log1p(-p)
    top = float(terms.max())
    return min(1.0, math.exp(top) * float(np.exp(terms - top).sum()))


def to_certify(inputs: int, epsilon: float, delta: float) -> int:
    """How many of `inputs` to keep for certifying: half, or as many as are `needed` where LEAST_SEARCH are left.

    Less what does not count: up to the number at which one loss more is allowed, further inputs could only add losses.
    """
    least = needed(epsilon, delta)
    most = max(inputs // 2, min(least, inputs - LEAST_SEARCH))
    if most < least:
        return most
    allowed = _critical(most, epsilon, delta)
    return bisect_left(range(most), True, key=lambda n: binomial_tail(allowed, n, epsilon) <= delta)


def choose_test(
    lost: float, won: float, n: int, epsilon: float, delta: float
) -> tuple[BinomialTest | BettingTest, float]:
    """The test with the better prospect of passing on `n` inputs, of which `lost` and `won` are the expected shares.

    The second value is that prospect, in [0, 1].
    """
    critical = _critical(n, epsilon, delta)
    by_counting = 0.0 if critical < 0 else 1.0 if lost <= 0 else binomial_tail(critical, n, lost)
    if won <= 0:
        return BinomialTest(), by_counting
    stakes = np.linspace(0, _MOST_OF_STAKE / (1 - epsilon), _BETS + 1)[1:]
    gains = np.log1p(np.outer(stakes, (epsilon - 1, epsilon + 1, epsilon)))
    shares = np.array((lost, won, 1 - lost - won))
    mean = gains @ shares
    spread = np.sqrt(np.maximum(1e-12, gains**2 @ shares - mean**2) / n)
    prospects = (mean - math.log(1 / delta) / n) / spread
    best = int(prospects.argmax())
    by_betting = 0.5 * math.erfc(-float(prospects[best]) / math.sqrt(2))
    if by_betting > by_counting:
        return BettingTest(float(stakes[best])), by_betting
    return BinomialTest(), by_counting


def path_of(points: Iterable[Point], below_ms: float, n: int, epsilon: float, delta: float) -> tuple[Point, ...]:
    """The cascades in the order in which they are to be tested on `n` inputs: by falling prospect of passing.

    Each is at least WORTH cheaper than those before, and than `below_ms`. Prospects are of the search part, so the
    order is settled before the certifying part is looked at. A path that began with cascades of a large variance, as
    those are that lose and win much, would mostly end there.
    """
    prospects = [(choose_test(point.lost, point.won, n, epsilon, delta)[1], point) for point in points]
    path: list[Point] = []
    for _, point in sorted(prospects, key=lambda pair: (-pair[0], pair[1].cost_ms)):
        if point.cost_ms < (1 - WORTH) * (path[-1].cost_ms if path else below_ms):
            path.append(point)
    return tuple(path)


def _critical(n: int, epsilon: float, delta: float) -> int:
    """The most losses of `n` with which counting still rejects; -1 where even none are too many."""
    return bisect_right(range(n), delta, key=lambda k: binomial_tail(k, n, epsilon)) - 1


def certify(
    path: Sequence[Point],
    certifying: ScoreTable,
    costs: CascadeCosts,
    reference: RungId,
    *,
    epsilon: float,
    delta: float,
    search_samples: int,
    now_s: float,
) -> Cascade:
    """The cheapest cascade of `path` that can be promised, else the reference alone with the reason in its promise.

    `path` must have come from other inputs, `search_samples` of them, and `costs`: `certifying` must be fresh to it.
    Raises ValueError unless epsilon and delta lie in (0, 1).
    """
    check_promise(epsilon, delta)
    lacking = needed(epsilon, delta) - len(certifying)
    lacking = max(lacking, missing(search_samples + len(certifying), epsilon, delta)) if lacking > 0 else 0
    passed: tuple[Point, Outcome, float] | None = None
    first: tuple[Outcome, float] | None = None
    for point in path if not lacking else ():
        test, _ = choose_test(point.lost, point.won, len(certifying), epsilon, delta)
        outcome = run(point.steps, certifying, reference)
        p_value = test.p_value(outcome.losses, epsilon)
        first = first or (outcome, p_value)
        if p_value > delta:
            break
        passed = point, outcome, p_value
    promise = Promise(basis=certifying.basis, epsilon=epsilon, delta=delta, samples=len(certifying), missing=lacking,
                      holds=passed is not None)  # fmt: skip
    made = {"reference": reference, "search_samples": search_samples, "made_s": now_s}
    alone = costs.stage_costs([reference])[0]
    if passed is None:
        if first is not None:
            promise = promise.model_copy(update=_observed(*first))
        stages = (Stage(rung=reference, rule=AcceptRule(kind=RuleKind.ALWAYS), cost_ms=alone, share=1.0),)
        return Cascade(stages=stages, promise=promise, cost_ms=alone, reference_cost_ms=alone, **made)
    point, outcome, p_value = passed
    return Cascade(
        stages=_stages(point.steps, outcome, costs),
        promise=promise.model_copy(update=_observed(outcome, p_value)),
        cost_ms=expected_cost(point.steps, outcome, costs),
        reference_cost_ms=alone,
        **made,
    )


def _observed(outcome: Outcome, p_value: float) -> dict[str, float]:
    return {"loss": outcome.loss, "disagreement": outcome.disagreement, "p_value": p_value}


def _stages(steps: Sequence[Step], outcome: Outcome, costs: CascadeCosts) -> tuple[Stage, ...]:
    shares, added = outcome.shares(len(steps)), costs.stage_costs([step.rung for step in steps])
    return tuple(
        Stage(rung=step.rung, rule=step.rule, cost_ms=cost, share=float(share))
        for step, cost, share in zip(steps, added, shares, strict=True)
    )
