"""Whether training costs what its allocation says, and what an allocation buys.

One daemon measures what training costs and then runs one job under each allocation, as it always does: planned,
corrected by each slice, in its low-priority worker. The peer in the same run is full fine-tuning: the same job in the
trainer alone, everything unfrozen at the full resolution. Compared are processor seconds of whole jobs for each image
seen: decoding, computing features, steps and evaluations, all of it. `--beside` does both while another process keeps
a core busy. Aims: a share of at most 1.10 of the allocation, and in the median at least 0.85 of it above 0.15.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, mode
from typing import Any

from common import RunningDaemon, end, finish, parser, print_table, running_daemon
from patchd.daemon.api.schemas import JobView, TaskCreate, TrainingProfileRun
from patchd.daemon.worker_process import ALLOCATOR
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import Evaluation, PatchKind, TrainSpec
from patchd.policies.training_words import plan_in_words

ALLOCATIONS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
QUICK = (0.1, 0.35, 1.0)
MOST, LEAST, LEAST_ABOVE = 1.10, 0.85, 0.15  # the aims
TASK = "budget"
POLL_S = 0.5
SLICE_S = 8.0  # short, so that corrections come several times in a job of a minute
POLICY = """
[policy]
name = "budget"
[training]
allocation = {allocation}
max_fraction = 1.0
raise_after_s = 0
slice_s = {slice_s}
"""
BUSY = "while True: pass"


@dataclass(frozen=True)
class Row:
    """One job: what it was allowed, what it took, and how good its patch is on images that it has not seen."""

    allocation: float
    plan: str
    predicted: float
    cpu_ms_per_image: float | None
    wall_s: float
    accuracy: Evaluation | None
    step_ms: tuple[float, float] | None = None  # predicted, measured
    memory_bytes: tuple[int, int] | None = None
    threads: int | None = None  # of the steps: fewer than usable cores while other work keeps some of them


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--data", default="sklearn:digits", help="a data set, as of a task [default: sklearn:digits]")
    made.add_argument("--resolution", type=int, default=128, help="pixels [default: 128]")
    made.add_argument("--epochs", type=int, default=12, help="passes over the training images [default: 12]")
    made.add_argument("--max-samples", type=int, default=640, help="training images at most [default: 640]")
    made.add_argument("--threads", type=int, help="of a step [default: usable cores]")
    made.add_argument("--beside", action="store_true", help="while another process keeps a core busy")
    made.add_argument("--quick", action="store_true", help="three allocations, few images")
    made.add_argument("--reference", metavar="SPEC", help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.reference:
        reference_here(json.loads(arguments.reference))
        return
    quick = {"epochs": 3, "max_samples": 64, "resolution": 64} if arguments.quick else {}
    for name, value in quick.items():
        setattr(arguments, name, value)
    spec = TrainSpec(
        task=TASK,
        base="lite0",
        kinds=(PatchKind.SCALE_BIAS, PatchKind.HEAD),
        resolutions=(arguments.resolution,),
        epochs=arguments.epochs,
        max_samples=arguments.max_samples,
    )
    threads = arguments.threads or len(os.sched_getaffinity(0))
    with beside(arguments.beside), tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.toml")
        config.write_text(f"threads = {threads}\n")
        with running_daemon("--config", str(config)) as daemon:
            labels = prepare(daemon, arguments.data, arguments.resolution)
            rows = [job(daemon, spec, allocation, Path(folder)) for allocation in chosen(arguments.quick)]
        full = reference(spec, arguments.data, labels, mode(one.threads for one in rows if one.threads))
    report(rows, full, arguments)


def chosen(quick: bool) -> tuple[float, ...]:
    """The allocations to run."""
    return QUICK if quick else ALLOCATIONS


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    """Another process on one core, where asked for."""
    process = subprocess.Popen([sys.executable, "-c", BUSY]) if busy else None
    try:
        yield
    finally:
        if process is not None:
            end(process)


def prepare(daemon: RunningDaemon, data: str, resolution: int) -> tuple[str, ...]:
    """The task, and the costs of training measured; the task's labels."""
    place = data if data.startswith("sklearn:") else str(Path(data).resolve())
    view = daemon.client.add_task(TaskCreate(name=TASK, data=place, resolutions=(resolution,)))
    began = time.monotonic()
    daemon.client.run_training_profile(TrainingProfileRun(base="lite0", resolutions=(resolution,)))
    print(f"measured what training costs in {time.monotonic() - began:.0f} s")
    return view.spec.labels


def job(daemon: RunningDaemon, spec: TrainSpec, allocation: float, folder: Path) -> Row:
    """Train under an allocation and wait for the end."""
    policy = folder / f"policy-{allocation}.toml"
    policy.write_text(POLICY.format(allocation=allocation, slice_s=SLICE_S))
    daemon.client.use_policy(path=policy)
    submitted = daemon.client.submit(spec)
    began = time.monotonic()
    while (view := daemon.client.job(submitted.id)).state.value in ("queued", "running"):
        if view.plan is not None and view.plan.plan.paused and view.progress.step == 0:
            text = view.plan.text
            daemon.client.change_job(view.id, "cancel")
            return Row(allocation, text, 0.0, None, 0.0, None)
        time.sleep(POLL_S)
    if view.state.value != "done":
        raise RuntimeError(f"the job under {allocation} ended as {view.state.value}: {view.error}")
    return row(view, allocation, time.monotonic() - began)


