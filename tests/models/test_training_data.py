"""Examples in training: their part, their weight, and a rung that begins anew when others may be used."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from networks import SIDE, make
from patchd.models.bases import Base
from patchd.models.evaluation import wilson, wilson_weighted
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.models.training.data import open_training_data
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import DataSetError, TrainingError
from patchd.policies.examples import ExampleFile, ExamplePart
from patchd.policies.task import PatchKind, TaskSpec, TrainSpec
from PIL import Image

TASK = TaskSpec(name="digits", labels=tuple("0123456789"), resolutions=(32,), data="sklearn:digits")
ALONE = TaskSpec(name="pets", labels=("cat", "dog", "emu"), resolutions=(32,))
SPEC = TrainSpec(task="digits", kinds=(PatchKind.HEAD,), resolutions=(32,), epochs=2, batch_size=16, max_samples=48)
PLAN = TrainingPlan(paused=False)


@pytest.fixture(scope="module")
def base() -> Base:
    return Base("small", make("efficientnet_lite"), SIDE)


class Handed:
    """A folder of examples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def example(self, number: int, label: str, part: ExamplePart = "train", task: str = "digits") -> ExampleFile:
        path = self.folder / f"ex-{number}.bin"
        if not path.exists():
            pixels = random.Random(number).randbytes(20 * 20 * 3)
            Image.frombytes("RGB", (20, 20), pixels).save(path, "PNG")
        return ExampleFile(id=f"ex-{number}", task=task, path=str(path), label=label, part=part)


@pytest.fixture
def handed(tmp_path: Path) -> Handed:
    return Handed(tmp_path)


def test_examples_make_up_a_quarter_of_an_epoch_and_count_as_much_in_validation(handed: Handed) -> None:
    examples = [handed.example(number, "3") for number in range(4)]
    examples += [handed.example(10, "5", "validation"), handed.example(11, "5", task="another")]
    data = open_training_data(TASK, SPEC, examples)
    own = open_training_data(TASK, SPEC)
    assert [sample.name for sample in data.train[: len(own.train)]] == [sample.name for sample in own.train]
    added = data.train[len(own.train) :]
    assert len(added) == 16  # 4 examples, 4 times beside 48 images
    assert {sample.name for sample in added} == {f"example ex-{number}" for number in range(4)}
    assert {sample.label for sample in added} == {3}
    assert [(s.name, s.label, s.weight) for s in data.validation[len(own.validation) :]] == [("example ex-10", 5, 4)]
    assert (len(data.test), data.examples, own.key) == (len(own.test), 4, "")


def test_a_single_example_is_not_repeated_without_end(handed: Handed) -> None:
    data = open_training_data(TASK, SPEC, [handed.example(1, "3")])
    assert sum(sample.name == "example ex-1" for sample in data.train) == 8


def test_a_task_without_a_data_set_needs_two_classes_with_both_parts(handed: Handed) -> None:
    pets = TrainSpec(task="pets", kinds=(PatchKind.HEAD,), resolutions=(32,))
    some = [
        handed.example(0, "cat", "train", "pets"),
        handed.example(1, "cat", "validation", "pets"),
        handed.example(2, "dog", "train", "pets"),
    ]
    with pytest.raises(TrainingError, match="no data set, nor two usable examples of each of two classes"):
        open_training_data(ALONE, pets, some)
    data = open_training_data(ALONE, pets, [*some, handed.example(3, "dog", "validation", "pets")])
    assert [len(part) for part in (data.train, data.validation, data.test)] == [2, 2, 0]


def test_a_weighted_score_is_that_of_repeated_images_with_a_wider_interval() -> None:
    weights = torch.tensor([1, 1, 1, 1, 4, 4])
    mixed = wilson_weighted(1 + 1 + 4, weights)
    assert (mixed.accuracy, mixed.samples) == (0.5, 6)
    repeated = wilson(6, 12)
    assert mixed.low < repeated.low < repeated.high < mixed.high
    assert wilson_weighted(3, torch.ones(5, dtype=torch.int64)) == wilson(3, 5)


def pets(handed: Handed, count: int = 6) -> list[ExampleFile]:
    """Of each of two classes `count` to learn from and two to judge by."""
    return [
        handed.example(100 * index + number, label, "train" if number < count else "validation", "pets")
        for index, label in enumerate(("cat", "dog"))
        for number in range(count + 2)
    ]


def trainer(base: Base, root: Path, examples: list[ExampleFile]) -> Trainer:
    """A trainer of a task that has its examples and nothing else."""
    for name in ("checkpoints", "patches"):
        (root / name).mkdir(parents=True, exist_ok=True)
    spec = TrainSpec(task="pets", kinds=(PatchKind.HEAD,), resolutions=(32,), epochs=3, batch_size=4)
    return Trainer(base, ALONE, spec, "job-1", root / "checkpoints", root / "patches", examples)


def steps(made: Trainer, count: int | None = None) -> None:
    """So many steps, or all of the job's."""
    list(made.run_slice(PLAN, 1e6, lambda: count is not None and made.progress().step >= count, lambda _: None))


def same_patch(base: Base, one: Path, other: Path) -> bool:
    patches = [load_patch(next(iter((root / "patches").iterdir())), base) for root in (one, other)]
    return all(torch.equal(tensor, patches[1].tensors[name]) for name, tensor in patches[0].tensors.items())


def test_a_job_goes_on_exactly_with_the_same_examples_and_begins_its_rung_anew_with_others(
    base: Base, handed: Handed, tmp_path: Path
) -> None:
    all_of_them = pets(handed)
    steps(whole := trainer(base, tmp_path / "whole", all_of_them))
    steps(trainer(base, tmp_path / "parts", all_of_them), 3)
    again = trainer(base, tmp_path / "parts", all_of_them)
    assert (again.progress().step, again.take_notes()) == (3, ())
    steps(again)
    assert same_patch(base, tmp_path / "whole", tmp_path / "parts")
    record = whole.finished[0].metadata.training
    assert record is not None
    assert (record.examples, record.train_samples, record.test) == (12, 12, None)

    steps(trainer(base, tmp_path / "other", all_of_them), 3)
    fewer = trainer(base, tmp_path / "other", all_of_them[1:])
    assert fewer.progress().step == 0
    assert "begins anew" in fewer.take_notes()[0]
    steps(fewer)
    steps(trainer(base, tmp_path / "fresh", all_of_them[1:]))
    assert same_patch(base, tmp_path / "other", tmp_path / "fresh")


def test_an_example_whose_file_is_gone_or_broken_is_named_by_its_id(base: Base, handed: Handed, tmp_path: Path) -> None:
    gone, broken, *_ = examples = pets(handed)
    Path(gone.path).unlink()
    Path(broken.path).write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(DataSetError, match=rf"2 images are broken: example {gone.id}: .*{broken.id}"):
        steps(trainer(base, tmp_path / "job", examples))


def test_the_patch_in_force_is_scored_on_the_images_that_its_successor_is_judged_by(
    base: Base, handed: Handed, tmp_path: Path
) -> None:
    steps(first := trainer(base, tmp_path / "first", pets(handed)))
    result = first.finished[0].result
    strangers = [handed.example(number, "emu", "validation", "pets") for number in range(300, 320)]
    harder = trainer(base, tmp_path / "harder", [*pets(handed), *strangers])
    harder.in_force = {32: tmp_path / "first" / "patches" / f"{result.patch_id}.safetensors"}
    steps(harder)
    rival = harder.finished[0].result.rival
    assert rival is not None
    assert rival.samples == result.validation.samples + 20
    assert rival.accuracy < result.validation.accuracy
