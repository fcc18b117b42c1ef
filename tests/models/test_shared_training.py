"""Several tasks on one base: nobody dominates, resuming is exact, and a version with private patches comes of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SIDE, make
from patchd.models.base_versions import find_version
from patchd.models.bases import Base, as_version, fingerprint
from patchd.models.datasets import open_data
from patchd.models.engine import TorchEngine
from patchd.models.evaluation import wilson
from patchd.models.patches import load_patch
from patchd.models.training import SharedTrainer, Trainer
from patchd.models.training.checkpoint import MadeVersion
from patchd.models.training.features import FeatureStore
from patchd.models.training.inputs import PartInputs
from patchd.models.training.objective import Labels, MicroBatch
from patchd.models.training.parts import TRAIN, RungParts
from patchd.models.training.shared import MemberParts, SharedParameters, SharedRung
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import DataSetError, PatchMismatchError, TrainingError
from patchd.policies.task import PatchKind, Preprocessing, TaskSpec, TrainSpec
from PIL import Image
from torch import Tensor

PRE = Preprocessing(crop_fraction=1.0)
PLAN = TrainingPlan(paused=False, fraction=0.9)
SPEC = TrainSpec(task="hues", together=("stripes",), resolutions=(SIDE,), epochs=2, batch_size=8)
HUES = {"blue": (40, 60, 200), "green": (40, 190, 70), "red": (200, 50, 40)}


def save(pixels: np.ndarray, folder: Path, number: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[TaskSpec, TaskSpec]:
    """A task of three colours with many images, and one of two directions with few."""
    hues, stripes = tmp_path_factory.mktemp("hues"), tmp_path_factory.mktemp("stripes")
    noise = np.random.default_rng(0)
    for number in range(12):
        for name, colour in HUES.items():
            image = np.tile(np.array(colour), (SIDE, SIDE, 1)) + noise.normal(0, 30, (SIDE, SIDE, 3))
            save(image, hues / ("train" if number < 9 else "test") / name, number)
    for number in range(8):
        for name, axis in (("across", 0), ("down", 1)):
            wave = 127 + 100 * np.sin(np.arange(SIDE) * 1.2 + noise.uniform(0, 6))
            image = np.repeat(np.expand_dims(wave, 1 - axis), SIDE, 1 - axis)[..., None] + noise.normal(
                0, 20, (SIDE, SIDE, 3)
            )
            save(image, stripes / ("train" if number < 6 else "test") / name, number)
    return (
        TaskSpec(name="hues", labels=tuple(HUES), resolutions=(64, SIDE), data=str(hues), preprocessing=PRE),
        TaskSpec(name="stripes", labels=("across", "down"), resolutions=(SIDE,), data=str(stripes), preprocessing=PRE),
    )


class Bench:
    """Directories of one job, and trainers over them."""

    def __init__(self, base: Base, tasks: tuple[TaskSpec, ...], root: Path) -> None:
        self.base, self.tasks = base, tasks
        self.checkpoints, self.patches, self.versions = root / "checkpoints", root / "patches", root / "bases"
        for directory in (self.checkpoints, self.patches, self.versions):
            directory.mkdir(parents=True)

    def trainer(self, spec: TrainSpec = SPEC) -> SharedTrainer:
        directories = self.checkpoints, self.patches, self.versions
        return SharedTrainer(self.base, self.tasks, spec, "job-1", directories)

    def train(self, spec: TrainSpec = SPEC, plan: TrainingPlan = PLAN, every: int | None = None) -> MadeVersion:
        """Train to the end; with `every`, yield after that many steps and go on in a new trainer."""
        for _ in range(200):
            trainer = self.trainer(spec)
            list(trainer.run_slice(plan, 1e6, after_steps(trainer, every), lambda _: None))
            if trainer.made is not None:
                return trainer.made
        raise AssertionError("the job did not end")

    def tensors(self, made: MadeVersion) -> list[dict[str, Tensor]]:
        files = [self.patches / f"{member.result.patch_id}.safetensors" for member in made.members]
        return [
            dict(find_version(made.name, self.versions).tensors),
            *(dict(load_patch(file).tensors) for file in files),
        ]


def after_steps(trainer: SharedTrainer, steps: int | None) -> Callable[[], bool]:
    start = trainer.progress().step

    def stop() -> bool:
        at = trainer.progress()
        return steps is not None and at.step - start >= steps and at.step < at.steps

    return stop


@pytest.fixture(scope="module")
def base() -> Base:
    return Base("small", make("efficientnet_lite"), SIDE)


@pytest.fixture(scope="module")
def bench(base: Base, tasks: tuple[TaskSpec, ...], tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(base, tasks, tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def made(bench: Bench) -> MadeVersion:
    return bench.train()


class Scaled(Labels):
    """A loss `factor` times as large."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        return super().losses(logits, batch) * self.factor


def inputs_of(task: TaskSpec, base: Base) -> PartInputs:
    parts = RungParts({TRAIN: open_data(task.data or "").train}, SIDE, PRE, base.memory_format)
    part = parts.load(TRAIN, lambda: False)
    assert part is not None
    return part


