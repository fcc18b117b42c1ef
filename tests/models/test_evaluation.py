"""Accuracy is counted right and comes with its interval."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from patchd.models.bases import imagenet_labels, load_base
from patchd.models.evaluation import evaluate, top1, wilson
from patchd.policies.errors import BadInputError


def test_the_interval_is_wilsons():
    # 81 of 263: the worked example of Newcombe 1998 (method 3), 0.2553 to 0.3662.
    result = wilson(81, 263)
    assert (round(result.low, 4), round(result.high, 4)) == (0.2553, 0.3662)
    assert result.accuracy == 81 / 263


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_always_holds_the_share(counts):
    correct, n = counts
    result = wilson(correct, n)
    assert 0 <= result.low <= result.accuracy <= result.high <= 1
    assert result.low < result.high
    assert result.samples == n


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (2, 1), (-1, 3)])
def test_impossible_counts_are_refused(correct, n):
    with pytest.raises(ValueError, match="need 0 <= correct"):
        wilson(correct, n)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40), st.integers(1, 50))
def test_top1_counts_matches_whatever_the_batches(pairs, batch_size):
    answers, labels = torch.tensor([a for a, _ in pairs]), [b for _, b in pairs]
    images = torch.nn.functional.one_hot(answers, 5).float()
    expected = sum(a == b for a, b in pairs) / len(pairs)
    assert evaluate(lambda batch: batch, images, labels, batch_size).accuracy == expected
    assert evaluate(lambda batch: batch, iter(images.split(batch_size)), torch.tensor(labels)).accuracy == expected


@pytest.mark.parametrize("labels", [[0], [0, 1, 2]])
def test_counts_of_images_and_labels_must_agree(labels):
    with pytest.raises(ValueError, match="labels"):
        evaluate(lambda batch: batch, torch.eye(2), labels)


def test_top1_runs_over_image_files(photographs, tmp_path):
    base = load_base("lite0")
    palace, daisy = (imagenet_labels().index(name) for name in ("palace", "daisy"))
    right = [(photographs["china"], palace), (photographs["flower"], daisy)]
    assert top1(base, right, 224).accuracy == 1.0
    assert top1(base, [(str(path), 0) for path, _ in right], 224, batch_size=1).accuracy == 0.0
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(BadInputError, match=r"broken\.jpg: The 8 bytes"):
        top1(base, [*right, (broken, 0)], 224)
    with pytest.raises(BadInputError, match=r"absent\.jpg cannot be read: No such file"):
        top1(base, [(tmp_path / "absent.jpg", 0)], 224)
    with pytest.raises(BadInputError, match="no images"):
        top1(base, [], 224)
