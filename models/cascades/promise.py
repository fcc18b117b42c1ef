"""The promise of a cascade: tests on inputs that the search has not seen, in the frame of Learn-then-Test.

For each cascade of a path the hypothesis is "its mean loss against the reference exceeds epsilon". The path is tested
by growing allowance, each cascade at delta, up to the first hypothesis that stands (fixed-sequence testing); the last
cascade that passed is promised. Then with probability at least 1 - delta over the certifying inputs its mean
loss is at most epsilon, whatever the distribution (Angelopoulos, Bates, Candès, Jordan, Lei, "Learn then Test", 2021).

The p-values are valid at any sample size. Which of two tests makes them is settled on the search part, so the choice is
independent of the inputs that are tested on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...policies.cascade import AcceptRule, Cascade, Promise, RuleKind, RungId, Stage, check_promise, missing, needed
from .costs import CascadeCosts
from .greedy import Point
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


def choose_test(searched: LossArray, n: int, epsilon: float, delta: float) -> BinomialTest | BettingTest:
    """The test with the better prospect of passing on `n` inputs, judged by the losses on the search part alone."""
    # Half a count of each kind more: what did not happen on the search part may yet happen.
    total = len(searched) + 1.5
    lost, won = ((searched > 0).sum() + 0.5) / total, ((searched < 0).sum() + 0.5) / total
    if not (searched < 0).any():
        return BinomialTest()
    stakes = np.linspace(0, _MOST_OF_STAKE / (1 - epsilon), _BETS + 1)[1:]
    gains = np.log1p(np.outer(stakes, (epsilon - 1, epsilon + 1, epsilon)))
    shares = np.array((lost, won, 1 - lost - won))
    mean = gains @ shares
    spread = np.sqrt(np.maximum(1e-12, gains**2 @ shares - mean**2) / n)
    prospects = (mean - math.log(1 / delta) / n) / spread
    best = int(prospects.argmax())
    by_betting = 0.5 * math.erfc(-float(prospects[best]) / math.sqrt(2))
    critical = _critical(n, epsilon, delta)
    by_counting = 0.0 if critical < 0 else binomial_tail(critical, n, float(lost))
    return BettingTest(float(stakes[best])) if by_betting > by_counting else BinomialTest()


def _critical(n: int, epsilon: float, delta: float) -> int:
    """The most losses of `n` with which counting still rejects; -1 where even none are too many."""
    k = -1
    while k < n and binomial_tail(k + 1, n, epsilon) <= delta:
        k += 1
    return k


def certify(
    path: Sequence[Point],
    searched: ScoreTable,
    certifying: ScoreTable,
    costs: CascadeCosts,
    reference: RungId,
    *,
    epsilon: float,
    delta: float,
    now_s: float,
) -> Cascade:
    """The cheapest cascade of `path` that can be promised, else the reference alone with the reason in its promise.

    `path` must have come from `searched` and `costs` alone: the promise rests on `certifying` being fresh to it.
    Raises ValueError unless epsilon and delta lie in (0, 1).
    """
    check_promise(epsilon, delta)
    lacking = needed(epsilon, delta) - len(certifying)
    lacking = max(lacking, missing(len(searched) + len(certifying), epsilon, delta)) if lacking > 0 else 0
    passed: tuple[Point, Outcome, float] | None = None
    first: tuple[Outcome, float] | None = None
    for point in path if not lacking else ():
        test = choose_test(run(point.steps, searched, reference).losses, len(certifying), epsilon, delta)
        outcome = run(point.steps, certifying, reference)
        p_value = test.p_value(outcome.losses, epsilon)
        first = first or (outcome, p_value)
        if p_value > delta:
            break
        passed = point, outcome, p_value
    promise = Promise(basis=certifying.basis, epsilon=epsilon, delta=delta, samples=len(certifying), missing=lacking,
                      holds=passed is not None)  # fmt: skip
    made = {"reference": reference, "search_samples": len(searched), "made_s": now_s}
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
