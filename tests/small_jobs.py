"""Small training jobs for tests: a network that trains in milliseconds, and three colours to learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from networks import SIDE, make
from patchd.models.bases import Base
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.models.training.checkpoint import Finished
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import JobProgress, PatchKind, Preprocessing, TaskSpec, TrainSpec
from PIL import Image
from torch import Tensor

LABELS = ("blue", "green", "red")
PLAN = TrainingPlan(paused=False)
SPEC = TrainSpec(
    task="colours", kinds=(PatchKind.SCALE_BIAS, PatchKind.HEAD), resolutions=(SIDE,), epochs=3, batch_size=8
)


def small_base(name: str = "efficientnet_lite") -> Base:
    return Base(name, make(name), SIDE)


def colours(folder: Path, train: int = 8, test: int = 2) -> TaskSpec:
    """A task on a data set of so many pictures to a class, in `folder`."""
    for part, count in (("train", train), ("test", test)):
        for index, label in enumerate(LABELS):
            (folder / part / label).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                random = np.random.default_rng(1000 * index + number + (500 if part == "test" else 0))
                spots = random.uniform(0, 150, (8, 8, 3))
                spots[:, :, 2 - index] += 80
                Image.fromarray(spots.astype(np.uint8)).resize((SIDE, SIDE)).save(
                    folder / part / label / f"{number}.png"
                )
    pre = Preprocessing(crop_fraction=1.0)
    return TaskSpec(name="colours", labels=LABELS, resolutions=(64, SIDE), data=str(folder), preprocessing=pre)


class Job:
    """One job's directories, and trainers over them."""

    def __init__(self, base: Base, task: TaskSpec, root: Path, spec: TrainSpec = SPEC) -> None:
        self.base, self.task, self.spec = base, task, spec
        self.checkpoints, self.patches = root / "checkpoints", root / "patches"
        self.checkpoints.mkdir(parents=True)
        self.patches.mkdir()
        self.notes: list[str] = []
        self.reports: list[JobProgress] = []

    def trainer(self) -> Trainer:
        return Trainer(self.base, self.task, self.spec, "job-1", self.checkpoints, self.patches)

    def slice(self, trainer: Trainer, plan: TrainingPlan = PLAN, stop: Callable[[], bool] = lambda: False) -> None:
        """One slice, ended by `stop` alone."""
        try:
            list(trainer.run_slice(plan, 1e6, stop, self.reports.append))
        finally:
            self.notes += trainer.take_notes()

    def run(self, plan: TrainingPlan = PLAN) -> Finished:
        """To the end, undisturbed; the first rung."""
        trainer = self.trainer()
        self.slice(trainer, plan)
        assert trainer.done
        return trainer.finished[0]

    def run_in_pieces(self, plan: TrainingPlan, every: int) -> Finished:
        """To the end, in slices that end after so many looks whether they should; a new trainer after each."""
        for _ in range(1000):
            trainer = self.trainer()
            self.slice(trainer, plan, after(every))
            if trainer.done:
                return trainer.finished[0]
        raise AssertionError("the job did not end")

    def tensors(self, finished: Finished) -> dict[str, Tensor]:
        return dict(load_patch(self.patches / f"{finished.result.patch_id}.safetensors", self.base).tensors)


def after(looks: int) -> Callable[[], bool]:
    """A stop that says so from the given look on."""
    count = 0

    def stop() -> bool:
        nonlocal count
        count += 1
        return count > looks

    return stop


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two patches are the same to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
