"""Augmented images depend on what names them alone, stay what they were, and are seen by training only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.daemon.cli.task import CHANGES
from patchd.models.training.augmentation import Augment, Draw, augmentation_of, uniform
from patchd.models.training.inputs import Part, PartInputs
from patchd.policies.task import Change, Preprocessing, TaskSpec, Teacher, TrainSpec

SIDE = 32
EVERY = tuple(Change)


def pictures(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def applied(changes: tuple[Change, ...], images: torch.Tensor, chosen: torch.Tensor, epoch: int = 0) -> torch.Tensor:
    return Augment(changes).apply(images, seed=1, resolution=SIDE, epoch=epoch, chosen=chosen)


def test_the_command_line_offers_every_change() -> None:
    assert tuple(Change) == CHANGES


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(EVERY), unique=True, min_size=1), st.permutations(range(6)), st.integers(1, 6))
def test_an_image_is_changed_alike_in_whatever_batch_it_is(changes, order, size) -> None:
    images, before = pictures(6), pictures(6)
    whole = applied(tuple(changes), images, torch.arange(6), epoch=3)
    for part in torch.split(torch.tensor(order), size):
        assert torch.equal(applied(tuple(changes), images[part], part, epoch=3), whole[part])
    assert torch.equal(images, before)
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape


@pytest.mark.parametrize("change", EVERY)
def test_another_epoch_and_another_seed_give_other_images(change: Change) -> None:
    images, chosen = pictures(8), torch.arange(8)
    first = applied((change,), images, chosen)
    assert not torch.equal(first, applied((change,), images, chosen, epoch=1))
    assert not torch.equal(first, Augment((change,)).apply(images, seed=2, resolution=SIDE, epoch=0, chosen=chosen))
    assert torch.equal(first, applied((change,), images, chosen))


def test_a_flip_turns_about_half_of_the_images_and_nothing_else() -> None:
    images, chosen = pictures(200), torch.arange(200)
    changed = applied((Change.FLIP,), images, chosen)
    turned = (changed == images.flip(2)).all((1, 2, 3))
    assert 70 < int(turned.sum()) < 130
    assert torch.equal(changed[~turned], images[~turned])


def test_crops_and_shifts_stay_within_the_image_and_keep_its_middle() -> None:
    ramp = torch.arange(SIDE, dtype=torch.uint8).mul(8)[None, None, :, None].expand(50, SIDE, SIDE, 3).contiguous()
    chosen = torch.arange(50)
    for change in (Change.CROP, Change.SHIFT):
        rows = applied((change,), ramp, chosen)[:, SIDE // 2, :, 0].int()
        middle = rows[:, SIDE // 2] - ramp[0, 0, SIDE // 2, 0].int()
        assert int(middle.abs().max()) <= SIDE * 8 // 8 + 8  # an eighth of the side
        assert int(middle.abs().max()) > 0
        assert int(rows.min()) >= 0
        assert int(rows.max()) <= 31 * 8


def test_colours_of_a_grey_image_stay_grey() -> None:
    grey = torch.full((20, SIDE, SIDE, 3), 100, dtype=torch.uint8)
    changed = applied((Change.COLOUR,), grey, torch.arange(20)).int()
    assert torch.equal(changed[..., 0], changed[..., 2])
    assert 75 <= int(changed.min()) < 100 < int(changed.max()) <= 125


def test_what_is_drawn_is_even() -> None:
    drawn = uniform(torch.arange(20_000), Draw, 5, 32, 0)
    for numbers in drawn.values():
        assert float(numbers.min()) >= 0
        assert float(numbers.max()) < 1
        shares = torch.histc(numbers, 10, 0, 1) / len(numbers)
        assert float((shares - 0.1).abs().max()) < 0.01
    both = torch.stack(list(drawn.values()))
    assert float((torch.corrcoef(both) - torch.eye(len(both))).abs().max()) < 0.03


def test_training_sees_changed_images_and_evaluation_never_does() -> None:
    images = pictures(4)
    part = PartInputs(Part(images, torch.arange(4)), Preprocessing(), torch.channels_last, Augment(EVERY), seed=3)
    assert not torch.equal(part.of_step(0, torch.arange(4)), part.inputs(0, 4))
    assert torch.equal(part.inputs(0, 4), PartInputs(part.part, Preprocessing(), torch.channels_last).inputs(0, 4))


def test_a_task_says_how_it_is_augmented_and_what_a_teacher_has_seen_stays() -> None:
    task = TaskSpec(name="t", labels=("a", "b"), resolutions=(SIDE,), augmentation=(Change.FLIP,))
    assert augmentation_of(task, TrainSpec(task="t")) == Augment((Change.FLIP,))
    assert augmentation_of(task, TrainSpec(task="t", teacher=Teacher.ENSEMBLE)) is None
    assert augmentation_of(task.model_copy(update={"augmentation": ()}), TrainSpec(task="t")) is None