def after_one_step(base: Base, tasks: tuple[TaskSpec, ...], folder: Path, factor: float) -> SharedRung:
    made = [
        MemberParts(task, inputs_of(task, base), FeatureStore(folder), Scaled(factor) if task is tasks[0] else None)
        for task in tasks
    ]
    rung = SharedRung(base, SPEC, made, {}, total=10)
    drawn = torch.Generator().manual_seed(0)
    values = {  # heads begin at zero, and then no gradient passes them
        name: torch.randn(value.shape, generator=drawn) * 0.05 if name.endswith("classifier.weight") else value
        for name, value in rung.values().items()
    }
    rung.follow(PLAN)
    rung.take(values)
    rung.step(0)
    rung.close()
    return rung


def test_no_task_dominates_by_the_size_of_its_loss(base: Base, tasks: tuple[TaskSpec, ...], tmp_path: Path) -> None:
    plain, large, larger = (after_one_step(base, tasks, tmp_path, factor) for factor in (1.0, 128.0, 100.0))
    assert plain.unfreezes
    for name, parameter in plain.shared.parameters.items():
        assert not torch.equal(parameter, base.tensors[name]), name
        assert torch.equal(parameter, large.shared.parameters[name]), name  # a power of two: the very bits
        other = (parameter - larger.shared.parameters[name]).abs() > 1e-5  # a step is 5e-4
        assert other.float().mean() < 0.02, name  # where a gradient is nothing but rounding, Adam makes a step of it
    first, second = (norm or 0.0 for norm in plain.norms)
    assert large.norms == [128.0 * first, second]
    assert larger.norms[0] == pytest.approx(100.0 * first, rel=1e-4)


def test_the_length_of_each_gradient_is_told(base: Base) -> None:
    shared = SharedParameters(base, 1.0, {})
    parameter = shared.unfreeze("neck.conv.weight")
    size, lengths = math.sqrt(parameter.numel()), []
    for value in (0.0, 3.0, -1e-3):
        parameter.grad = torch.full_like(parameter, value)
        lengths.append(shared.collect())
        assert parameter.grad is None
    assert lengths == pytest.approx([0.0, 3.0 * size, 1e-3 * size], rel=1e-3)
    parameter.grad = torch.full_like(parameter, math.inf)
    assert not math.isfinite(shared.collect())


@pytest.mark.parametrize("patience", [None, 1])
def test_an_interrupted_job_gives_the_very_bits_of_an_uninterrupted_one(
    bench: Bench, tmp_path: Path, patience: int | None
) -> None:
    spec = SPEC.model_copy(update={"patience": patience})
    runs = []
    for every in (None, 3):
        own = Bench(bench.base, bench.tasks, tmp_path / str(every))
        runs.append(own.tensors(own.train(spec, every=every)))
    for whole, parts in zip(*runs, strict=True):
        assert whole.keys() == parts.keys()
        for name in whole:
            assert torch.equal(whole[name], parts[name]), name


def test_the_plan_may_unfreeze_more_and_less_from_slice_to_slice(bench: Bench, tmp_path: Path) -> None:
    own = Bench(bench.base, bench.tasks, tmp_path / "job")
    for fraction in (0.9, 0.5, 0.9):
        trainer = own.trainer()
        list(trainer.run_slice(PLAN.model_copy(update={"fraction": fraction}), 1e6, after_steps(trainer, 2), print_no))
    assert own.train().metadata.parameters > 0


def print_no(_: object) -> None:
    """Reports are not looked at."""


def test_the_version_holds_what_was_unfrozen_and_each_patch_its_own_task(
    bench: Bench, base: Base, made: MadeVersion, tasks: tuple[TaskSpec, ...]
) -> None:
    version = find_version(made.name, bench.versions)
    assert made.name == f"small@{made.sha256[:8]}"
    assert all("conv" in name for name in version.tensors)
    assert made.metadata.parameters == sum(tensor.numel() for tensor in version.tensors.values())
    assert made.metadata.tasks == ("hues", "stripes")
    assert (made.metadata.parent, made.metadata.parent_hash) == (base.name, base.hash)
    assert base.hash == fingerprint(base.network)  # the base's bits are as they were
    on_version = as_version(base, made.name, version)
    for member, task in zip(made.members, tasks, strict=True):
        result, metadata = member.result, member.metadata
        assert (result.task, metadata.task, metadata.labels) == (task.name, task.name, task.labels)
        assert metadata.kinds == (PatchKind.SCALE_BIAS, PatchKind.HEAD)
        path = bench.patches / f"{result.patch_id}.safetensors"
        with pytest.raises(PatchMismatchError, match="was made for base 'small@"):
            load_patch(path, base)
        patch = load_patch(path, on_version)
        parts = RungParts({"validation": open_data(task.data or "").validation}, SIDE, PRE, base.memory_format)
        part = parts.load("validation", lambda: False)
        assert part is not None
        answers = TorchEngine(on_version, 1).run(part.inputs(0, 99), patch).logits.argmax(1)
        assert wilson(int((answers == part.classes).sum()), len(part.classes)) == result.validation


