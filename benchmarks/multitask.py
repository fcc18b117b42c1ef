"""Several tasks on one base: trained together, each alone with its patch, and each alone with the base unfrozen.

Top-1 on each task's test images with the 95 % interval, what has to be stored for all tasks, and how long each task's
gradient on the base is, with the rule that scales each to length one and without it, one task's loss being 30 times as
large.

    python benchmarks/multitask.py --data DIR DIR ...   # directories of train/CLASS/*, test/CLASS/*, beside digits

Without --data, digits 0 to 4 and digits 5 to 9 are two tasks.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from common import finish, parser, print_table
from patchd.models.bases import Base, load_base
from patchd.models.datasets import open_data
from patchd.models.training import Trainer
from patchd.models.training.data import open_training_data
from patchd.models.training.features import FeatureStore
from patchd.models.training.inputs import PartInputs
from patchd.models.training.objective import Labels, MicroBatch
from patchd.models.training.parts import TEST, TRAIN, RungParts
from patchd.models.training.shared import MemberParts, SharedParameters, SharedRung
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import Evaluation, Preprocessing, TaskSpec, TrainSpec
from torch import Tensor

FACTOR = 30.0  # of one task's loss, where the rule is compared with none
FOREVER_S = 1e9


@dataclass(frozen=True, slots=True)
class Row:
    """What one way of training gave one task."""

    way: str
    task: str
    test: Evaluation
    norm: float | None = None  # length of its gradient on the base, smoothed, at the end


class Scaled(Labels):
    """Cross-entropy, FACTOR times as large."""

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """As `Objective` says."""
        return super().losses(logits, batch) * FACTOR


class PlainSum(SharedParameters):
    """Gradients on the base averaged as they are."""

    def divisor(self, norm: float) -> float:  # noqa: ARG002
        """None: whatever the length is, it stays."""
        return 1.0


class PlainRung(SharedRung):
    """Members whose gradients on the base are averaged as they are."""

    rule: ClassVar[type[SharedParameters]] = PlainSum


def halves(folder: Path) -> list[TaskSpec]:
    """Digits 0 to 4 and digits 5 to 9, written as images into `folder`."""
    found = open_data("sklearn:digits")
    tasks = []
    for name, own in (("low", "01234"), ("high", "56789")):
        for part, samples in (("train", (*found.train, *found.validation)), ("test", found.test)):
            for number, sample in enumerate(samples):
                if (label := found.labels[sample.label]) in own:
                    directory = folder / name / part / label
                    directory.mkdir(parents=True, exist_ok=True)
                    sample.load(1).save(directory / f"{number}.png")
        tasks.append(_task(name, str(folder / name), tuple(own), 1.0))
    return tasks


def _task(name: str, data: str, labels: tuple[str, ...], crop: float) -> TaskSpec:
    return TaskSpec(
        name=name, labels=labels, resolutions=(96,), data=data, preprocessing=Preprocessing(crop_fraction=crop)
    )


def given(directories: Sequence[Path]) -> list[TaskSpec]:
    """Digits, and a task for each directory."""
    tasks = [_task("digits", "sklearn:digits", open_data("sklearn:digits").labels, 1.0)]
    for directory in directories:
        name = directory.name.removesuffix(".d").lower()
        tasks.append(_task(name, str(directory), open_data(str(directory)).labels, 0.875))
    return tasks


def alone(base: Base, task: TaskSpec, spec: TrainSpec, plan: TrainingPlan, folder: Path) -> tuple[Evaluation, int]:
    """Test accuracy of a task that is trained alone, and the numbers in its patch."""
    for directory in (folder, folder / "patches"):
        directory.mkdir(parents=True)
    trainer = Trainer(base, task, spec.model_copy(update={"task": task.name}), "bench", folder, folder / "patches")
    for _ in trainer.run_slice(plan, FOREVER_S, lambda: False, lambda _: None):
        pass
    result = trainer.finished[0].result
    assert result.test is not None
    return result.test, result.parameters


def loaded(base: Base, task: TaskSpec, spec: TrainSpec) -> dict[str, PartInputs]:
    """The training and test images of a task, decoded."""
    data, side = open_training_data(task, spec), spec.resolutions[0]
    parts = RungParts({TRAIN: data.train, TEST: data.test}, side, task.preprocessing, base.memory_format)
    found = {name: parts.load(name, lambda: False) for name in (TRAIN, TEST)}
    return {name: part for name, part in found.items() if part is not None}


def together(
    base: Base,
    tasks: Sequence[TaskSpec],
    images: Mapping[str, Mapping[str, PartInputs]],
    spec: TrainSpec,
    plan: TrainingPlan,
    folder: Path,
    way: str,
    kind: type[SharedRung],
    scaled: str | None = None,
) -> tuple[list[Row], int]:
    """Rows of tasks that are trained at once, and the numbers in the version and all patches."""
    members = [
        MemberParts(task, images[task.name][TRAIN], FeatureStore(folder), Scaled() if task.name == scaled else None)
        for task in tasks
    ]
    total = spec.epochs * max(-(-len(member.inputs.classes) // spec.batch_size) for member in members)
    rung = kind(base, spec, members, {}, total)
    rung.follow(plan)
    for number in range(total):
        rung.step(number)
        print(f"{way}: step {number + 1} of {total}   ", end="\r", file=sys.stderr, flush=True)
    rows = []
    for member, norm in zip(rung.members, rung.norms, strict=True):
        score = rung.use(member).evaluate(TEST, images[member.task.name][TEST], lambda: False)
        assert score is not None
        rows.append(Row(way, member.task.name, score, norm))
    rung.close()
    shared = sum(parameter.numel() for parameter in rung.shared.parameters.values())
    return rows, shared + sum(sum(member.counts().values()) for member in rung.members)


def main() -> None:
    """Train every way; print the tables."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, nargs="*", default=[], metavar="DIR", help="further tasks beside digits")
    made.add_argument("--side", type=int, default=96, help="pixels [default: 96]")
    made.add_argument("--samples", type=int, default=400, help="training images of each task at most [default: 400]")
    made.add_argument("--epochs", type=int, default=4, help="[default: 4]")
    made.add_argument("--fraction", type=float, default=0.5, help="of the base that is unfrozen [default: 0.5]")
    made.add_argument("--quick", action="store_true", help="32 px, 48 images, 1 epoch: only to see that it runs")
    arguments = made.parse_args()
    side, samples, epochs = (32, 48, 1) if arguments.quick else (arguments.side, arguments.samples, arguments.epochs)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    base, began = load_base("lite0"), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="patchd-multitask-") as name:
        folder = Path(name)
        tasks = given(arguments.data) if arguments.data else halves(folder / "data")
        tasks = [task.model_copy(update={"resolutions": (side,)}) for task in tasks]
        spec = TrainSpec(
            task=tasks[0].name, together=tuple(task.name for task in tasks[1:]), resolutions=(side,), epochs=epochs,
            max_samples=samples,
        )  # fmt: skip
        rows, stored = measure(base, tasks, spec, arguments.fraction, folder)
    show(rows, stored, base)
    print(f"\nAll of it took {time.monotonic() - began:.0f} s.")
    result: dict[str, Any] = {
        "side": side,
        "samples": samples,
        "epochs": epochs,
        "fraction": arguments.fraction,
        "rows": [{**row.test.model_dump(), "way": row.way, "task": row.task, "norm": row.norm} for row in rows],
        "stored": stored,
    }
    finish("multitask", result, arguments.output)


