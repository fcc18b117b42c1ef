"""A cascade applied to a table: who answers what, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...policies.cascade import AcceptRule, Cascade, RungId
from .costs import CascadeCosts
from .features import accepts
from .table import ScoreTable


@dataclass(frozen=True)
class Step:
    """A stage as the search proposes it, before anything is known of its share."""

    rung: RungId
    rule: AcceptRule


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a cascade did with `n` inputs."""

    answers: NDArray[np.int32]  # [n]
    stage: NDArray[np.intp]  # [n], index of the stage that answered
    loss: float  # mean, by the table's basis
    disagreement: float  # share of answers unlike the reference's
    losses: NDArray[np.int8]  # [n]

    def shares(self, stages: int) -> NDArray[np.float64]:
        """The share of inputs that each of the stages answered, [stages]."""
        return np.bincount(self.stage, minlength=stages) / max(1, len(self.stage))


def steps_of(cascade: Cascade) -> tuple[Step, ...]:
    """The stages without what calibrating found for them."""
    return tuple(Step(stage.rung, stage.rule) for stage in cascade.stages)


def run(steps: Sequence[Step], table: ScoreTable, reference: RungId) -> Outcome:
    """Send every input of `table` through the stages; the last one answers whatever comes to it.

    Raises BadInputError when the table lacks a rung.
    """
    n, last = len(table), len(steps) - 1
    stage = np.full(n, last, np.intp)
    columns = [table.index(step.rung) for step in steps]
    open_rows = np.arange(n)
    for i, step in enumerate(steps[:-1]):
        earlier = None if step.rule.earlier is None else table.answers[open_rows, columns[step.rule.earlier]]
        answers = table.answers[open_rows, columns[i]]
        taken = accepts(step.rule, table.features[open_rows, columns[i]], answers, earlier)
        stage[open_rows[taken]] = i
        open_rows = open_rows[~taken]
    answers = table.answers[np.arange(n), np.asarray(columns)[stage]]
    losses = table.losses_of(answers, reference)
    unlike = answers != table.answers[:, table.index(reference)]
    return Outcome(answers, stage, float(losses.mean()) if n else 0.0, float(unlike.mean()) if n else 0.0, losses)


def row_costs(steps: Sequence[Step], outcome: Outcome, costs: CascadeCosts) -> NDArray[np.float64]:
    """Milliseconds of each input, [n]: all stages up to the one that answered."""
    return np.cumsum(costs.stage_costs([step.rung for step in steps]))[outcome.stage]


def expected_cost(steps: Sequence[Step], outcome: Outcome, costs: CascadeCosts) -> float:
    """Mean milliseconds of an input: each stage's cost times the share of inputs that come to it."""
    shares = outcome.shares(len(steps))
    reaching = 1.0 - np.concatenate(([0.0], np.cumsum(shares)[:-1]))
    return float(np.dot(reaching, costs.stage_costs([step.rung for step in steps])))
