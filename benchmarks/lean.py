"""Training in little memory: what plain and lean steps keep and take, what is learned in them, and what is planned.

Beside it stands the table of TinyTL (Cai et al., NeurIPS 2020, arXiv 2007.11622): training memory at batch 8 of the
last layer, of biases and lite residual branches with it, of normalisations with it, and of everything.

1. Cost: each row with Lite0, batch 8 at 224 px, plain and lean, in fresh processes with one thread and a worker's
   allocator: bytes kept for the backward pass, counted storage by storage; the resident peak of whole steps (optimiser
   included) beyond the loaded base; the processor time of a step, in f32 and in bf16.
2. Accuracy: the rows trained leanly on a data set. Each of `--factors` times the default rates is tried on the training
   part; the validation part chooses, the lower factor among equals; the test part is scored once.
3. Plans: what the planner chooses under memory caps, from costs measured here, with an allocation of 1.

For instance: `benchmarks/lean.py --data flowers12 --output lean.json`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import finish, parser, print_table
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import Base, load_base
from patchd.models.datasets import Sample, open_data
from patchd.models.training.features import FeatureStore
from patchd.models.training.inputs import Loading, Part, PartInputs
from patchd.models.training.memory import MemoryPeak
from patchd.models.training.meter import kept_bytes, tensors_of
from patchd.models.training.parts import TRAIN
from patchd.models.training.profiling import measure_costs
from patchd.models.training.rung import RungTraining
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import Evaluation, PatchKind, Precision, Preprocessing, TaskSpec, TrainSpec
from patchd.policies.training_costs import JobOutline, PlanLimits
from patchd.policies.training_plan import plan_training

BATCH, SIDE, CLASSES = 8, 224, 12
STEPS, WARM_UPS = 3, 1
CAPS_MB = (32, 64, 128, 256, 512, 1024)
K = PatchKind


@dataclass(frozen=True)
class Row:
    """A set of parameters, and the training memory that TinyTL's table has for the like of it, in MB."""

    name: str
    kinds: tuple[PatchKind, ...]
    fraction: float = 0.0
    tinytl_mb: int | None = None

    @property
    def plan(self) -> TrainingPlan:
        """Everything that the kinds own, and of the base what the row unfreezes."""
        return TrainingPlan(paused=False, fraction=self.fraction)


ROWS = (
    Row("last layer", (K.HEAD,), tinytl_mb=31),
    Row("bias + last", (K.BIAS, K.HEAD)),
    Row("bias + lite residual + last", (K.BIAS, K.LITE_RESIDUAL, K.HEAD), tinytl_mb=37),
    Row("scale and bias + last", (K.SCALE_BIAS, K.HEAD), tinytl_mb=192),
    Row("everything", (K.SCALE_BIAS, K.HEAD), fraction=1.0, tinytl_mb=391),
)
PLANNED = ((K.SCALE_BIAS, K.HEAD), (K.BIAS, K.LITE_RESIDUAL, K.HEAD))

BASE: list[Base] = []  # what forked processes find loaded


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


# cost


def noise(base: Base, side: int) -> PartInputs:
    """A batch of noise: what a step takes does not depend on what it shows."""
    images = torch.randint(0, 256, (BATCH, side, side, 3), dtype=torch.uint8, generator=torch.Generator())
    return PartInputs(Part(images, torch.arange(BATCH) % CLASSES), Preprocessing(), base.memory_format)


def begun(row: Row, train: PartInputs, folder: str, *, lean: bool, keep: bool = False) -> RungTraining:
    """The rung of a row, ready to step."""
    base = BASE[0]
    classes = int(train.classes.max()) + 1
    task = TaskSpec(name="t", labels=tuple(map(str, range(max(2, classes)))), resolutions=(train.resolution,))
    spec = TrainSpec(task="t", kinds=row.kinds, batch_size=min(32, max(2, len(train.classes))), epochs=1000)
    rung = RungTraining(base, task, spec, train, {}, FeatureStore(Path(folder)))
    rung.follow(row.plan.model_copy(update={"lean": lean, "keep_features": keep}))
    return rung


