"""How well training costs are predicted: step time and peak memory of plans that nothing was fitted on.

The costs of a base are measured as patchd does it, in under a minute, on whole passes of two sizes at three
resolutions. Then random plans (resolution, batch, micro-batch, order, what trains, plain or lean, kept features) run as
the trainer runs them, each in fresh processes that have the base loaded and nothing else; the rounds take turns over
all plans, so that a burst of other work falls on all of them. Time is the median processor time of steps, memory the
peak that is resident beyond the loaded base and the decoded images, an evaluation and the making of features counted
in.

The aims: a mean absolute error of at most 10 % of the step time and 15 % of the peak.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import finish, parser, print_table
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import Base, load_base
from patchd.models.training.features import FeatureStore
from patchd.models.training.inputs import Part, PartInputs
from patchd.models.training.memory import MemoryPeak
from patchd.models.training.parts import TRAIN, VALIDATION
from patchd.models.training.profiling import measure_costs
from patchd.models.training.rung import RungTraining
from patchd.policies.decision import TrainingPlan, UnfreezeOrder
from patchd.policies.task import Preprocessing, TaskSpec, TrainSpec
from patchd.policies.training_chain import chain, level_of
from patchd.policies.training_costs import JobOutline, TrainingCosts
from patchd.policies.training_job_prices import JobPrices, Predicted, Run
from patchd.policies.training_prices import Prices

RESOLUTIONS = (224, 192, 160, 128, 96)
BATCHES = (8, 16, 32)
TRAIN_IMAGES, VALIDATION_IMAGES, CLASSES = 96, 64, 10
ROUNDS, STEPS, WARM_UPS = 3, 2, 1
TIME_AIM, MEMORY_AIM = 0.10, 0.15


@dataclass(frozen=True)
class Case:
    """A plan to run, and the job it is for."""

    plan: TrainingPlan
    job: JobOutline


def cases(costs: TrainingCosts, count: int, seed: int) -> list[Case]:
    """Random plans. Equal chances for every link of a chain, whatever it costs."""
    chance, prices = random.Random(seed), Prices(costs)
    made: list[Case] = []
    names = [tensor.name for unit in prices.names for tensor in unit]
    while len(made) < count:
        job = JobOutline(
            base=costs.base,
            batch_size=chance.choice(BATCHES),
            train_images=TRAIN_IMAGES,
            validation_images=VALIDATION_IMAGES,
            importance=tuple((name, chance.random()) for name in names),
        )
        order = chance.choice(list(UnfreezeOrder))
        level = chance.choice(chain(prices, job, order, 1.0))
        side = chance.choice(RESOLUTIONS)
        run = Run(side, lean=prices.can_be_lean and chance.random() < 0.5)
        lowest = prices.price(level.trained, side, job.classes, lean=run.lean).lowest
        plan = TrainingPlan(
            paused=False,
            order=order,
            resolution=side,
            reach=level.reach,
            fraction=level.fraction,
            tensors=level.tensors,
            keep_features=lowest > 0 and chance.random() < 0.3,
            lean=run.lean,
            micro_batch=chance.choice((None, None, job.batch_size // 2, job.batch_size // 4)),
        )
        made.append(Case(plan, job))
    return made


def part_of(base: Base, count: int, side: int) -> PartInputs:
    """Images of noise: what a step takes does not depend on what they show."""
    generator = torch.Generator().manual_seed(side)
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    return PartInputs(Part(images, torch.arange(count) % CLASSES), Preprocessing(), base.memory_format)


def run_case(case: Case) -> tuple[list[float], int | None]:
    """Processor milliseconds of steps under a plan, and the peak of memory in bytes; in a process of its own."""
    base, plan, side = BASE[0], case.plan, case.plan.resolution or 0
    train, validation = part_of(base, TRAIN_IMAGES, side), part_of(base, VALIDATION_IMAGES, side)
    task = TaskSpec(name="noise", base=base.name, labels=tuple(map(str, range(CLASSES))), resolutions=(side,))
    spec = TrainSpec(task="noise", kinds=case.job.kinds, batch_size=case.job.batch_size, epochs=100)
    peak = MemoryPeak()
    with tempfile.TemporaryDirectory() as folder:
        rung = RungTraining(base, task, spec, train, {}, FeatureStore(Path(folder)))
        rung.follow(plan)
        if rung.wants_features(TRAIN):
            rung.compute_features(TRAIN, train, lambda: False)
            rung.compute_features(VALIDATION, validation, lambda: False)
        taken = []
        for number in range(WARM_UPS + STEPS):
            began = time.process_time()
            rung.step(number)
            taken.append((time.process_time() - began) * 1e3)
        rung.evaluate(VALIDATION, validation, lambda: False)
        rung.close()
        return taken[WARM_UPS:], peak.bytes()


def profile(seconds: float) -> str:
    """The costs as JSON; in a process of its own, so that the one it is forked from stays as it was."""
    costs = measure_costs(BASE[0], RESOLUTIONS, seconds=seconds)
    assert costs is not None
    return costs.model_dump_json()


def shipped(costs: TrainingCosts) -> str:
    """Costs as they ship with patchd: four digits, and no time of measuring, for they are another machine's."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rounded(each) for key, each in value.items()}
        if isinstance(value, list):
            return [rounded(each) for each in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    plain = costs.model_copy(update={"measured_s": None}).model_dump(mode="json")
    return json.dumps(rounded(plain), separators=(",", ":")) + "\n"


BASE: list[Base] = []  # what forked processes find loaded


def measure(arguments: argparse.Namespace) -> None:
    """All of it, in a process with a worker's allocator and one thread."""
    torch.set_num_threads(1)
    BASE.append(load_base(arguments.base))
    # Forked before any pass has run: no threads of torch, no kernels chosen, the base shared.
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as fresh:
        if arguments.costs is None:
            text = fresh.apply(profile, (arguments.profile_seconds,))
        else:
            text = arguments.costs.read_text()
        costs = TrainingCosts.model_validate_json(text)
        if arguments.write_costs is not None:
            arguments.write_costs.write_text(text)
        if arguments.write_defaults is not None:
            arguments.write_defaults.write_text(shipped(costs))
        print(f"Costs of {costs.base} measured in {costs.seconds:.0f} s.", flush=True)
        chosen = cases(costs, min(arguments.plans, 8) if arguments.quick else arguments.plans, arguments.seed)
        taken: list[list[float]] = [[] for _ in chosen]
        peaks: list[list[int]] = [[] for _ in chosen]
        for _ in range(1 if arguments.quick else ROUNDS):
            for index, case in enumerate(chosen):
                steps, peak = fresh.apply(run_case, (case,))
                taken[index] += steps
                if peak is not None:
                    peaks[index].append(peak)
    report(costs, chosen, taken, peaks, arguments.output)


def predict(prices: Prices, case: Case) -> Predicted:
    """What the planner expects of a case."""
    plan = case.plan
    run = Run(plan.resolution or 0, plan.lean, plan.keep_features, plan.micro_batch)
    return JobPrices(prices, case.job).predict(level_of(prices, case.job, plan).trained, run)


def report(
    costs: TrainingCosts, chosen: list[Case], taken: list[list[float]], peaks: list[list[int]], output: Path | None
) -> None:
    """Predicted against measured, plan by plan, and the mean absolute errors."""
    rows: list[tuple[object, ...]] = []
    results: list[dict[str, Any]] = []
    prices = Prices(costs)
    for case, steps, sizes in zip(chosen, taken, peaks, strict=True):
        plan, predicted = case.plan, predict(prices, case)
        measured_ms = statistics.median(steps)
        measured_bytes = statistics.median(sizes) if sizes else None
        time_error = predicted.step_cpu_ms / measured_ms - 1
        memory_error = None if measured_bytes is None else predicted.memory_bytes / measured_bytes - 1
        rows.append(
            (
                plan.resolution,
                f"{case.job.batch_size}/{plan.micro_batch or case.job.batch_size}",
                str(plan.order),
                f"{plan.reach:.2f}",
                f"{plan.fraction:.2f}",
                ("lean " if plan.lean else "") + ("kept" if plan.keep_features else ""),
                f"{predicted.step_cpu_ms:.0f}",
                f"{measured_ms:.0f}",
                f"{time_error:+.0%}",
                f"{predicted.memory_bytes / 1e6:.0f}",
                "-" if measured_bytes is None else f"{measured_bytes / 1e6:.0f}",
                "-" if memory_error is None else f"{memory_error:+.0%}",
            )
        )
        results.append(
            {
                "plan": plan.model_dump(mode="json"),
                "batch": case.job.batch_size,
                "predicted_ms": predicted.step_cpu_ms,
                "measured_ms": measured_ms,
                "predicted_bytes": predicted.memory_bytes,
                "measured_bytes": measured_bytes,
                "time_error": time_error,
                "memory_error": memory_error,
            }
        )
    header = ("px", "batch", "order", "reach", "base", "way", "ms", "measured", "error", "MB", "measured", "error")
    print_table(header, rows)
    times = [abs(one["time_error"]) for one in results]
    sizes_off = [abs(one["memory_error"]) for one in results if one["memory_error"] is not None]
    summary: dict[str, Any] = {
        "plans": len(results),
        "profile_s": costs.seconds,
        "time_mean_absolute_error": statistics.fmean(times),
        "memory_mean_absolute_error": statistics.fmean(sizes_off) if sizes_off else None,
    }
    print(f"\nStep time: mean absolute error {summary['time_mean_absolute_error']:.1%} (aim {TIME_AIM:.0%}).")
    if sizes_off:
        off = summary["memory_mean_absolute_error"]
        print(f"Peak memory: mean absolute error {off:.1%} (aim {MEMORY_AIM:.0%}).")
    finish("training_costs", {**summary, "results": results}, output)


def main() -> None:
    """Start again with a worker's allocator, which counts from the first allocation on."""
    made = parser(__doc__)
    made.add_argument("--quick", action="store_true", help="eight plans, one round")
    made.add_argument("--plans", type=int, default=48)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--base", default="lite0")
    made.add_argument("--profile-seconds", type=float, default=45.0)
    made.add_argument("--costs", type=Path, help="costs measured before, instead of measuring them")
    made.add_argument("--write-costs", type=Path, help="where to write the measured costs")
    made.add_argument("--write-defaults", type=Path, help="where to write them as policies/training_costs_lite0.json")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.child:
        measure(arguments)
        return
    environ = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": "1"}
    sys.exit(subprocess.run([sys.executable, *sys.argv, "--child"], env=environ, check=False).returncode)


if __name__ == "__main__":
    main()
