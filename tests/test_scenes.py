"""The scenes of benchmarks/detector.py: they follow from the seed, boxes are where the ink is, halves share nothing."""

from __future__ import annotations

import numpy as np
import torch
from patchd.models.detection import iou
from scenes import Digits, compose_pictures, compose_scenes, digits


def a_few(labels: range) -> Digits:
    return digits()[0].only(labels)


def test_the_halves_share_no_image_and_hold_every_digit() -> None:
    train, test = digits()
    assert len(train.labels) + len(test.labels) == 1797
    assert not {image.tobytes() for image in train.images} & {image.tobytes() for image in test.images}
    assert set(train.labels) == set(test.labels) == set(range(10))
    assert set(train.only(range(5)).labels) == set(range(5))


def test_scenes_follow_from_their_seed_and_number() -> None:
    source = a_few(range(5))
    once, more = compose_scenes(source, 4, 64, (12, 32), 3, seed=1), compose_scenes(source, 6, 64, (12, 32), 3, seed=1)
    assert torch.equal(once.pictures, more.pictures[:4])
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(once.truth, more.truth, strict=False))
    assert not torch.equal(once.pictures, compose_scenes(source, 4, 64, (12, 32), 3, seed=2).pictures)


def test_objects_lie_inside_apart_and_are_of_the_asked_for_digits_and_sizes() -> None:
    scenes = compose_scenes(a_few(range(5)), 40, 64, (12, 32), 3, seed=3)
    for truth in scenes.truth:
        assert 1 <= len(truth) <= 3
        assert bool(((truth.boxes >= 0) & (truth.boxes <= 1)).all())
        assert set(truth.classes.tolist()) <= set(range(5))
        assert not iou(truth.boxes, truth.boxes).fill_diagonal_(0).any()
        heights = (truth.boxes[:, 3] - truth.boxes[:, 1]) * 64
        assert bool(((heights > 8) & (heights <= 32)).all())


def test_the_ink_is_in_the_box() -> None:
    blob = np.zeros((1, 8, 8), np.float32)
    blob[0, 2:6, 3:5] = 1.0
    source = Digits(blob, np.array([7]))
    scenes = compose_scenes(source, 20, 64, (32, 32), 1, seed=4)
    for truth in scenes.truth:
        width, height = ((truth.boxes[0, 2:] - truth.boxes[0, :2]) * 64).tolist()
        assert 8 <= width <= 13  # 2 of 8 columns of 32 pixels, and the soft rim
        assert 16 <= height <= 21
    pictures = compose_pictures(source, 64, (24, 56), seed=5)
    assert pictures.shape == (1, 64, 64, 3)
    assert pictures.dtype == torch.uint8
