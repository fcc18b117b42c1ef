"""Measuring a table: every rung on every image, and each image decoded once."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from networks import make
from patchd.models.bases import Base
from patchd.models.cascades import read_logits
from patchd.models.cascades.measure import BATCH, Runnable, dispatch_ms, measure
from patchd.models.datasets import Sample
from patchd.models.engine import TorchEngine
from patchd.models.preprocessing import to_input
from patchd.policies.cascade import Basis, RungId
from patchd.policies.errors import BadInputError, DataSetError
from patchd.policies.task import Preprocessing
from PIL import Image

IMAGES = 2 * BATCH + 3
WHOLE = Preprocessing(crop_fraction=1.0)
CROPPED = Preprocessing(crop_fraction=0.5)


@pytest.fixture(scope="module")
def rungs() -> list[Runnable]:
    """Two bases, one of them at two sides, one rung with a preprocessing of its own."""
    one, other = (TorchEngine(Base(name, make(name), 32)) for name in ("efficientnet_lite", "batch_renorm"))
    return [
        Runnable(RungId(base="one", resolution=48), one, None, WHOLE),
        Runnable(RungId(base="one", resolution=32), one, None, CROPPED),
        Runnable(RungId(base="other", resolution=32), other, None, WHOLE),
    ]


class Images:
    """Samples that count how often each is decoded, and for which side."""

    def __init__(self, count: int = IMAGES) -> None:
        random = np.random.default_rng(0)
        self.images = [Image.fromarray(random.integers(0, 256, (70, 80, 3), np.uint8)) for _ in range(count)]
        self.decoded: Counter[tuple[int, int]] = Counter()

    def samples(self) -> list[Sample]:
        return [Sample(f"{i}.png", partial(self.load, i), i % 3) for i in range(len(self.images))]

    def load(self, i: int, side: int) -> Image.Image:
        self.decoded[i, side] += 1
        return self.images[i]


@pytest.mark.parametrize("labelled", [True, False])
def test_every_rung_says_of_every_image_what_it_says_alone(rungs, labelled):
    images = Images()
    measured = measure(images.samples(), rungs, labelled, lambda done: None)
    table = measured.table
    assert table.rungs == tuple(each.rung for each in rungs)
    assert table.basis is (Basis.LABELS if labelled else Basis.AGREEMENT)
    if labelled:
        assert table.labels.tolist() == [i % 3 for i in range(IMAGES)]
    for column, each in enumerate(rungs):
        inputs = torch.stack([to_input(image, each.rung.resolution, each.preprocessing) for image in images.images])
        answers, features = read_logits(each.engine.run(inputs).logits)
        assert table.answers[:, column].tolist() == answers.tolist()
        assert table.features[:, column] == pytest.approx(features, abs=1e-4)


def test_each_image_is_decoded_once_for_the_rung_that_needs_most_of_it(rungs):
    images = Images()
    measured = measure(images.samples(), rungs, False, lambda done: None)
    assert images.decoded == {(i, 64): 1 for i in range(IMAGES)}  # 32 px of the middle half
    assert measured.decode_ms is not None
    assert 0 <= measured.decode_ms < 100


def test_it_is_told_after_each_batch_how_many_are_done(rungs):
    told: list[int] = []
    measure(Images().samples(), rungs[2:], False, told.append)
    assert told == [BATCH, 2 * BATCH, IMAGES]


@pytest.mark.parametrize("error", [BadInputError("It is no image."), FileNotFoundError(2, "No such file")])
def test_an_image_that_cannot_be_used_is_named(rungs, error):
    def fails(side: int) -> Image.Image:
        raise error

    samples = [*Images(BATCH).samples(), Sample("holiday/7.jpg", fails, 0)]
    told: list[int] = []
    with pytest.raises(DataSetError, match=r"^The image holiday/7\.jpg cannot be used: "):
        measure(samples, rungs[2:], True, told.append)
    assert told == [BATCH]


def test_only_images_that_pass_the_cascade_are_measured_and_none_is_an_error(rungs):
    images = Images()
    images.images[1] = images.images[1].resize((40, 30))
    told: list[int] = []
    measured = measure(images.samples(), rungs, True, told.append, lambda image: min(image.size) > 32)
    everything = measure(images.samples(), rungs, True, lambda done: None)
    others = [i for i in range(IMAGES) if i != 1]
    assert told[-1] == IMAGES
    assert measured.table.labels.tolist() == [i % 3 for i in others]
    assert measured.table.answers.tolist() == everything.table.answers[others].tolist()
    with pytest.raises(BadInputError, match=f"Each of the {IMAGES} images has the form of a smaller rung"):
        measure(images.samples(), rungs[2:], True, lambda done: None, lambda image: False)


def test_nothing_is_measured_on_nothing(rungs):
    with pytest.raises(BadInputError, match="no images to calibrate on"):
        measure([], rungs, False, lambda done: None)


def test_a_stage_s_dispatch_takes_a_moment():
    assert 0 < dispatch_ms(1000) < 50