def cost_of(row: Row, lean: bool, precision: Precision, side: int) -> dict[str, Any]:
    """Bytes kept, peak of memory and milliseconds of a step; in a process of its own."""
    train = noise(BASE[0], side)
    peak = MemoryPeak()
    with tempfile.TemporaryDirectory() as folder:
        rung = begun(row, train, folder, lean=lean)
        rung.precision = precision
        taken = []
        for number in range(WARM_UPS + STEPS):
            began = time.process_time()
            rung.step(number)
            taken.append((time.process_time() - began) * 1e3)
        peak_bytes = peak.bytes()
        kept = kept_bytes(partial(rung.logits_of, 0, torch.arange(BATCH)), tensors_of(BASE[0].network))
        rung.close()
    return {"kept_bytes": kept, "peak_bytes": peak_bytes, "step_ms": statistics.median(taken[WARM_UPS:])}


def costs(rounds: int, side: int) -> list[dict[str, Any]]:
    """All rows in all ways; the rounds take turns over them, and the median counts."""
    ways = [
        (row, lean, precision)
        for row in ROWS
        for lean in (False, True)
        for precision in (Precision.F32, Precision.BF16)
    ]
    found: list[list[dict[str, Any]]] = [[] for _ in ways]
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as fresh:
        for _ in range(rounds):
            for index, way in enumerate(ways):
                found[index].append(fresh.apply(cost_of, (*way, side)))
    results = []
    for (row, lean, precision), each in zip(ways, found, strict=True):
        result: dict[str, Any] = {"row": row.name, "lean": lean, "precision": precision}
        for key in ("kept_bytes", "peak_bytes", "step_ms"):
            values = [one[key] for one in each if one[key] is not None]
            result[key] = statistics.median(values) if values else None
        results.append(result)
    return results


def print_costs(results: list[dict[str, Any]], side: int) -> None:
    """Plain against lean, beside the published figures."""
    by = {(one["row"], one["lean"], one["precision"]): one for one in results}

    def megabytes(value: float | None) -> str:
        return "-" if value is None else f"{value / 1e6:.0f}"

    rows = []
    for row in ROWS:
        plain, lean = (by[row.name, way, Precision.F32] for way in (False, True))
        half = [by[row.name, way, Precision.BF16]["step_ms"] for way in (False, True)]
        rows.append(
            (
                row.name,
                "-" if row.tinytl_mb is None else str(row.tinytl_mb),
                *(f"{way['kept_bytes'] / 1e6:.1f}" for way in (plain, lean)),
                *(megabytes(way["peak_bytes"]) for way in (plain, lean)),
                *(f"{way['step_ms']:.0f}" for way in (plain, lean)),
                *(f"{value:.0f}" for value in half),
            )
        )
    print(f"\nLite0, batch {BATCH} at {side} px, one thread; memory in MB, steps in processor milliseconds:")
    header = ("trained", "TinyTL", "kept", "lean", "peak", "lean", "step", "lean", "bf16", "lean")
    print_table(header, rows)


# accuracy


def decoded(samples: tuple[Sample, ...], side: int) -> PartInputs:
    """A part at `side` px."""
    part = Loading(samples, side, Preprocessing()).run(lambda: False)
    assert part is not None
    return PartInputs(part, Preprocessing(), BASE[0].memory_format)


@dataclass(frozen=True)
class DataParts:
    """A data set at one resolution."""

    train: PartInputs
    validation: PartInputs
    test: PartInputs


def trained(row: Row, parts: DataParts, factor: float, epochs: int) -> tuple[RungTraining, Evaluation]:
    """A row trained with `factor` times the default rates, and its validation score; the rung is still bound."""
    with tempfile.TemporaryDirectory() as folder:
        rung = begun(row, parts.train, folder, lean=True, keep=row.kinds == (K.HEAD,))
        if rung.wants_features(TRAIN):
            rung.compute_features(TRAIN, parts.train, lambda: False)
        rung.order.total = epochs * rung.order.per_epoch
        for number in range(rung.order.total):
            rung.step(number, factor)
        score = rung.evaluate("validation", parts.validation, lambda: False)
        assert score is not None
    return rung, score


def accuracy(row: Row, parts: DataParts, factors: list[float], epochs: int) -> dict[str, Any]:
    """The row at the rate that the validation part chooses, scored once on the test part."""
    best: tuple[float, float] | None = None  # validation accuracy, factor
    tested: Evaluation | None = None
    tried: dict[str, float] = {}
    for factor in sorted(factors):
        rung, score = trained(row, parts, factor, epochs)
        tried[f"{factor:g}"] = score.accuracy
        if best is None or score.accuracy > best[0]:
            best = score.accuracy, factor
            tested = rung.evaluate("test", parts.test, lambda: False)
        rung.close()
    assert best is not None
    assert tested is not None
    say(f"{row.name}: validation {best[0]:.3f} at {best[1]:g} x the rates, test {tested.accuracy:.3f}")
    return {"row": row.name, "factor": best[1], "tried": tried, "test": tested.model_dump()}


