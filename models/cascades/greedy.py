"""The search for cascades: Streeter's greedy algorithm over all (rung, rule, threshold) choices, on measured costs.

At every turn the choice that answers most of the still open inputs for its cost joins the cascade, provided that the
answers it gives lose no more than the allowance against the reference's. The reference is a choice too, which answers
everything; when no other is a better buy it becomes the last stage. So a cascade found here never costs more than the
reference alone on the inputs that it was found on.

Source: Streeter, "Approximation Algorithms for Cascading Prediction Models", ICML 2018, algorithm 1. docs/cascades.md
states the factor of 4 and what it rests on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...policies.cascade import AcceptRule, RuleKind, RungId
from .confidence import fit_confidence, fit_confidences
from .costs import CascadeCosts
from .features import MARGIN, PROBABILITY, confidence
from .simulation import Step, expected_cost, run
from .table import ScoreTable

MOST_STAGES = 4  # with the reference: each keeps a graph in memory and adds to the slowest answers
WORTH = 0.01  # of the expected cost: a stage that saves less is not worth its graph in memory
NEVER = 2.0  # a threshold above every margin: such a stage only lends its answer to a later one
ALL_KINDS = frozenset({RuleKind.CONFIDENCE, RuleKind.MARGIN, RuleKind.AGREEMENT})
ALLOWANCES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 1.7, 2.0)  # in epsilons
CAUTION = 100.0  # inputs of modelled loss that a stage is charged: a few without a loss prove little

Rows = NDArray[np.intp]
Ranked = tuple[Rows, NDArray[np.float64]]  # inputs by falling score, and their scores


@dataclass(frozen=True)
class Point:
    """A cascade, or a rung alone, on the search part: what it costs and what it loses."""

    cost_ms: float
    loss: float  # mean, by the table's basis
    disagreement: float  # share of answers unlike the reference's
    steps: tuple[Step, ...]
    lost: float  # share of fresh inputs expected to be lost: midway between what was counted and what is modelled
    won: float  # and to be won


@dataclass(frozen=True)
class Found:
    """What a search found."""

    cascades: tuple[Point, ...]  # one for each allowance and way of counting
    points: tuple[Point, ...]  # everything evaluated: rungs alone, one early stage and the reference, whole cascades
    frontier: tuple[Point, ...]  # those of them that nothing else beats in both cost and loss, cheapest first


class Pick(NamedTuple):
    """A stage while it is looked for: the column of its rung, and its rule but for the threshold."""

    column: int
    rule: AcceptRule
    threshold: float


@dataclass(frozen=True)
class Choice:
    """Stages that may come next, with the inputs that they would answer at once."""

    picks: tuple[Pick, ...]
    answered: Rows
    cost_ms: float  # mean, for an open input


@dataclass
class _Turns:
    """A cascade under construction."""

    open: NDArray[np.bool_]  # [n]
    picks: list[Pick] = field(default_factory=list)

    @property
    def columns(self) -> tuple[int, ...]:
        return tuple(pick.column for pick in self.picks)

    def take(self, choice: Choice) -> None:
        self.picks += choice.picks
        self.open[choice.answered] = False


def search(
    table: ScoreTable,
    costs: CascadeCosts,
    reference: RungId,
    allowances: Iterable[float],
    *,
    kinds: frozenset[RuleKind] = ALL_KINDS,
    most_stages: int = MOST_STAGES,
    caution: float = CAUTION,
) -> Found:
    """Cascades to `reference` for each allowance: the mean loss that a stage may have on the inputs that it answers.

    Every allowance is used twice where inputs can be won as well as lost: once with the losses alone, once with what is
    won subtracted. Cascades of the first kind vary less on fresh inputs. `caution` is explained at `longest_prefix`.
    `table` is the search part alone.

    Raises BadInputError when it lacks the reference or a cost is unmeasured.
    """
    searcher = Searcher(table, costs, reference, kinds, caution)
    whole: list[Point] = []
    points = [searcher.point([Step(rung, AcceptRule(kind=RuleKind.ALWAYS))]) for rung in table.rungs]
    for allowance in sorted(set(allowances)):
        points += searcher.single_points(allowance)
        for each in searcher.countings():
            whole.append(each.point(each.pruned(each.greedy(allowance), allowance, most_stages)))
    points += whole
    return Found(tuple(whole), tuple(points), frontier_of(points))


def frontier_of(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points that no other beats in both cost and loss, cheapest first."""
    frontier: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost_ms, point.loss)):
        if not frontier or point.loss < frontier[-1].loss:
            frontier.append(point)
    return tuple(frontier)