def row(view: JobView, allocation: float, wall_s: float) -> Row:
    """What a finished job took."""
    ran = view.plans_run[-1] if view.plans_run else None
    images = sum(report.samples for report in view.plans_run)
    step = None if ran is None or ran.predicted_step_ms is None else (ran.predicted_step_ms, ran.measured_step_ms)
    memory = None
    if ran is not None and ran.predicted_bytes is not None and ran.measured_bytes is not None:
        memory = ran.predicted_bytes, ran.measured_bytes
    return Row(
        allocation,
        "; ".join(plan_in_words(report.plan) for report in view.plans_run),
        0.0 if ran is None else ran.plan.cost,
        view.cpu_seconds / max(1, images) * 1e3,
        wall_s,
        view.results[0].test or view.results[0].validation,
        step,
        memory,
        None if ran is None else ran.threads,
    )


def reference(spec: TrainSpec, data: str, labels: tuple[str, ...], threads: int) -> dict[str, Any]:
    """Full fine-tuning by the trainer alone, in a process with a worker's allocator, priority and threads."""
    place = data if data.startswith("sklearn:") else str(Path(data).resolve())
    asked = {"spec": spec.model_dump(mode="json"), "data": place, "labels": labels, "threads": threads}
    environ = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--reference", json.dumps(asked)]
    answer = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return result


def reference_here(asked: dict[str, Any]) -> None:
    """Train everything in this process and print what it took."""
    import torch
    from patchd.models.bases import load_base
    from patchd.models.training import Trainer
    from patchd.policies.task import TaskSpec

    os.nice(19)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    torch.set_num_threads(asked["threads"])
    spec = TrainSpec.model_validate(asked["spec"])
    task = TaskSpec(name=TASK, labels=tuple(asked["labels"]), resolutions=spec.resolutions, data=asked["data"])
    plan = TrainingPlan(paused=False, reach=1.0, fraction=1.0)
    with tempfile.TemporaryDirectory() as folder:
        patches = Path(folder, "patches")
        patches.mkdir()
        trainer = Trainer(load_base("lite0"), task, spec, "full", Path(folder), patches)
        wall, cpu = time.monotonic(), time.process_time()
        finished = list(trainer.run_slice(plan, 3600.0, lambda: False, lambda _: None))
        cpu_s = time.process_time() - cpu
    images = sum(use.samples for use in trainer.take_uses())
    score = finished[0].result.test or finished[0].result.validation
    taken = {"cpu_ms_per_image": cpu_s / images * 1e3, "wall_s": time.monotonic() - wall, "threads": asked["threads"]}
    print(json.dumps({**taken, "accuracy": score.model_dump()}))


def report(rows: list[Row], full: dict[str, Any], arguments: Any) -> None:
    """The table, and how the aims fared."""
    whole = full["cpu_ms_per_image"]
    shares = [None if one.cpu_ms_per_image is None else one.cpu_ms_per_image / whole for one in rows]
    print_table(
        ("allocation", "predicted", "measured", "of it", "accuracy", "wall s", "plans"),
        [
            (
                f"{one.allocation:.2f}",
                f"{one.predicted:.3f}",
                "pauses" if share is None else f"{share:.3f}",
                "" if share is None else f"{share / one.allocation:.2f}",
                told(one.accuracy),
                f"{one.wall_s:.0f}",
                one.plan,
            )
            for one, share in zip(rows, shares, strict=True)
        ],
    )
    score = told(Evaluation.model_validate(full["accuracy"]))
    print(f"full fine-tuning: {whole:.2f} ms of processor time an image with {full['threads']} threads, {score}")
    ran = [
        (one.allocation, share / one.allocation) for one, share in zip(rows, shares, strict=True) if share is not None
    ]
    above = [of for allocation, of in ran if allocation > LEAST_ABOVE]
    most, middle = max(of for _, of in ran), median(above)
    print(
        f"most of an allocation {most:.2f} (aim at most {MOST}), "
        f"median above {LEAST_ABOVE} {middle:.2f} (aim at least {LEAST})"
    )
    result = {
        "full": full,
        "rows": [
            {**asdict(one), "accuracy": None if one.accuracy is None else one.accuracy.model_dump(), "share": share}
            for one, share in zip(rows, shares, strict=True)
        ],
        "most_of_allocation": most,
        "median_of_allocation": middle,
        "beside": arguments.beside,
        "data": arguments.data,
        "resolution": arguments.resolution,
        "epochs": arguments.epochs,
        "max_samples": arguments.max_samples,
    }
    finish("budget", result, arguments.output)


def told(score: Evaluation | None) -> str:
    """An accuracy with its 95 % interval, percent."""
    if score is None:
        return ""
    return f"{score.accuracy * 100:.1f} [{score.low * 100:.1f}-{score.high * 100:.1f}] n={score.samples}"


if __name__ == "__main__":
    main()
