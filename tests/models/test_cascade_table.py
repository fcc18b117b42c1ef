"""Tables of answers: kept whole, refused when damaged, split for good; features and costs that go with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cascade_tables import costs_of, realistic, rung_ids, tables
from hypothesis import given
from hypothesis import strategies as st
from patchd.models.cascades import (
    FEATURES,
    CascadeCosts,
    ScoreTable,
    accepts,
    fit_confidence,
    load_table,
    read_logits,
    save_table,
    score,
)
from patchd.policies.cascade import AcceptRule, Basis, RuleKind, RungId
from patchd.policies.errors import BadInputError, NotFoundError, StateError

RULES = (
    AcceptRule(kind=RuleKind.CONFIDENCE, threshold=0.7, weights=(-1.0, 2.0, 0.3, -0.7, 0.2)),
    AcceptRule(kind=RuleKind.MARGIN, threshold=0.4),
    AcceptRule(kind=RuleKind.AGREEMENT, threshold=0.2, earlier=0),
    AcceptRule(kind=RuleKind.ALWAYS),
)


def equal(one: ScoreTable, other: ScoreTable) -> bool:
    pairs = ((one.answers, other.answers), (one.features, other.features))
    if one.labels is None or other.labels is None:
        same_labels = one.labels is other.labels
    else:
        same_labels = np.array_equal(one.labels, other.labels)
    return one.rungs == other.rungs and same_labels and all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_table_comes_back_from_its_file(tmp_path, labelled):
    table = realistic(50, labelled=labelled)
    save_table(table, tmp_path / "t.safetensors")
    assert equal(load_table(tmp_path / "t.safetensors"), table)


@given(st.data())
def test_a_damaged_file_is_refused_in_a_sentence_and_never_half_read(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("table") / "t.safetensors"
    save_table(realistic(8), path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:cut])
    with pytest.raises(StateError, match="calibrate again"):
        load_table(path)


def test_another_programs_file_and_a_missing_one_are_refused(tmp_path):
    from safetensors.numpy import save_file

    save_file({"answers": np.zeros((1, 1), np.int32)}, tmp_path / "other.safetensors")
    with pytest.raises(StateError, match="cannot be used"):
        load_table(tmp_path / "other.safetensors")
    with pytest.raises(NotFoundError, match="no calibration table"):
        load_table(tmp_path / "none.safetensors")


def test_rows_are_appended_and_tables_that_do_not_belong_together_refused():
    one, two = realistic(10, seed=1), realistic(20, seed=2)
    both = one.append(two)
    assert equal(both.rows(np.arange(10)), one)
    assert equal(both.rows(np.arange(10, 30)), two)
    with pytest.raises(BadInputError, match="do not belong together"):
        one.append(realistic(10, labelled=False))
    with pytest.raises(BadInputError, match="do not belong together"):
        one.append(realistic(10, rungs=3))


@given(st.data(), st.integers(1, 700), st.integers(0, 9))
def test_the_parts_of_a_split_are_disjoint_and_together_the_table(data, n, seed):
    certify = data.draw(st.integers(0, n))
    numbers = np.arange(n, dtype=np.int32)
    table = ScoreTable(rung_ids(1), numbers[:, None], np.zeros((n, 1, len(FEATURES)), np.float32))
    searched, certifying = table.split(certify, seed)
    assert sorted([*searched.answers[:, 0], *certifying.answers[:, 0]]) == list(range(n))
    assert len(certifying) == certify
    again = table.split(certify, seed)
    assert equal(again[0], searched)
    assert equal(again[1], certifying)


@given(tables())
def test_a_loss_is_what_the_basis_says(table):
    losses, reference = table.losses(table.rungs[-1]), table.answers[:, -1]
    if table.basis is Basis.AGREEMENT:
        assert np.array_equal(losses, table.answers != reference[:, None])
    else:
        right = table.answers == table.labels[:, None]
        assert np.array_equal(losses, right[:, [-1]].astype(int) - right)
    assert not losses[:, -1].any()


def test_an_unknown_rung_is_named():
    with pytest.raises(BadInputError, match="no column of lite9 at 64 px"):
        realistic(5).index(RungId(base="lite9", resolution=64))


@given(st.integers(1, 40), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_features_are_what_they_are_called(n, classes, seed):
    logits = 6 * np.random.default_rng(seed).standard_normal((n, classes)).astype(np.float32)
    answers, features = read_logits(torch.from_numpy(logits))
    p = torch.softmax(torch.from_numpy(logits).double(), 1).numpy()
    ordered = np.sort(p, 1)
    second = ordered[:, -2] if classes > 1 else 0.0
    entropy = -(p * np.log(p)).sum(1) / np.log(classes) if classes > 1 else np.zeros(n)
    gap = np.sort(logits, 1)[:, -1] - np.sort(logits, 1)[:, -2] if classes > 1 else np.zeros(n)
    assert np.array_equal(answers, logits.argmax(1))
    assert np.allclose(features, np.stack((ordered[:, -1], ordered[:, -1] - second, entropy, gap), 1), atol=1e-5)


def test_logits_that_are_not_finite_are_taken_by_the_last_stage_only():
    logits = np.array([[np.nan, 1.0, 2.0], [np.inf, 1.0, 2.0], [3.0, -np.inf, -np.inf]])
    answers, features = read_logits(logits)
    for rule in RULES[:2]:
        assert not accepts(rule, features[:2], answers[:2]).any()
    assert accepts(RULES[3], features, answers).all()
    assert features[2].tolist() == [1.0, 1.0, 0.0, 100.0]


@given(tables(), st.sampled_from(RULES), st.randoms())
def test_one_row_scores_the_same_alone_as_among_others(table, rule, random):
    answers, features, earlier = table.answers[:, 1], table.features[:, 1], table.answers[:, 0]
    together = score(rule, features, answers, earlier)
    taken = accepts(rule, features, answers, earlier)
    i = random.randrange(len(table))
    part = slice(i, i + 1)
    assert score(rule, features[part], answers[part], earlier[part])[0] == together[i]
    assert accepts(rule, features[part], answers[part], earlier[part])[0] == taken[i]


@given(st.integers(2, 40), st.integers(2, 300), st.integers(0, 2**32 - 1))
def test_one_row_of_logits_reads_the_same_alone_as_among_others(n, classes, seed):
    logits = np.random.default_rng(seed).standard_normal((n, classes)).astype(np.float32)
    _, together = read_logits(logits)
    _, alone = read_logits(logits[n - 1 :])
    assert np.allclose(alone[0], together[-1], rtol=1e-6, atol=1e-6)


def test_the_learned_confidence_is_calibrated():
    table = realistic(6000, rungs=1, seed=3)
    right = table.answers[:, 0] == table.labels
    weights = fit_confidence(table.features[:3000, 0], right[:3000])
    rule = AcceptRule(kind=RuleKind.CONFIDENCE, weights=weights)
    said = score(rule, table.features[3000:, 0], table.answers[3000:, 0])
    for low, high in ((0.0, 0.6), (0.6, 0.9), (0.9, 1.01)):
        among = (said >= low) & (said < high)
        assert abs(said[among].mean() - right[3000:][among].mean()) < 4 * 0.5 / np.sqrt(among.sum())


def test_a_fit_passes_over_features_that_are_not_finite():
    table = realistic(200, rungs=1)
    features, right = table.features[:, 0].copy(), table.answers[:, 0] == table.labels
    weights = fit_confidence(features[:150], right[:150])
    features[150:] = np.nan
    assert fit_confidence(features, right) == weights
    assert fit_confidence(features[150:], right[150:]) == (0.0,) * (len(FEATURES) + 1)


@pytest.mark.parametrize("right", [np.ones(40, bool), np.zeros(40, bool), np.arange(40) >= 20])
def test_a_fit_stays_finite_where_right_and_wrong_are_apart(right):
    features = np.repeat(np.arange(40, dtype=np.float32)[:, None], len(FEATURES), 1)
    assert np.isfinite(fit_confidence(features, right)).all()


def test_what_stages_share_is_paid_once():
    costs = CascadeCosts(3.0, {96: 0.5, 128: 1.0}, {("a", 96): 2.0, ("b", 96): 4.0, ("b", 128): 8.0}, 0.25)
    a, b, c = (RungId(base=base, resolution=side) for base, side in (("a", 96), ("b", 96), ("b", 128)))
    assert costs.stage_costs((a, b, c)) == (3.0 + 0.5 + 2.0 + 0.25, 4.0 + 0.25, 1.0 + 8.0 + 0.25)
    assert sum(costs.stage_costs((c, a, b))) == sum(costs.stage_costs((a, b, c)))
    with pytest.raises(BadInputError, match="a at 128 px has not been measured"):
        costs.marginal((), RungId(base="a", resolution=128))


def test_a_rung_with_a_graph_of_its_own_has_a_cost_of_its_own():
    rungs = rung_ids(1)
    patched = rungs[0].model_copy(update={"patch_id": "f" * 64})
    shared = costs_of(rungs)
    own = CascadeCosts(shared.decode_ms, shared.prepare_ms, shared.network_ms, shared.dispatch_ms, {patched: 50.0})
    assert own.marginal((), patched) > own.marginal((), rungs[0]) == shared.marginal((), patched)


@given(tables(), st.data())
def test_a_table_without_some_rungs_says_the_same_of_the_others(table, data):
    kept = data.draw(st.lists(st.sampled_from(table.rungs), unique=True, min_size=1))
    only = table.only(kept)
    assert only.rungs == tuple(rung for rung in table.rungs if rung in kept)
    for rung in only.rungs:
        assert np.array_equal(only.answers[:, only.index(rung)], table.answers[:, table.index(rung)])
        assert np.array_equal(only.features[:, only.index(rung)], table.features[:, table.index(rung)])
    for rung in set(table.rungs) - set(kept):
        with pytest.raises(BadInputError, match="has no column of"):
            only.index(rung)