def plain_confidence(
    table: ScoreTable, costs: CascadeCosts, reference: RungId, rungs: Sequence[RungId], thresholds: Iterable[float]
) -> list[Point]:
    """The baseline without a search: `rungs` as they are, one threshold on the largest probability for all of them."""
    searcher = Searcher(table, costs, reference, frozenset(), 0.0)
    points = []
    weights = np.zeros(table.features.shape[2] + 1)
    weights[1 + PROBABILITY] = 1.0
    for threshold in thresholds:
        limit = float(confidence(weights[:2], np.array([[threshold]]))[0])
        rule = AcceptRule(kind=RuleKind.CONFIDENCE, threshold=limit, weights=tuple(map(float, weights)))
        points.append(searcher.point([*(Step(rung, rule) for rung in rungs), searcher.last]))
    return points


class Searcher:
    """The tables that the greedy algorithm looks things up in: every rung's inputs, sorted by every rule's score."""

    def __init__(
        self,
        table: ScoreTable,
        costs: CascadeCosts,
        reference: RungId,
        kinds: frozenset[RuleKind],
        caution: float,
    ) -> None:
        self._table, self._costs, self._reference, self._caution = table, costs, reference, caution
        self._last = table.index(reference)
        self._others = [i for i in range(len(table.rungs)) if i != self._last]
        self._net = table.losses(reference)
        self._lost, self._won = self._modelled(self._net > 0), self._modelled(self._net < 0)
        self._losses, self._expected = self._net, self._lost - self._won  # as they are counted against the allowance
        self._stage_ms: dict[tuple[tuple[int, ...], int], float] = {}
        self._agreements = [AcceptRule(kind=RuleKind.AGREEMENT, earlier=i) for i in range(len(table.rungs))]
        self._agreeing = RuleKind.AGREEMENT in kinds
        self._rules: dict[int, list[AcceptRule]] = {column: [] for column in self._others}
        self._sorted: dict[tuple[int, RuleKind], Ranked] = {}
        weights = fit_confidences(table, reference) if RuleKind.CONFIDENCE in kinds else {}
        for column, rules in self._rules.items():
            features, rung = table.features[:, column], table.rungs[column]
            if RuleKind.MARGIN in kinds:
                rules.append(AcceptRule(kind=RuleKind.MARGIN))
            if kinds & {RuleKind.MARGIN, RuleKind.AGREEMENT}:
                self._sorted[column, RuleKind.MARGIN] = _descending(features[:, MARGIN].astype(np.float64))
            if rung in weights:
                rules.append(AcceptRule(kind=RuleKind.CONFIDENCE, weights=weights[rung]))
                scores = confidence(np.asarray(weights[rung]), features)
                self._sorted[column, RuleKind.CONFIDENCE] = _descending(scores)

    @property
    def last(self) -> Step:
        """The reference, which answers whatever comes to it."""
        return Step(self._reference, AcceptRule(kind=RuleKind.ALWAYS))

    def _modelled(self, events: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The probability of an event [n, m] by the features of its rung, from a logistic regression for each rung.

        It tells apart inputs among which none was lost: the surer the rung, the less likely a loss.
        """
        modelled = np.zeros(events.shape)
        for column in self._others:
            if events[:, column].any():
                features = self._table.features[:, column]
                modelled[:, column] = confidence(np.asarray(fit_confidence(features, events[:, column])), features)
        return modelled

    def countings(self) -> tuple[Searcher, ...]:
        """This search, and, where inputs can be won, the same search that does not subtract them from the losses."""
        if (self._net >= 0).all():
            return (self,)
        gross = copy(self)
        gross._losses, gross._expected = np.maximum(self._net, 0), self._lost
        return self, gross

    def point(self, steps: Sequence[Step]) -> Point:
        """What these stages cost and lose on the table."""
        outcome = run(steps, self._table, self._reference)
        columns = np.array([self._table.index(step.rung) for step in steps])[outcome.stage]
        fresh = self._fresh(np.arange(len(self._table)), columns)
        cost = expected_cost(steps, outcome, self._costs)
        return Point(cost, outcome.loss, outcome.disagreement, tuple(steps), *fresh)

    def _fresh(self, rows: Rows, columns: NDArray[np.intp] | int) -> tuple[float, float]:
        """The shares of fresh inputs expected to be lost and won where these columns answer these rows."""
        net, n = self._net[rows, columns], max(1, len(self._table))
        lost = float(self._lost[rows, columns].sum() + (net > 0).sum())
        won = float(self._won[rows, columns].sum() + (net < 0).sum())
        return lost / (2 * n), won / (2 * n)

    def greedy(self, allowance: float) -> list[Step]:
        """Algorithm 1: the best buy, turn by turn, until the reference is the best buy."""
        turns = _Turns(np.ones(len(self._table), np.bool_))
        while turns.open.any():
            best = max(self._choices(turns, allowance), key=_rate, default=None)
            if best is None or _rate(best) <= turns.open.sum() / self._cost(turns.columns, self._last):
                break
            turns.take(best)
        return self._steps(turns.picks)

    def pruned(self, steps: Sequence[Step], allowance: float, most: int) -> list[Step]:
        """At most `most` of the stages, without those that are not worth it.

        Again and again the stage goes that is missed least, while it is of no worth or there are too many. The
        thresholds of the others are set anew each time, as `greedy` sets them, so the allowance holds for every stage.
        """
        alone, best = self._costs.stage_costs([self._reference])[0], self.point(steps)
        while True:
            limit = min(best.cost_ms * (1 + WORTH), alone) if len(best.steps) <= most else np.inf
            left = (_without(best.steps, i) for i in range(len(best.steps) - 1))
            fewer = [self.point(self._refitted(remaining, allowance)) for remaining in left if remaining]
            fewer = [point for point in fewer if point.cost_ms <= limit]
            if not fewer:
                return list(best.steps)
            best = min(fewer, key=lambda point: point.cost_ms)

    def _refitted(self, steps: Sequence[Step], allowance: float) -> list[Step]:
        """The same rungs and rules in the same order, each with the lowest threshold that the allowance permits."""
        turns = _Turns(np.ones(len(self._table), np.bool_))
        for step in steps[:-1]:
            column = self._table.index(step.rung)
            choice = self._single(column, step.rule, self._ranked(column, step.rule, turns), 1.0, allowance)
            if choice is None:
                turns.picks.append(Pick(column, step.rule, NEVER))
            else:
                turns.take(choice)
        return self._steps(turns.picks)

    def _steps(self, picks: Iterable[Pick]) -> list[Step]:
        rungs = self._table.rungs
        steps = [Step(rungs[p.column], p.rule.model_copy(update={"threshold": p.threshold})) for p in picks]
        return [*steps, self.last]

    def single_points(self, allowance: float) -> Iterator[Point]:
        """Every rung and rule as the only early stage before the reference."""
        n = len(self._table)
        everything = _Turns(np.ones(n, np.bool_))
        unlike = self._table.disagreements(self._reference)
        for choice in self._singles(everything, allowance):
            column, rows = choice.picks[0].column, choice.answered
            then = self._cost((column,), self._last)
            yield Point(
                self._costs.decode_ms + choice.cost_ms + (1 - len(rows) / n) * then,
                float(self._net[rows, column].sum()) / n,
                float(unlike[rows, column].sum()) / n,
                tuple(self._steps(choice.picks)),
                *self._fresh(rows, column),
            )

    def _choices(self, turns: _Turns, allowance: float) -> list[Choice]:
        singles = list(self._singles(turns, allowance))
        return singles + list(self._pairs(turns, allowance, singles)) if self._agreeing else singles

    def _singles(self, turns: _Turns, allowance: float) -> Iterator[Choice]:
        used = turns.columns
        for column in self._others:
            if column in used:
                continue
            cost = self._cost(used, column)
            for rule in self._rules[column] + (self._agreements[: len(used)] if self._agreeing else []):
                choice = self._single(column, rule, self._ranked(column, rule, turns), cost, allowance)
                if choice is not None:
                    yield choice

    def _single(self, column: int, rule: AcceptRule, ranked: Ranked, cost_ms: float, allowance: float) -> Choice | None:
        order, scores = ranked
        losses, expected = self._losses[order, column], self._expected[order, column]
        count = longest_prefix(losses, scores, allowance, expected, self._caution)
        if not count:
            return None
        return Choice((Pick(column, rule, _between(scores, count)),), order[:count], cost_ms)

    def _pairs(self, turns: _Turns, allowance: float, singles: Sequence[Choice]) -> Iterator[Choice]:
        """Two cheap rungs of which the second answers where both say the same; the first answers what it can alone."""
        used, size = turns.columns, int(turns.open.sum())
        best = max(map(_rate, singles), default=0.0)
        rule = self._agreements[len(used)]
        for first in (column for column in self._others if column not in used):
            own = max((c for c in singles if c.picks[0].column == first), key=lambda c: len(c.answered), default=None)
            answered = own.answered if own else np.empty(0, np.intp)
            pick = own.picks[0] if own else Pick(first, AcceptRule(kind=RuleKind.MARGIN), NEVER)
            left = turns.open.copy()
            left[answered] = False
            between = _Turns(left, [*turns.picks, pick])
            first_cost = self._cost(used, first)
            for second in self._others:
                if second in between.columns or self._cost(used, second) < first_cost:
                    continue
                cost = first_cost + (1 - len(answered) / size) * self._cost(between.columns, second)
                ranked = self._ranked(second, rule, between)
                if (len(answered) + len(ranked[0])) / cost <= best:
                    continue  # even if all that agree were taken
                choice = self._single(second, rule, ranked, cost, allowance)
                if choice is not None:
                    pair = Choice((pick, *choice.picks), np.concatenate((answered, choice.answered)), cost)
                    best = max(best, _rate(pair))
                    yield pair

    def _ranked(self, column: int, rule: AcceptRule, turns: _Turns) -> Ranked:
        """The open inputs by falling score, with their scores; for an agreement only those that agree."""
        order, scores = self._sorted[column, RuleKind.MARGIN if rule.earlier is not None else rule.kind]
        kept = turns.open[order]
        if rule.earlier is not None:
            answers = self._table.answers
            kept &= (answers[:, column] == answers[:, turns.picks[rule.earlier].column])[order]
        return order[kept], scores[kept]

    def _cost(self, used: tuple[int, ...], column: int) -> float:
        """What a stage adds. Decoding, which all do, is left out: a dear first stage must not look cheap by it."""
        cost = self._stage_ms.get((used, column))
        if cost is None:
            rungs = self._table.rungs
            cost = self._costs.marginal([rungs[i] for i in used], rungs[column])
            cost -= 0.0 if used else self._costs.decode_ms
            self._stage_ms[used, column] = cost
        return cost


def longest_prefix(
    losses: NDArray[np.int8],
    scores: NDArray[np.float64],
    allowance: float,
    expected: NDArray[np.float64] | None = None,
    caution: float = 0.0,
) -> int:
    """How many of the inputs, sorted by falling score, may be taken at once with a mean loss of at most `allowance`.

    The mean must hold for the losses as they are, and after `caution` inputs more that lose what those taken are
    `expected` to lose on average. Inputs of the same score are taken together or not at all.
    """
    if not len(losses):
        return 0
    counts = np.arange(1, len(losses) + 1)
    total = np.cumsum(losses, dtype=np.int64)
    allowed = total <= allowance * counts + 1e-9
    if expected is not None:
        allowed &= total + caution * np.cumsum(expected) / counts <= allowance * (counts + caution) + 1e-9
    allowed[:-1] &= scores[:-1] > scores[1:]
    found = np.flatnonzero(allowed)
    return int(found[-1]) + 1 if len(found) else 0


def _between(scores: NDArray[np.float64], count: int) -> float:
    """A threshold that takes the first `count` of the falling scores: halfway to the next, so rounding is harmless."""
    last = float(scores[count - 1])
    if count == len(scores):
        return last
    middle = (last + float(scores[count])) / 2
    return middle if middle > float(scores[count]) else last


def _descending(scores: NDArray[np.float64]) -> Ranked:
    order = np.argsort(-scores, kind="stable")
    order = order[~np.isnan(scores[order])]
    return order, scores[order]


def _rate(choice: Choice) -> float:
    return len(choice.answered) / choice.cost_ms if choice.cost_ms > 0 else np.inf


def _without(steps: Sequence[Step], i: int) -> list[Step] | None:
    """The stages but the i-th; None where a later one needs its answer."""
    if any(step.rule.earlier == i for step in steps):
        return None
    fewer = []
    for step in (*steps[:i], *steps[i + 1 :]):
        if step.rule.earlier is not None and step.rule.earlier > i:
            step = Step(step.rung, step.rule.model_copy(update={"earlier": step.rule.earlier - 1}))
        fewer.append(step)
    return fewer