def test_a_version_made_of_a_version_keeps_what_differed_before(
    bench: Bench, base: Base, made: MadeVersion, tasks: tuple[TaskSpec, ...], tmp_path: Path
) -> None:
    first = find_version(made.name, bench.versions)
    own = Bench(as_version(base, made.name, first), tasks, tmp_path / "job")
    plan = PLAN.model_copy(update={"fraction": 0.5})
    again = own.train(SPEC.model_copy(update={"epochs": 1}), plan)
    second = find_version(again.name, own.versions)
    assert again.metadata.parent == made.name
    assert second.tensors.keys() == first.tensors.keys()
    changed = {name for name, tensor in second.tensors.items() if not torch.equal(tensor, first.tensors[name])}
    assert changed
    assert changed < second.tensors.keys()
    assert as_version(base, again.name, second).hash == again.metadata.hash


def test_progress_tells_each_members_loss_and_gradient(bench: Bench, tmp_path: Path) -> None:
    own = Bench(bench.base, bench.tasks, tmp_path / "job")
    trainer = own.trainer()
    list(trainer.run_slice(PLAN, 1e6, after_steps(trainer, 2), print_no))
    members = trainer.progress().members
    assert [(member.task, member.resolution) for member in members] == [("hues", SIDE), ("stripes", SIDE)]
    assert all(member.loss and member.gradient_norm for member in members)


def test_a_gradient_that_is_no_number_names_its_task_and_goes_back_once(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Bench(bench.base, bench.tasks, tmp_path / "job")
    monkeypatch.setattr(SharedParameters, "collect", lambda _: math.nan)
    with pytest.raises(TrainingError, match="gradients of task 'hues' on the base became nan at step 1, again"):
        list(own.trainer().run_slice(PLAN, 1e6, lambda: False, print_no))
    assert not list(own.versions.iterdir())
    assert own.base.hash == fingerprint(own.base.network)


def test_a_plan_that_leaves_the_base_frozen_is_refused(bench: Bench, tmp_path: Path) -> None:
    own = Bench(bench.base, bench.tasks, tmp_path / "job")
    with pytest.raises(TrainingError, match="nothing to train together"):
        list(own.trainer().run_slice(PLAN.model_copy(update={"fraction": 0.0}), 1e6, lambda: False, print_no))


def test_broken_images_of_any_task_are_named_before_the_first_step(
    bench: Bench, tasks: tuple[TaskSpec, ...], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for number in range(4):
        for name in ("across", "down"):
            save(np.zeros((SIDE, SIDE, 3)), data / "train" / name, number)
    (data / "train" / "down" / "broken.png").write_bytes(b"no image")
    broken = tasks[1].model_copy(update={"data": str(data)})
    own = Bench(bench.base, (tasks[0], broken), tmp_path / "job")
    with pytest.raises(DataSetError, match=r"1 image is broken: .*broken\.png"):
        list(own.trainer().run_slice(PLAN, 1e6, lambda: False, print_no))


def test_each_task_has_a_patch_for_each_resolution_that_it_trains(bench: Bench, tmp_path: Path) -> None:
    own = Bench(bench.base, bench.tasks, tmp_path / "job")
    spec = SPEC.model_copy(update={"resolutions": (64, SIDE), "epochs": 1, "max_samples": 8})
    trainer = own.trainer(spec)
    list(trainer.run_slice(PLAN, 1e6, lambda: False, print_no))
    assert trainer.made is not None
    results = [member.result for member in trainer.made.members]
    assert [(result.task, result.resolution) for result in results] == [("hues", 64), ("hues", SIDE), ("stripes", SIDE)]
    assert trainer.take_uses() == ()  # a step over several resolutions is none of the cost model's


def test_what_a_step_took_is_told_for_one_member(bench: Bench, tmp_path: Path) -> None:
    own = Bench(bench.base, bench.tasks, tmp_path / "job")
    trainer = own.trainer()
    list(trainer.run_slice(PLAN, 1e6, after_steps(trainer, 1), print_no))
    (use,) = trainer.take_uses()
    assert (use.steps, use.samples, use.resolution) == (2, 2 * 8, SIDE)


def test_the_patch_in_force_is_scored_on_the_same_images(
    bench: Bench, tasks: tuple[TaskSpec, ...], tmp_path: Path
) -> None:
    own = Bench(bench.base, bench.tasks, tmp_path / "job")
    folder = tmp_path / "alone"
    folder.mkdir()
    alone = TrainSpec(task="stripes", resolutions=(SIDE,), epochs=1, batch_size=8)
    (before,) = Trainer(own.base, tasks[1], alone, "job-0", folder, own.patches).run_slice(
        TrainingPlan(paused=False), 1e6, lambda: False, print_no
    )
    trainer = own.trainer()
    trainer.in_force = {("stripes", SIDE): own.patches / f"{before.result.patch_id}.safetensors"}
    list(trainer.run_slice(PLAN, 1e6, lambda: False, print_no))
    assert trainer.made is not None
    hues, stripes = (member.result for member in trainer.made.members)
    assert (hues.rival_id, hues.rival) == (None, None)
    assert (stripes.rival_id, stripes.rival) == (before.result.patch_id, before.result.validation)
