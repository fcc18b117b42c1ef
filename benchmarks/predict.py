"""A prediction through the daemon's socket against the same network, engine and preprocessing in this process.

Batch 1, the same threads and allocator settings, in turns in one run: a JPEG photograph, raw RGB pixels, and a
finished network input, at 224 and 96 px. The figure is the ratio of the medians; the aim is at most 1.3 at 224 px.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from common import finish, parser, print_table, quantile, running_daemon, sample_photograph, spread
from patchd.client import Client
from patchd.daemon.api.schemas import InferAnswer
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import load_base
from patchd.models.engine import Engine, TorchEngine
from patchd.models.openvino_engine import OpenVinoEngine
from patchd.models.preprocessing import decode_image, needed_side, to_input
from patchd.policies.task import Preprocessing

RESOLUTIONS = (224, 96)
WARM_UPS = 10
BLOCKS = 4
REST_S = 2.2  # two samples of the monitor
TOP = 5


@dataclass(frozen=True)
class Case:
    """One form of input: how the daemon is asked, and how the library is called. Both return the best label's index."""

    name: str
    ask: Callable[[], InferAnswer]
    call: Callable[[], int]


def cases(client: Client, engine: Engine, resolution: int) -> list[Case]:
    """The three forms of input at one resolution."""
    pre = Preprocessing()
    jpeg = sample_photograph().read_bytes()
    image = decode_image(jpeg)
    pixels = np.asarray(image)
    tensor = to_input(image, resolution, pre).contiguous()
    raw_pixels, raw_tensor = pixels.tobytes(), tensor.numpy().tobytes()

    def best(inputs: Callable[[], object]) -> Callable[[], int]:
        def call() -> int:
            made = inputs()
            assert isinstance(made, type(tensor))
            return int(engine.predict(made.unsqueeze(0))[0].topk(TOP).indices[0])

        return call

    return [
        Case(
            "JPEG 640x427",
            lambda: client.infer("imagenet", jpeg, top_k=TOP, resolution=resolution),
            best(lambda: to_input(decode_image(jpeg, needed_side=needed_side(resolution, pre)), resolution, pre)),
        ),
        Case(
            "pixels 640x427",
            lambda: client.infer_tensor("imagenet", raw_pixels, pixels.shape, top_k=TOP, resolution=resolution),
            best(lambda: to_input(pixels, resolution, pre)),
        ),
        Case(
            "network input",
            lambda: client.infer_tensor(
                "imagenet", raw_tensor, (3, resolution, resolution), "FP32", top_k=TOP, resolution=resolution
            ),
            best(tensor.clone),
        ),
    ]


def measure(case: Case, repeats: int) -> dict[str, list[float]]:
    """Milliseconds through the socket, within the daemon, of its network alone, and in process.

    The sides take turns in blocks with a rest between them: the threads of either keep turning for a moment after each
    prediction, and the daemon gives its worker fewer threads while another program computes.
    """
    found: dict[str, list[float]] = {"socket": [], "daemon": [], "network": [], "process": []}
    for _ in range(BLOCKS):
        time.sleep(REST_S)
        answers = []
        for turn in range(WARM_UPS + repeats // BLOCKS):
            start = time.perf_counter()
            answer = case.ask()
            answers.append(answer.predictions[0].index)
            if turn >= WARM_UPS:
                found["socket"].append((time.perf_counter() - start) * 1e3)
                found["daemon"].append(answer.timing.total_ms)
                found["network"].append(answer.timing.network_ms)
        time.sleep(REST_S)
        for turn in range(WARM_UPS + repeats // BLOCKS):
            start = time.perf_counter()
            index = case.call()
            if turn >= WARM_UPS:
                found["process"].append((time.perf_counter() - start) * 1e3)
            if {index} != set(answers):
                raise RuntimeError(f"{case.name}: the daemon answers {answers[0]}, the library {index}")
    return found


def take_the_workers_allocator() -> None:
    """Start this program anew with the allocator settings that the daemon gives its workers: they are read at start."""
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=200, help="predictions of each kind [default: 200]")
    arguments = made.parse_args()
    take_the_workers_allocator()
    rows, result = [], []
    with running_daemon() as daemon:
        daemon.client.infer("imagenet", sample_photograph().read_bytes())  # starts the worker
        worker = next(w for w in daemon.client.status().workers if w.name == "inference")
        threads, base = worker.threads or 1, load_base("lite0")
        engine: Engine = TorchEngine(base, threads) if worker.engine == "torch" else OpenVinoEngine(base, threads)
        for resolution in RESOLUTIONS:
            for case in cases(daemon.client, engine, resolution):
                found = measure(case, arguments.repeats)
                medians = {name: quantile(times, 0.5) for name, times in found.items()}
                ratio = medians["socket"] / medians["process"]
                rows.append((f"{resolution} px", case.name, *medians.values(), ratio))
                times = {name: spread(values) for name, values in found.items()}
                result.append({"resolution": resolution, "input": case.name, "ms": times, "ratio": ratio})
    header = ("side", "input", "socket ms", "in daemon ms", "its network ms", "in process ms", "ratio")
    print_table(header, rows)
    setting = f"{worker.engine}, {threads} threads on either side"
    print(f"\nmedians of {arguments.repeats}, {setting}; ratio = socket / in process")
    finish("predict", {"engine": worker.engine, "threads": threads, "cases": result}, arguments.output)


if __name__ == "__main__":
    main()
