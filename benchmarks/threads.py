"""What other work on the processors costs a prediction, with a fixed number of threads and with patchd's own choice.

The same network at 224 px, batch 1, beside 0, 1 and as many programs as there are processors that do nothing but
compute. The peers are processes of torch's own with one thread and with one a processor; patchd's figures are its
worker's network times, with either engine. Each has the machine for itself but for the computing programs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from common import RunningDaemon, end, finish, parser, print_table, running_daemon, sample_photograph, spread
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import load_base
from patchd.models.engine import TorchEngine

SIDE = 224
WARM_UPS = 10
REST_S = 3.0  # three samples of the monitor


@contextmanager
def computing(programs: int) -> Iterator[None]:
    """Beside this many programs that only compute."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        time.sleep(REST_S)
        yield
    finally:
        for process in started:
            end(process)


def fixed(threads: int, repeats: int) -> list[float]:
    """Milliseconds of each run in a process of its own with `threads` threads."""
    command = [sys.executable, __file__, "--child", str(threads), "--repeats", str(repeats)]
    environ = {**os.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environ, check=True, capture_output=True, text=True)
    return [float(value) for value in json.loads(done.stdout)]


def child(threads: int, repeats: int) -> None:
    """The peer: print the milliseconds of each run."""
    engine, inputs = TorchEngine(load_base("lite0"), threads), torch.zeros(1, 3, SIDE, SIDE)
    runs = [engine.run(inputs).network_ms for _ in range(WARM_UPS + repeats)]
    print(json.dumps(runs[WARM_UPS:]))


@contextmanager
def daemon_with(engine: str) -> Iterator[RunningDaemon]:
    """A daemon whose worker runs `engine`, started and calibrated while nothing else computes."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.toml"
        config.write_text(f'policy = "performance"\nengine = "{engine}"\n')
        with running_daemon("--config", str(config)) as daemon:
            daemon.client.infer("imagenet", sample_photograph().read_bytes())
            yield daemon


def asked(daemon: RunningDaemon, tensor: bytes, repeats: int) -> list[float]:
    """Milliseconds of the network in the daemon's worker, request after request."""
    runs = [
        daemon.client.infer_tensor("imagenet", tensor, (3, SIDE, SIDE), "FP32", resolution=SIDE)
        for _ in range(WARM_UPS + repeats)
    ]
    return [run.timing.network_ms for run in runs[WARM_UPS:]]


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=100, help="predictions of each kind [default: 100]")
    made.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = made.parse_args()
    if arguments.child:
        child(arguments.child, arguments.repeats)
        return
    processors = len(os.sched_getaffinity(0))
    tensor = torch.zeros(3, SIDE, SIDE).numpy().tobytes()
    rows, result = [], []
    with daemon_with("torch") as by_torch, daemon_with("openvino") as by_openvino:
        sides: dict[str, Callable[[], list[float]]] = {
            "torch, 1 thread": lambda: fixed(1, arguments.repeats),
            f"torch, {processors} threads": lambda: fixed(processors, arguments.repeats),
            "patchd, torch": lambda: asked(by_torch, tensor, arguments.repeats),
            "patchd, openvino": lambda: asked(by_openvino, tensor, arguments.repeats),
        }
        for programs in sorted({0, 1, processors}):
            with computing(programs):
                for name, measure in sides.items():
                    time.sleep(REST_S)
                    found = spread(measure())
                    rows.append((programs, name, found["median"], found["p75"], found["p99"]))
                    result.append({"programs": programs, "side": name, "network_ms": found})
    print_table(("computing programs", "side", "median ms", "p75 ms", "p99 ms"), rows)
    print(f"\n{arguments.repeats} runs each, {processors} processors, {SIDE} px, batch 1")
    finish("threads", {"processors": processors, "cases": result}, arguments.output)


if __name__ == "__main__":
    main()
