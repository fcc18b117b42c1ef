"""How much a training patchd slows other work: a fixed program beside it, with the policy on, with it off, and alone.

The program compresses and sorts a megabyte again and again, in one thread and then in two, and times each turn. It runs
alone; beside a patchd that trains under the preset `balanced`; and beside one whose policy lets it train always. The
three take turns within each round, so that whatever else the machine does falls on all of them. It starts when training
is under way: the seconds until the policy notices it are part of what is measured. Aim: at most 5 % slower with the
policy on.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from common import RunningDaemon, finish, parser, print_table, quantile, running_daemon
from patchd.daemon.api.schemas import TaskCreate
from patchd.policies.task import PatchKind, TrainSpec

TASK = "foreground"
AIM = 0.05
START_S = 90.0  # until training is under way
ALWAYS = """
[policy]
name = "always"
description = "Trains whatever else is done."
[training]
allocation = 1.0
max_fraction = 1.0
"""
PROGRAM = """
import json, sys, threading, time, zlib
import numpy as np
threads, seconds = int(sys.argv[1]), float(sys.argv[2])
generator = np.random.default_rng(0)
text = generator.integers(0, 16, 1 << 18, dtype=np.uint8).tobytes()
numbers = generator.random(1 << 17)
taken, begin = [[] for _ in range(threads)], threading.Barrier(threads)
def work(own):
    begin.wait()
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        zlib.compress(text, 6)
        np.sort(numbers)
        own.append(time.perf_counter() - began)
running = [threading.Thread(target=work, args=(own,)) for own in taken]
for each in running: each.start()
for each in running: each.join()
print(json.dumps([one for own in taken for one in own]))
"""


@dataclass(frozen=True)
class Run:
    """The program once: what its turns took, seconds, and what was trained meanwhile."""

    threads: int
    beside: str
    turns: tuple[float, ...]
    steps: int
    processor_s: float

    @property
    def mean(self) -> float:
        """Of all turns, seconds: what the whole work is slowed by."""
        return statistics.fmean(self.turns)


def foreground(threads: int, seconds: float) -> tuple[float, ...]:
    """Run the program; what each of its turns took, seconds."""
    command = [sys.executable, "-c", PROGRAM, str(threads), str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return tuple(json.loads(done.stdout))


def prepared(folder: Path) -> Path:
    """A state with a task and a job that would train for hours."""
    state = folder / "prepared"
    with daemon_on(state, folder, "balanced") as daemon:
        daemon.client.add_task(TaskCreate(name=TASK, data="sklearn:digits", resolutions=(96,)))
        spec = TrainSpec(task=TASK, kinds=(PatchKind.SCALE_BIAS, PatchKind.HEAD), epochs=1000)
        daemon.client.submit(spec)
    return state


@contextmanager
def daemon_on(state: Path, folder: Path, policy: str) -> Iterator[RunningDaemon]:
    """A daemon on a state that outlives it."""
    config = folder / "config.toml"
    config.write_text("measure_training_s = 0\n")  # the costs that ship with patchd do
    with running_daemon("--state", str(state), "--config", str(config), "--policy", policy) as daemon:
        yield daemon


def steps(daemon: RunningDaemon) -> int:
    """Optimiser steps of the job so far."""
    return daemon.client.jobs().jobs[0].progress.step


def wait_for_training(daemon: RunningDaemon) -> None:
    """Wait until steps are made. Raises RuntimeError where none is within a minute and a half."""
    first, deadline = steps(daemon), time.monotonic() + START_S
    while steps(daemon) < first + 2:
        if time.monotonic() > deadline:
            decided = daemon.client.status().decision
            why = "nothing is decided" if decided is None else decided.training.reasons[0].text
            raise RuntimeError(f"training did not begin within {START_S:.0f} s: {why}")
        time.sleep(0.3)


def trained_s(daemon: RunningDaemon) -> float:
    """Processor seconds of the training worker so far; 0 while none lives."""
    pid = next(worker.pid for worker in daemon.client.status().workers if worker.name == "training")
    if pid is None:
        return 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def once(threads: int, beside: str, state: Path, folder: Path, seconds: float) -> Run:
    """The program beside one of the three."""
    if beside == "nothing":
        return Run(threads, beside, foreground(threads, seconds), 0, 0.0)
    policy = "balanced"
    if beside == "always":
        policy = str(folder / "always.toml")
        Path(policy).write_text(ALWAYS)
    copy = folder / f"{beside}-{threads}"
    if not copy.exists():
        shutil.copytree(state, copy)
    with daemon_on(copy, folder, policy) as daemon:
        wait_for_training(daemon)
        before, used = steps(daemon), trained_s(daemon)
        turns = foreground(threads, seconds)
        return Run(threads, beside, turns, steps(daemon) - before, max(0.0, trained_s(daemon) - used))


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--rounds", type=int, default=2, help="[default: 2]")
    made.add_argument("--seconds", type=float, default=15.0, help="of each run of the program [default: 15]")
    made.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the program [default: 1 2]")
    arguments = made.parse_args()
    besides = ["nothing", "balanced", "always"]
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = prepared(folder)
        for turn in range(arguments.rounds):
            order = besides[turn % 3 :] + besides[: turn % 3]
            for threads in arguments.threads:
                runs += [once(threads, beside, state, folder, arguments.seconds) for beside in order]
    rows, result, worst = [], {}, 0.0
    for threads in arguments.threads:
        for beside in besides:
            own = [run for run in runs if (run.threads, run.beside) == (threads, beside)]
            slower = statistics.median(slowed(run, runs) for run in own)
            turns = [1e3 * one for run in own for one in run.turns]
            done, used = sum(run.steps for run in own), sum(run.processor_s for run in own)
            worst = max(worst, slower) if beside == "balanced" else worst
            rows.append((threads, beside, statistics.median(turns), quantile(turns, 0.99), 100 * slower, done, used))
            result[f"{threads} {beside}"] = {
                "slower": slower,
                "mean_ms": [1e3 * run.mean for run in own],
                "p99_ms": quantile(turns, 0.99),
                "training_steps": done,
                "training_processor_s": used,
            }
    header = ("threads", "beside", "median, ms", "p99, ms", "slower, %", "training steps", "training, processor s")
    print_table(header, rows)
    print(f"\nwith the policy on at most {100 * worst:.1f} % slower; the aim is {100 * AIM:.0f} %")
    finish("foreground", {"runs": result, "rounds": arguments.rounds}, arguments.output)


def slowed(run: Run, runs: list[Run]) -> float:
    """By what share a run took longer than that beside nothing of the same round."""
    place = [one for one in runs if (one.threads, one.beside) == (run.threads, run.beside)].index(run)
    alone = [one for one in runs if (one.threads, one.beside) == (run.threads, "nothing")][place]
    return run.mean / alone.mean - 1


if __name__ == "__main__":
    main()
