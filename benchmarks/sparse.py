"""What each order of unfreezing reaches for the same predicted cost: patch first, downwards, sparse.

For each allocation the planner plans a job of scale, bias and head with the whole base at its disposal, in each order,
under the same measured costs. The plan trains a real data set at one resolution; what counts is top-1 on its test part.
Importance for the sparse order is Fisher information on the training part, measured before. No features are kept, so
that equal cost means equal work a step.

    python benchmarks/sparse.py --data DIR [--resolution 96] [--epochs 4] [--seeds 1] [--costs FILE]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import finish, parser, print_table
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import Base, load_base
from patchd.models.datasets import open_data, pixels
from patchd.models.training.features import FeatureStore
from patchd.models.training.fisher import importance
from patchd.models.training.inputs import Part, PartInputs
from patchd.models.training.parts import TEST
from patchd.models.training.profiling import measure_costs
from patchd.models.training.rung import RungTraining
from patchd.policies.decision import TrainingDecision, TrainingPlan, UnfreezeOrder
from patchd.policies.task import Preprocessing, TaskSpec, TrainSpec
from patchd.policies.training_costs import JobOutline, PlanLimits, TrainingCosts
from patchd.policies.training_plan import plan_training

ALLOCATIONS = (0.4, 0.6, 0.75, 0.85)
ORDERS = tuple(UnfreezeOrder)


def part_of(base: Base, data: str, part: str, resolution: int, most: int | None) -> PartInputs:
    """A part of a data set, every k-th image of it where it holds more than `most`."""
    samples = getattr(open_data(data), part)
    if most is not None and len(samples) > most:
        samples = samples[:: -(-len(samples) // most)]
    classes = torch.tensor([sample.label for sample in samples])
    return PartInputs(Part(pixels(samples, resolution, Preprocessing()), classes), Preprocessing(), base.memory_format)


def trained(
    base: Base, plan: TrainingPlan, task: TaskSpec, spec: TrainSpec, train: PartInputs, test: PartInputs
) -> tuple[float, float]:
    """Top-1 on `test` after training under `plan`, and the processor milliseconds of a step."""
    with tempfile.TemporaryDirectory() as folder:
        rung = RungTraining(base, task, spec, train, {}, FeatureStore(Path(folder)))
        rung.follow(plan)
        taken = []
        for number in range(rung.order.total):
            began = time.process_time()
            rung.step(number)
            taken.append((time.process_time() - began) * 1e3)
        score = rung.evaluate(TEST, test, lambda: False)
        rung.close()
    assert score is not None
    return score.accuracy, statistics.median(taken)


def planned(order: UnfreezeOrder, allocation: float, costs: TrainingCosts, job: JobOutline) -> TrainingDecision:
    """The plan of one order."""
    return plan_training(allocation, costs, job, PlanLimits(max_fraction=1.0, order=order))


def measure(arguments: Any) -> None:
    """All of it, in a process with a worker's allocator."""
    torch.set_num_threads(arguments.threads)
    base, side = load_base("lite0"), arguments.resolution
    if arguments.costs is not None:
        costs: TrainingCosts | None = TrainingCosts.model_validate_json(arguments.costs.read_text())
    else:
        costs = measure_costs(base, (side,), seconds=15.0)
    assert costs is not None
    labels = open_data(arguments.data).labels
    most = 160 if arguments.quick else arguments.most
    train, test = (part_of(base, arguments.data, part, side, most) for part in ("train", "test"))
    began = time.monotonic()
    weights = importance(base, train.part.images, train.classes, len(labels), Preprocessing())
    assert weights is not None
    print(f"Fisher information of {len(weights)} tensors in {time.monotonic() - began:.1f} s.", flush=True)
    job = JobOutline(
        classes=len(labels),
        resolutions=(side,),
        full_resolution=side,
        epochs=arguments.epochs,
        train_images=len(train.classes),
        validation_images=0,
        importance=tuple(weights.items()),
    )
    task = TaskSpec(name="sparse", labels=labels, resolutions=(side,))
    rows: list[tuple[object, ...]] = []
    results: list[dict[str, Any]] = []
    for allocation in ALLOCATIONS[1:2] if arguments.quick else ALLOCATIONS:
        for order in ORDERS:
            plan = planned(order, allocation, costs, job).plan
            scores, steps = [], []
            for seed in range(1 if arguments.quick else arguments.seeds):
                spec = TrainSpec(task="sparse", epochs=1 if arguments.quick else arguments.epochs, seed=seed)
                accuracy, step_ms = trained(base, plan, task, spec, train, test)
                scores.append(accuracy)
                steps.append(step_ms)
            print(f"{allocation} {order}: {statistics.fmean(scores):.1%}", flush=True)
            rows.append(
                (
                    allocation,
                    str(order),
                    f"{plan.reach:.2f}",
                    f"{plan.fraction:.2f}",
                    f"{plan.cost:.2f}",
                    f"{plan.step_ms:.0f}",
                    f"{statistics.median(steps) / arguments.threads:.0f}",
                    f"{statistics.fmean(scores):.1%}",
                    " ".join(f"{score:.1%}" for score in scores),
                )
            )
            results.append({"allocation": allocation, "plan": plan.model_dump(mode="json"), "accuracy": scores})
    header = ("allocation", "order", "reach", "base", "cost", "step ms", "measured", "top-1", "seeds")
    print_table(header, rows)
    finish("sparse", {"data": Path(arguments.data).name, "resolution": side, "results": results}, arguments.output)


def main() -> None:
    """Start again with a worker's allocator, which counts from the first allocation on."""
    made = parser(__doc__)
    made.add_argument("--data", required=True, help="a directory of train/CLASS/*.jpg and test/CLASS/*.jpg")
    made.add_argument("--resolution", type=int, default=96)
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--seeds", type=int, default=1)
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--most", type=int, default=1000, help="images of a part at most")
    made.add_argument("--costs", type=Path, help="costs measured before, instead of measuring them")
    made.add_argument("--quick", action="store_true", help="one allocation, one epoch, few images")
    made.add_argument("--child", action="store_true", help="used by the program itself")
    arguments = made.parse_args()
    if arguments.child:
        measure(arguments)
        return
    environ = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(arguments.threads)}
    sys.exit(subprocess.run([sys.executable, *sys.argv, "--child"], env=environ, check=False).returncode)


if __name__ == "__main__":
    main()