def accuracies(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row on the data set."""
    data = open_data(str(arguments.data))
    parts = DataParts(
        *(decoded(samples[: arguments.most], arguments.side) for samples in (data.train, data.validation, data.test))
    )
    say(f"{len(parts.train.classes)} training images at {arguments.side} px, {arguments.epochs} epochs")
    results = [accuracy(row, parts, arguments.factors, arguments.epochs) for row in ROWS]
    print(f"\n{arguments.data.name} at {arguments.side} px, {arguments.epochs} epochs, lean steps, held-out images:")
    rows = [
        (
            one["row"],
            f"{one['test']['accuracy']:.1%}",
            f"{one['test']['low']:.1%} to {one['test']['high']:.1%}",
            one["test"]["samples"],
            f"{one['factor']:g}",
        )
        for one in results
    ]
    print_table(("trained", "accuracy", "95 % interval", "images", "x rates"), rows)
    return results


# plans


def plans(seconds: float, side: int) -> list[dict[str, Any]]:
    """What the planner chooses under each cap."""
    measured = measure_costs(BASE[0], (side,), seconds=seconds)
    assert measured is not None
    results, rows = [], []
    for kinds in PLANNED:
        job = JobOutline(kinds=kinds, classes=CLASSES, resolutions=(side,), full_resolution=side, batch_size=BATCH)
        for cap in CAPS_MB:
            limits = PlanLimits(max_fraction=1.0, memory_bytes=cap * 1_000_000)
            plan = plan_training(1.0, measured, job, limits).plan
            results.append({"kinds": kinds, "cap_mb": cap, "plan": plan.model_dump(mode="json")})
            if plan.paused:
                rows.append(("+".join(kinds), cap, "pauses", "-", "-", "-", "-", "-"))
                continue
            way = ("lean" if plan.lean else "plain") + (", biases only" if plan.biases_only else "")
            size = "-" if plan.memory_bytes is None else f"{plan.memory_bytes / 1e6:.0f}"
            rows.append(
                (
                    "+".join(kinds), cap, way, f"{plan.reach:.2f}", f"{plan.fraction:.2f}",
                    str(plan.micro_batch or BATCH), f"{plan.cost:.2f}", size,
                )
            )  # fmt: skip
    print(f"\nPlans for Lite0, batch {BATCH} at {side} px, allocation 1, all of the base allowed:")
    print_table(("kinds", "cap MB", "way", "reach", "base", "micro-batch", "cost", "MB"), rows)
    return results


def measure(arguments: argparse.Namespace) -> None:
    """All of it, in a process with a worker's allocator."""
    torch.set_num_threads(1)
    BASE.append(load_base("lite0"))
    side = 64 if arguments.quick else SIDE
    found = costs(1 if arguments.quick else 3, side)  # before any pass has run here: forked processes start fresh
    print_costs(found, side)
    result: dict[str, Any] = {"costs": found, "plans": plans(0.0 if arguments.quick else 45.0, side)}
    if arguments.data is not None:
        torch.set_num_threads(arguments.threads)
        result["accuracy"] = accuracies(arguments)
    finish("lean", result, arguments.output)


def main() -> None:
    """Start again with a worker's allocator, which counts from the first allocation on."""
    made = parser(__doc__)
    made.add_argument("--quick", action="store_true", help="all at 64 px; one round, one rate, one epoch, 64 images")
    made.add_argument("--data", type=Path, help="a directory of train/CLASS/* and test/CLASS/*")
    made.add_argument("--side", type=int, default=128, help="pixels")
    made.add_argument("--epochs", type=int, default=5)
    made.add_argument("--factors", type=float, nargs="+", default=[0.3, 1.0], help="of the default rates")
    made.add_argument("--threads", type=int, default=2, help="for the accuracies")
    made.add_argument("--most", type=int, help="use at most this many images of each part")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.quick:
        arguments.side, arguments.epochs, arguments.factors, arguments.most = 64, 1, [1.0], 64
    if arguments.child:
        measure(arguments)
        return
    environ = {**os.environ, **ALLOCATOR}
    sys.exit(subprocess.run([sys.executable, *sys.argv, "--child"], env=environ, check=False).returncode)


if __name__ == "__main__":
    main()
