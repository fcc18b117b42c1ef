"""What goes wrong in training is caught, told plainly, and never published."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from patchd.models.bases import Base, fingerprint
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.models.training.course import DIVERGED, RETRY_RATE, WINDOW, Course
from patchd.models.training.objective import MicroBatch
from patchd.models.training.rung import RungTraining
from patchd.policies.errors import DataSetError, TrainingError
from patchd.policies.task import Evaluation, PatchKind, TaskSpec
from small_jobs import LABELS, PLAN, SPEC, Job, colours, same, small_base
from torch import Tensor


@pytest.fixture(scope="module")
def base() -> Base:
    return small_base()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskSpec:
    return colours(tmp_path_factory.mktemp("colours"))


class Spoiled:
    """An objective that is spoiled at given calls, counted from one."""

    def __init__(self, *calls: int, by: float = math.nan) -> None:
        self.calls, self.by, self.count = calls, by, 0

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        self.count += 1
        losses = torch.nn.functional.cross_entropy(logits, batch.classes, reduction="none")
        return losses * self.by if self.count in self.calls else losses


def spoil(monkeypatch: pytest.MonkeyPatch, objective: Spoiled) -> None:
    begin = RungTraining.__init__

    def with_objective(self: RungTraining, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        self._objective = objective

    monkeypatch.setattr(RungTraining, "__init__", with_objective)


@pytest.mark.parametrize("by", [math.nan, math.inf])
def test_a_loss_that_is_no_number_takes_the_rung_back_once_to_its_last_good_epoch(
    base: Base, task: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    spoil(monkeypatch, Spoiled(5, by=by))  # epochs of three steps: the second of the second epoch
    job = Job(base, task, tmp_path / "job")
    finished = job.run()
    assert len(job.notes) == 1
    assert "at step 5 of the 32 px rung; training goes back to the weights of epoch 1" in job.notes[0]
    record = finished.metadata.training
    assert record is not None
    assert record.steps == 9
    assert record.learning_rate == pytest.approx(RETRY_RATE * 5e-3)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in job.tensors(finished).values())


def test_going_back_gives_the_very_bits_whether_interrupted_or_not(
    base: Base, task: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = Job(base, task, tmp_path / "whole"), Job(base, task, tmp_path / "parts")
    with monkeypatch.context() as patched:
        spoil(patched, Spoiled(5))
        expected = whole.tensors(whole.run())
    with monkeypatch.context() as patched:
        spoil(patched, Spoiled(5))
        trainer = parts.trainer()
        parts.slice(trainer, PLAN, lambda: trainer._position.course.went_back > 0 and trainer.progress().step == 4)
        assert same(expected, parts.tensors(parts.run_in_pieces(PLAN, every=40)))


def test_the_second_time_the_job_fails_and_says_so(
    base: Base, task: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, Spoiled(2, 4))
    job = Job(base, task, tmp_path / "job")
    with pytest.raises(TrainingError, match=r"nan at step 2 .* again after going back .* with 0\.1 of the learning"):
        job.run()
    assert "goes back to the rung's beginning" in job.notes[0]
    assert not list(job.patches.iterdir())
    assert fingerprint(base.network) == base.hash


def test_gradients_that_are_no_numbers_move_nothing(
    base: Base, task: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job(base, task, tmp_path / "job")
    accumulate = RungTraining.accumulate

    def infinite(rung: RungTraining, epoch: int, chosen: Tensor) -> float:
        loss = accumulate(rung, epoch, chosen)
        rung._parameters["classifier.bias"].grad[0] = math.inf
        return loss

    monkeypatch.setattr(RungTraining, "accumulate", infinite)
    with pytest.raises(TrainingError, match="The gradients became inf at step 1"):
        job.run()
    assert not list(job.patches.iterdir())


def test_losses_that_run_away_are_caught_before_they_are_infinite(
    base: Base, task: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = WINDOW + 1
    spoil(monkeypatch, Spoiled(*range(first, first + WINDOW), by=1e6))  # however well it has learned by then
    job = Job(base, task, tmp_path / "job", SPEC.model_copy(update={"epochs": 12}))
    finished = job.run()
    assert f"grew beyond bounds by step {first + WINDOW - 1} of the 32 px rung; training goes back" in job.notes[0]
    assert len(job.notes) == 1
    assert finished.metadata.training is not None
    assert finished.metadata.training.epochs == 12


def course(*losses: float) -> Course:
    made = Course()
    for loss in losses:
        made = made.after_step(loss)
    return made


def test_divergence_is_a_full_window_beyond_the_best_one_and_worse_than_guessing() -> None:
    good = [1.0] * WINDOW
    assert not course(*good, *[9.0] * (WINDOW - 1)).diverges(10)
    assert course(*good, *[9.0] * WINDOW).diverges(10)
    assert not course(*good, *[DIVERGED - 0.1] * WINDOW).diverges(2)
    # What is learned by heart may stumble: ten times the best mean, and still better than guessing.
    assert not course(*[0.01] * WINDOW, *[0.1] * WINDOW).diverges(10)
    assert not course(*[50.0] * 100).diverges(2)  # never good: slow, not astray
    assert not course(9.0).diverges(10)


def test_the_first_of_the_best_epochs_counts_and_patience_ends_after_it() -> None:
    made = Course()
    for accuracy in (0.5, 0.7, 0.7, 0.6):
        score = Evaluation(accuracy=accuracy, samples=10, low=0, high=1)
        made = made.after_step(1.0).after_epoch(score, 1)
    assert made.best is not None
    assert made.best.epoch == 2
    assert made.ends(10, 2)
    assert not made.ends(10, 3)
    assert not made.ends(10, None)
    assert made.ends(4, None)
    assert Course.model_validate_json(made.model_dump_json()) == made


# the data


def test_all_that_is_wrong_with_the_data_is_told_together_before_the_first_step(base: Base, tmp_path: Path) -> None:
    task = colours(tmp_path / "data", train=9)
    root = tmp_path / "data"
    for index in range(7):
        broken = root / "train" / "green" / f"{index}.png"
        broken.write_bytes(broken.read_bytes()[:60])
    for path in (root / "train" / "red").iterdir():
        if path.stem != "0":
            path.unlink()
    (root / "test" / "purple").mkdir()
    job = Job(base, task, tmp_path / "job")
    with pytest.raises(DataSetError) as caught:
        job.run()
    text = str(caught.value)
    assert "class 'purple' stands in test but not in train" in text
    assert "class 'red' has 1 image, kept for validation, and none to learn from" in text
    assert "7 images are broken" in text
    assert text.count(".png: ") == 5
    assert "and 2 more" in text
    assert {report.phase for report in job.reports} == {"checking images"}
    assert not list(job.checkpoints.iterdir())


def test_one_class_or_an_empty_one_and_changed_classes_are_named(base: Base, tmp_path: Path) -> None:
    task = colours(tmp_path / "data")
    for label in LABELS[1:]:
        (tmp_path / "data" / "train" / label).rename(tmp_path / label)
    with pytest.raises(DataSetError, match="no longer those of task 'colours'; it has 1 class, and a classifier needs"):
        Job(base, task, tmp_path / "one").run()
    for label in LABELS[1:]:
        (tmp_path / "data" / "train" / label).mkdir()
    with pytest.raises(DataSetError, match="class 'green' has no image in train; class 'red' has no image in train"):
        Job(base, task, tmp_path / "empty").run()


# the base, and what is in force


@pytest.mark.parametrize("name", ["efficientnet_lite", "batch_renorm", "group_norm_resnet", "vision_transformer"])
def test_the_base_has_the_same_bits_and_modes_after_any_job(name: str, task: TaskSpec, tmp_path: Path) -> None:
    base = small_base(name)
    spec = SPEC.model_copy(update={"epochs": 1})
    for index, plan in enumerate((PLAN, PLAN.model_copy(update={"fraction": 1.0}))):
        job = Job(base, task, tmp_path / str(index), spec)
        job.run(plan)
        assert fingerprint(base.network) == base.hash
        assert not any(module.training for module in base.network.modules())
        assert not any(parameter.requires_grad for parameter in base.network.parameters())


def test_a_finished_rung_is_compared_on_its_own_validation_images(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    first = Job(base, task, tmp_path / "first", SPEC.model_copy(update={"epochs": 1}))
    made = first.run()
    file = first.patches / f"{made.result.patch_id}.safetensors"

    def against(other: TaskSpec, name: str, path: Path | None) -> Trainer:
        job = Job(base, other, tmp_path / name, SPEC.model_copy(update={"epochs": 2, "kinds": (PatchKind.HEAD,)}))
        trainer = job.trainer()
        trainer.in_force = {SPEC.resolutions[0]: path}
        while not trainer.done:  # ended now and then, at last while the old one is scored
            looks = iter((False,) * (1 if trainer.progress().step == trainer.progress().steps else 40))
            job.slice(trainer, PLAN, partial(next, looks, True))
        return trainer

    result = against(task, "same", file).finished[0].result
    assert (result.rival_id, result.rival) == (made.result.patch_id, made.result.validation)
    others = colours(tmp_path / "others", train=30)
    result = against(others, "others", file).finished[0].result
    assert result.rival_id == made.result.patch_id
    assert result.rival is not None
    assert result.rival.samples == result.validation.samples != made.result.validation.samples
    result = against(task, "gone", tmp_path / "nowhere.safetensors").finished[0].result
    assert (result.rival_id, result.rival) == (None, None)
    result = against(task.model_copy(update={"name": "colours"}), "bare", None).finished[0].result
    assert result.rival_id is None
    assert result.rival is not None
    assert load_patch(file, base).metadata.training is not None
    assert fingerprint(base.network) == base.hash
