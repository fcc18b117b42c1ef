"""The search: what it finds keeps to its allowance, costs no more than the reference, and stays within the theorem."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from cascade_tables import costs_of, realistic, tables
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.models.cascades import (
    Step,
    accepts,
    expected_cost,
    fit_confidences,
    plain_confidence,
    row_costs,
    run,
    score,
    search,
)
from patchd.models.cascades.greedy import Searcher, frontier_of, longest_prefix
from patchd.policies.cascade import AcceptRule, RuleKind

OWN = frozenset({RuleKind.MARGIN, RuleKind.CONFIDENCE})
ALWAYS = AcceptRule(kind=RuleKind.ALWAYS)


@st.composite
def cascades(draw):
    """A table and any cascade on it."""
    table = draw(tables())
    rungs = draw(st.permutations(table.rungs))[: draw(st.integers(1, len(table.rungs)))]
    steps = []
    for i, rung in enumerate(rungs[:-1]):
        kind = draw(st.sampled_from(sorted(OWN | ({RuleKind.AGREEMENT} if i else set()))))
        weights = tuple(draw(st.lists(st.floats(-3, 3), min_size=5, max_size=5))) if kind is RuleKind.CONFIDENCE else ()
        earlier = draw(st.integers(0, i - 1)) if kind is RuleKind.AGREEMENT else None
        threshold = draw(st.floats(0, 1))
        steps.append(Step(rung, AcceptRule(kind=kind, threshold=threshold, weights=weights, earlier=earlier)))
    return table, [*steps, Step(rungs[-1], ALWAYS)]


@given(cascades())
def test_the_expected_cost_is_what_the_inputs_cost_on_average(drawn):
    table, steps = drawn
    costs = costs_of(table.rungs)
    outcome = run(steps, table, table.rungs[-1])
    added = costs.stage_costs([step.rung for step in steps])
    reaching = [(outcome.stage >= i).mean() for i in range(len(steps))]
    assert np.isclose(expected_cost(steps, outcome, costs), sum(map(np.multiply, reaching, added)))
    assert np.isclose(expected_cost(steps, outcome, costs), row_costs(steps, outcome, costs).mean())
    assert np.isclose(outcome.shares(len(steps)).sum(), 1)


@given(cascades())
def test_every_input_is_answered_by_the_first_stage_that_accepts_it(drawn):
    table, steps = drawn
    outcome = run(steps, table, table.rungs[-1])
    for row, (stage, answer) in enumerate(zip(outcome.stage, outcome.answers, strict=True)):
        columns = [table.index(step.rung) for step in steps]
        part = slice(row, row + 1)
        taken = [
            accepts(
                step.rule,
                table.features[part, column],
                table.answers[part, column],
                None if step.rule.earlier is None else table.answers[part, columns[step.rule.earlier]],
            )[0]
            for step, column in zip(steps, columns, strict=True)
        ]
        assert taken.index(True) == stage
        assert answer == table.answers[row, columns[stage]]


@given(tables(), st.sampled_from((0.0, 0.05, 0.3)), st.sampled_from((0.0, 1.0)), st.integers(2, 5))
def test_no_stage_loses_more_than_its_allowance_on_what_it_answers(table, allowance, caution, most):
    reference, costs = table.rungs[-1], costs_of(table.rungs)
    searcher = Searcher(table, costs, reference, OWN | {RuleKind.AGREEMENT}, caution)
    alone = searcher.point([searcher.last]).cost_ms
    for steps in (searcher.greedy(allowance), searcher.pruned(searcher.greedy(allowance), allowance, most)):
        outcome = run(steps, table, reference)
        assert steps[-1] == searcher.last
        for i in range(len(steps) - 1):
            losses = outcome.losses[outcome.stage == i]
            assert losses.sum() <= allowance * len(losses) + 1e-6
    assert len(steps) <= most
    assert searcher.point(searcher.greedy(allowance)).cost_ms <= alone * (1 + 1e-9)


@given(tables())
def test_what_is_found_is_evaluated_as_it_runs(table):
    reference, costs = table.rungs[-1], costs_of(table.rungs)
    found = search(table, costs, reference, [0.0, 0.1, 0.5], caution=0.0)
    alone = costs.stage_costs([reference])[0]
    for point in found.points:
        outcome = run(point.steps, table, reference)
        assert np.isclose(point.cost_ms, expected_cost(point.steps, outcome, costs))
        assert np.isclose(point.loss, outcome.loss)
        assert np.isclose(point.disagreement, outcome.disagreement)
    assert all(point.cost_ms <= alone * (1 + 1e-9) for point in found.cascades)


def brute_force(table, costs, reference):
    """The cheapest cascade of which no stage answers unlike the reference, over all orders, rules and thresholds."""
    others, weights = [rung for rung in table.rungs if rung != reference], fit_confidences(table, reference)
    best = np.inf
    for size in range(len(others) + 1):
        for rungs in permutations(others, size):
            options: list[list[Step]] = []
            for rung in rungs:
                column = table.index(rung)
                options.append([])
                for rule in (
                    AcceptRule(kind=RuleKind.MARGIN),
                    AcceptRule(kind=RuleKind.CONFIDENCE, weights=weights[rung]),
                ):
                    for threshold in np.unique(score(rule, table.features[:, column], table.answers[:, column])):
                        options[-1].append(Step(rung, rule.model_copy(update={"threshold": float(threshold)})))
            for chosen in product(*options):
                steps = [*chosen, Step(reference, ALWAYS)]
                outcome = run(steps, table, reference)
                if not outcome.losses.any():
                    best = min(best, expected_cost(steps, outcome, costs))
    return best


@settings(max_examples=12)
@given(st.integers(0, 1000))
def test_greedy_is_within_the_factor_of_four_of_the_best_of_all_cascades(seed):
    table = realistic(7, rungs=3, seed=seed, labelled=False)
    # No two rungs share a resolution: then costs add up, as the theorem wants it.
    ids = tuple(rung.model_copy(update={"resolution": 96 + 32 * i}) for i, rung in enumerate(table.rungs))
    table = type(table)(ids, table.answers, table.features, None)
    reference, costs = ids[-1], costs_of(ids, seed)
    searcher = Searcher(table, costs, reference, OWN, caution=0.0)
    greedy = searcher.point(searcher.greedy(0.0))
    best = brute_force(table, costs, reference)
    assert best - 1e-9 <= greedy.cost_ms
    assert greedy.cost_ms - costs.decode_ms <= 4 * (best - costs.decode_ms)
    assert greedy.loss == 0


def test_two_cheap_rungs_that_agree_are_found_where_neither_can_be_trusted_alone():
    n = 400
    random = np.random.default_rng(0)
    table = realistic(n, rungs=3, labelled=False)
    answers = np.zeros((n, 3), np.int32)
    answers[:, 0][random.random(n) < 0.1] = 1  # errors that nothing tells, and never the same
    answers[:, 1][random.random(n) < 0.1] = 2
    features = np.full_like(table.features, 0.5)
    table = type(table)(table.rungs, answers, features, None)
    costs = replace(costs_of(table.rungs), own_network_ms={table.rungs[-1]: 50.0})
    steps = search(table, costs, table.rungs[-1], [0.0], caution=0.0).cascades[0].steps
    assert [step.rule.kind for step in steps[1:]] == [RuleKind.AGREEMENT, RuleKind.ALWAYS]
    outcome = run(steps, table, table.rungs[-1])
    assert outcome.loss == 0
    assert outcome.shares(3)[1] > 0.7


def test_a_stage_that_saves_nothing_is_pruned_and_agreements_are_renumbered():
    table = realistic(300, rungs=4)
    searcher = Searcher(table, costs_of(table.rungs), table.rungs[-1], OWN | {RuleKind.AGREEMENT}, caution=0.0)
    idle = AcceptRule(kind=RuleKind.MARGIN, threshold=2.0)
    agree = AcceptRule(kind=RuleKind.AGREEMENT, threshold=0.0, earlier=1)
    first, second, third, _ = table.rungs
    steps = [Step(first, AcceptRule(kind=RuleKind.AGREEMENT, earlier=0)), searcher.last]
    assert searcher.pruned(steps, 1.0, 4)
    pruned = searcher.pruned([Step(third, idle), Step(first, idle), Step(second, agree), searcher.last], 0.02, 3)
    for i, step in enumerate(pruned):
        assert step.rule.earlier is None or step.rule.earlier < i
    assert len(pruned) <= 3


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-3, 9)), min_size=1, max_size=30))
def test_the_frontier_holds_what_nothing_beats(pairs):
    table = realistic(2, rungs=2)
    searcher = Searcher(table, costs_of(table.rungs), table.rungs[-1], OWN, caution=0.0)
    template = searcher.point([searcher.last])
    points = [type(template)(float(cost), float(loss), 0.0, template.steps, 0.0, 0.0) for cost, loss in pairs]
    frontier = frontier_of(points)
    for point in points:
        assert any(best.cost_ms <= point.cost_ms and best.loss <= point.loss for best in frontier)
    for one in frontier:
        assert not any((p.cost_ms < one.cost_ms and p.loss <= one.loss) for p in points)


def test_the_search_is_no_dearer_than_one_plain_threshold_for_the_same_loss():
    table = realistic(4000, rungs=5)
    reference, costs = table.rungs[-1], costs_of(table.rungs)
    found = search(table, costs, reference, np.geomspace(0.0005, 0.1, 15), caution=0.0)
    ratios = []
    for plain in plain_confidence(table, costs, reference, table.rungs[:2], np.linspace(0.3, 1.0, 8)):
        if 0 <= plain.loss <= 0.05:
            ratios.append(min(p.cost_ms for p in found.frontier if p.loss <= plain.loss) / plain.cost_ms)
    assert len(ratios) >= 3
    assert max(ratios) <= 1.02  # the plain one may fall between two allowances
    assert np.mean(ratios) < 1


def test_among_inputs_that_all_lost_nothing_a_smaller_allowance_takes_fewer():
    losses, scores = np.zeros(1000, np.int8), np.linspace(1, 0, 1000)
    expected = np.linspace(0, 0.2, 1000)  # the less sure, the likelier a loss
    taken = [longest_prefix(losses, scores, allowance, expected, 100.0) for allowance in (0.001, 0.005, 0.02)]
    assert 0 < taken[0] < taken[1] < taken[2] == 1000
    assert longest_prefix(losses, scores, 0.001) == 1000


def test_inputs_won_may_make_up_for_those_lost_and_need_not():
    table = realistic(3000, rungs=4)
    reference, costs = table.rungs[-1], costs_of(table.rungs)
    net, gross = Searcher(table, costs, reference, OWN, 100.0).countings()
    for allowance in (0.01, 0.03):
        outcome = run(gross.greedy(allowance), table, reference)
        assert (outcome.losses > 0).mean() <= allowance
        assert net.point(net.greedy(allowance)).cost_ms <= gross.point(gross.greedy(allowance)).cost_ms
    assert len(Searcher(replace(table, labels=None), costs, reference, OWN, 100.0).countings()) == 1


@pytest.mark.parametrize("labelled", [True, False])
def test_a_search_without_a_cheaper_rung_finds_the_reference_alone(labelled):
    table = realistic(200, rungs=3, labelled=labelled)
    for point in search(table, costs_of(table.rungs), table.rungs[0], [0.0]).cascades:
        assert [step.rung for step in point.steps] == [table.rungs[0]]
