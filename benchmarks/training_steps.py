"""The time of a training step against a plain torch loop written by hand for the same plan.

EfficientNet-Lite0, batch 32 at 128 px, random images, ten classes, one process for each allocator setting. Both sides
begin with bytes in memory and end with an optimiser step; they take turns, and each figure is the median of them.
The plans: the head on kept features (by hand: features in memory), scale and bias everywhere with the head, everything.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import finish, parser, print_table
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import Base, load_base
from patchd.models.training.features import FeatureStore
from patchd.models.training.inputs import Part, PartInputs
from patchd.models.training.parts import TRAIN
from patchd.models.training.rung import RungTraining
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import PatchKind, Preprocessing, TaskSpec, TrainSpec
from torch import Tensor, nn

CLASSES, IMAGES, BATCH = 10, 256, 32
WARM_UPS = 3
SHORT_MS = 5.0  # steps shorter than that are timed in runs
AIM = 1.05

PLANS = {
    "head, kept features": TrainingPlan(paused=False, reach=0.0, keep_features=True),
    "scale, bias, head": TrainingPlan(paused=False),
    "everything": TrainingPlan(paused=False, fraction=1.0),
}
TASK = TaskSpec(name="bench", labels=tuple(map(str, range(CLASSES))), resolutions=(128,))
SPEC = TrainSpec(task="bench", kinds=(PatchKind.SCALE_BIAS, PatchKind.HEAD), epochs=1000, batch_size=BATCH)

Step = Callable[[int], object]


def images(side: int) -> Part:
    """Random bytes and classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, side, side, 3), dtype=torch.uint8, generator=generator)
    return Part(pixels, torch.randint(0, CLASSES, (IMAGES,), generator=generator))


def own_step(base: Base, part: Part, plan: TrainingPlan, folder: Path) -> Step:
    """patchd's trainer."""
    inputs = PartInputs(part, TASK.preprocessing, base.memory_format)
    rung = RungTraining(base, TASK, SPEC, inputs, {}, FeatureStore(folder))
    rung.follow(plan)
    if plan.keep_features:
        rung.compute_features(TRAIN, inputs, lambda: False)
    return rung.step


def plain_step(base: Base, part: Part, plan: TrainingPlan) -> Step:
    """The same by hand: nothing that could stop, resume, be checked or be told of."""
    network, pre = base.network, Preprocessing()
    head = nn.Linear(1280, CLASSES)
    network.classifier = head
    norms = [p for m in network.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    train = {
        "head, kept features": [*head.parameters()],
        "scale, bias, head": [*norms, *head.parameters()],
        "everything": [*network.parameters()],
    }[next(name for name, known in PLANS.items() if known == plan)]
    for parameter in train:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(train, lr=1e-4)

    def normalised(batch: Tensor) -> Tensor:
        return ((batch.float() - pre.mean) / pre.scale).permute(0, 3, 1, 2)

    features = None
    if plan.keep_features:
        with torch.no_grad():
            features = torch.cat([network.features(normalised(batch)) for batch in torch.split(part.images, BATCH)])
    order = torch.arange(0)

    def step(number: int) -> None:
        nonlocal order
        index = number % (IMAGES // BATCH)
        if index == 0 or not len(order):
            order = torch.randperm(IMAGES)
        chosen = order[index * BATCH : (index + 1) * BATCH]
        logits = network(normalised(part.images[chosen])) if features is None else head(features[chosen])
        loss = nn.functional.cross_entropy(logits, part.classes[chosen])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        loss.item()

    return step


def turns(sides: dict[str, Step], seconds: float) -> dict[str, list[float]]:
    """Milliseconds of a step of each side, turn and turn about, for so long."""
    numbers = dict.fromkeys(sides, 0)

    def timed(name: str, count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            sides[name](numbers[name])
            numbers[name] += 1
        return (time.perf_counter() - began) / count * 1e3

    for name in sides:
        timed(name, WARM_UPS)
    count = 1 if max(timed(name, 2) for name in sides) > SHORT_MS else 50
    taken: dict[str, list[float]] = {name: [] for name in sides}
    end = time.monotonic() + seconds
    while time.monotonic() < end or not all(taken.values()):
        for name in sides if len(taken["patchd"]) % 2 else reversed(sides):
            taken[name].append(timed(name, count))
    return taken


def child(seconds: float, side: int, threads: int) -> None:
    """One process: print the medians of every plan."""
    torch.set_num_threads(threads)
    part, found = images(side), {}
    for name, plan in PLANS.items():
        with tempfile.TemporaryDirectory() as folder:
            own, plain = (
                own_step(load_base("lite0"), part, plan, Path(folder)),
                plain_step(load_base("lite0"), part, plan),
            )
            taken = turns({"patchd": own, "plain": plain}, seconds)
        ratios = [mine / theirs for mine, theirs in zip(taken["patchd"], taken["plain"], strict=True)]
        found[name] = {
            "patchd_ms": statistics.median(taken["patchd"]),
            "plain_ms": statistics.median(taken["plain"]),
            "ratio": statistics.median(ratios),
            "turns": len(ratios),
        }
    print(json.dumps(found))


def measured(tuned: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a process says with or without the allocator settings that patchd starts its workers with."""
    command = [sys.executable, __file__, "--child", "--seconds", str(arguments.seconds), "--side", str(arguments.side)]
    command += ["--threads", str(arguments.threads)]
    environ = {key: value for key, value in os.environ.items() if key not in ALLOCATOR}
    done = subprocess.run(
        command, env=environ | (ALLOCATOR if tuned else {}), check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=30.0, help="for each plan and setting [default: 30]")
    made.add_argument("--side", type=int, default=128, help="pixels [default: 128]")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="[default: all]")
    made.add_argument("--quick", action="store_true", help="2 seconds each at 64 px: whether it works")
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.side = 2.0, 64
    if arguments.child:
        child(arguments.seconds, arguments.side, arguments.threads)
        return
    result = {"on" if tuned else "off": measured(tuned, arguments) for tuned in (True, False)}
    rows = [
        (setting, name, found["patchd_ms"], found["plain_ms"], found["ratio"], found["turns"])
        for setting, plans in result.items()
        for name, found in plans.items()
    ]
    print_table(("allocator settings", "plan", "patchd ms", "by hand ms", "ratio", "turns"), rows)
    worst = max(found["ratio"] for found in result["on"].values())
    print(f"\nbatch {BATCH} at {arguments.side} px, {arguments.threads} threads; worst ratio {worst:.3f}, aim {AIM}")
    finish("training_steps", {"side": arguments.side, "threads": arguments.threads, "cases": result}, arguments.output)


if __name__ == "__main__":
    main()