def measure(
    base: Base, tasks: Sequence[TaskSpec], spec: TrainSpec, fraction: float, folder: Path
) -> tuple[list[Row], dict[str, int]]:
    """Every way of training: its rows, and the numbers that have to be stored for all tasks."""
    alike = spec.model_copy(update={"together": ()})
    plans = {
        "alone, patch only": TrainingPlan(paused=False),
        f"alone, patch and {fraction:.0%} of the base": TrainingPlan(paused=False, fraction=fraction),
        "alone, patch and all of the base": TrainingPlan(paused=False, fraction=1.0),
    }
    rows: list[Row] = []
    stored: dict[str, int] = {}
    for way, plan in plans.items():
        for task in tasks:
            print(f"{way}: {task.name}          ", end="\r", file=sys.stderr, flush=True)
            test, parameters = alone(base, task, alike, plan, folder / f"{way} {task.name}")
            rows.append(Row(way, task.name, test))
            stored[way] = stored.get(way, 0) + parameters
    shared = TrainingPlan(paused=False, fraction=fraction)
    images = {task.name: loaded(base, task, spec) for task in tasks}
    large = tasks[0].name
    ways: tuple[tuple[str, type[SharedRung], str | None], ...] = (
        (f"together, {fraction:.0%} of the base", SharedRung, None),
        (f"the same, loss of {large} x {FACTOR:.0f}", SharedRung, large),
        ("together without the rule", PlainRung, None),
        (f"the same, loss of {large} x {FACTOR:.0f}, without the rule", PlainRung, large),
    )
    for way, kind, scaled in ways:
        found, stored[way] = together(base, tasks, images, spec, shared, folder, way, kind, scaled)
        rows += found
    return rows, stored


def show(rows: Sequence[Row], stored: Mapping[str, int], base: Base) -> None:
    """The tables."""
    print_table(
        ("way", "task", "test top-1", "95 %", "images", "gradient on the base"),
        [
            (
                row.way,
                row.task,
                f"{row.test.accuracy:.1%}",
                f"{row.test.low:.1%} to {row.test.high:.1%}",
                row.test.samples,
                "-" if row.norm is None else f"{row.norm:.3g}",
            )
            for row in rows
        ],
    )
    print()
    print_table(
        ("way", "numbers stored for all tasks", "of one base"),
        [(way, count, f"{count / base.parameters_count:.1%}") for way, count in stored.items()],
    )


if __name__ == "__main__":
    main()
