"""patchd's engine against the runtimes that people would use without it, and batches of one task against mixed ones.

The same scale-and-bias patch with its head, float32, all processors, at 224, 160 and 96 px, batch 1 and 8: OpenVINO on
a model folded for that one patch, ONNX Runtime, eager torch and torch.compile. patchd's graph takes the patch as an
input. For a batch OpenVINO's model is compiled both ways, whole and one image a stream, and the faster one counts. The
sides take turns in blocks with a rest between them. Aims: at most 1.10 of OpenVINO's folded model, at least 3 times as
fast as eager torch; 8 images of 8 tasks at 0.95 or more of the throughput of 8 of one; switching a patch in 50 us.
"""

from __future__ import annotations

import copy
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch
from common import finish, parser, print_table, spread
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import Base, load_base
from patchd.models.engine import Engine, TorchEngine
from patchd.models.openvino_engine import OpenVinoEngine
from patchd.models.openvino_graph import Arrays
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import Patch
from subjects import folded_model, made_up_patch
from torch import Tensor, nn

SIDES, BATCHES = (224, 160, 96), (1, 8)
BLOCKS, WARM_UPS, REST_S = 10, 3, 0.2
SWITCHES = 2000

Run = Callable[[Tensor], Tensor]


def folded(base: Base, patch: Patch, side: int, batch: int, threads: int) -> dict[str, Run]:
    """OpenVINO's own: base and patch as one model of constants, head included; for a batch also one image a stream."""
    arrays: Arrays = {}
    whole = folded_model(base, patch, side, arrays)
    options: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    core, kept = openvino.Core(), arrays  # the filters are not copied: they live as long as these functions
    streams = core.compile_model(whole, "CPU", {**options, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads})
    whole.reshape([batch, 3, side, side])
    request = core.compile_model(whole, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"}).create_infer_request()

    def run(inputs: Tensor) -> Tensor:
        assert kept
        return torch.from_numpy(request.infer([inputs.contiguous().numpy()], share_inputs=True)[0])

    queue = openvino.AsyncInferQueue(streams, threads)
    answers: dict[int, Tensor] = {}
    queue.set_callback(
        lambda done, place: answers.__setitem__(place, torch.from_numpy(done.get_output_tensor(0).data.copy()))
    )

    def run_streams(inputs: Tensor) -> Tensor:
        assert kept
        images = inputs.contiguous().numpy()
        for place in range(len(images)):
            queue.start_async([images[place : place + 1]], place, share_inputs=True)
        queue.wait_all()
        return torch.cat([answers[place] for place in range(len(images))])

    return {"folded": run} if batch == 1 else {"folded": run, "folded, streams": run_streams}


def stand_alone(base: Base, patch: Patch) -> nn.Module:
    """A copy of the network with the patch written into it."""
    patched = PatchedNetwork(base)
    with patched.patched(patch) as network:
        return copy.deepcopy(network).eval()


def onnx_runtime(network: nn.Module, example: Tensor, threads: int) -> Run:
    """ONNX Runtime on the exported network, with its own graph optimisations."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        with warnings.catch_warnings(action="ignore"):
            torch.onnx.export(network, (example.contiguous(),), file, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def run(inputs: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: inputs.contiguous().numpy()})[0])

    return run


def compiled(network: nn.Module) -> Run:
    """torch.compile in channels_last, for the one shape that it is called with."""
    torch._dynamo.reset()
    fast = torch.compile(network, dynamic=False)

    def run(inputs: Tensor) -> Tensor:
        with torch.inference_mode():
            answer: Tensor = fast(inputs.contiguous(memory_format=torch.channels_last))
        return answer

    return run


def measure(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call, in blocks."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(BLOCKS):
        for name, call in sides.items():
            time.sleep(REST_S)
            for turn in range(WARM_UPS + repeats // BLOCKS):
                start = time.perf_counter()
                call()
                if turn >= WARM_UPS:
                    found[name].append((time.perf_counter() - start) * 1e3)
    return found


def against_peers(base: Base, threads: int, repeats: int) -> list[dict[str, Any]]:
    """One entry a resolution and batch size: each runtime's milliseconds and the two ratios."""
    patch, eager = made_up_patch(base, 0), TorchEngine(load_base(base.name), threads)
    fast: Engine = OpenVinoEngine(base, threads)
    network = stand_alone(base, patch)
    cases = []
    for side in SIDES:
        for batch in BATCHES:
            inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 3, side, side), np.float32))
            runs: dict[str, Run] = {
                "patchd": lambda x: fast.run(x, patch).logits,
                **folded(base, patch, side, batch, threads),
                "ONNX Runtime": onnx_runtime(network, inputs, threads),
            }
            by_eager: dict[str, Run] = {
                "eager": lambda x: eager.run(x, patch).logits,
                "torch.compile": compiled(network),
            }
            torch.set_num_threads(threads)
            expected = eager.run(inputs, patch).logits
            for name, run in {**runs, **by_eager}.items():
                if not torch.allclose(run(inputs), expected, atol=1e-3 * max(1.0, float(expected.abs().max()))):
                    raise RuntimeError(f"{name} disagrees at {side} px")
            torch.set_num_threads(1)  # torch's threads keep turning for a while after a run, in the others' way
            found = measure({name: lambda run=run, x=inputs: run(x) for name, run in runs.items()}, repeats)  # type: ignore[misc]
            torch.set_num_threads(threads)
            found |= measure({name: lambda run=run, x=inputs: run(x) for name, run in by_eager.items()}, repeats)  # type: ignore[misc]
            times = {name: spread(values) for name, values in found.items()}
            ours = times["patchd"]["median"]
            best = min(times[name]["median"] for name in times if name.startswith("folded"))
            cases.append(
                {
                    "side": side,
                    "batch": batch,
                    "ms": times,
                    "to_folded": ours / best,
                    "eager_to_ours": times["eager"]["median"] / ours,
                }
            )
            print(f"{side} px, batch {batch} is done", file=sys.stderr)
    return cases


def mixed(base: Base, threads: int, repeats: int) -> list[dict[str, Any]]:
    """Eight images of eight tasks in one batch, against eight of one task and against eight calls."""
    engine = OpenVinoEngine(base, threads)
    patches = [made_up_patch(base, seed) for seed in range(8)]
    cases = []
    for side in SIDES:
        inputs = torch.from_numpy(np.random.default_rng(1).standard_normal((8, 3, side, side), np.float32))
        calls: dict[str, Callable[[], object]] = {
            "8 tasks": lambda x=inputs: engine.run_mixed(x, patches),  # type: ignore[misc]
            "1 task": lambda x=inputs: engine.run_mixed(x, patches[:1] * 8),  # type: ignore[misc]
            "8 calls": lambda x=inputs: [engine.run(x[i : i + 1], patches[i]) for i in range(8)],  # type: ignore[misc]
        }
        times = {name: spread(values) for name, values in measure(calls, repeats).items()}
        medians = {name: times[name]["median"] for name in times}
        cases.append(
            {
                "side": side,
                "ms": times,
                "throughput_to_one_task": medians["1 task"] / medians["8 tasks"],
                "throughput_to_calls": medians["8 calls"] / medians["8 tasks"],
            }
        )
    return cases


def switching(base: Base) -> dict[str, float]:
    """Microseconds to have another patch in force: finding its row (openvino), and binding its tensors (torch)."""
    engine, bound = OpenVinoEngine(base, 1), PatchedNetwork(load_base(base.name))
    patches = [made_up_patch(base, seed) for seed in range(2)]
    for patch in patches:
        engine.prepare(patch)
        bound.apply(patch)
    row, tensors = [], []
    for turn in range(SWITCHES):
        patch = patches[turn % 2]
        start = time.perf_counter()
        engine.prepare(patch)
        middle = time.perf_counter()
        bound.apply(patch)
        tensors.append(time.perf_counter() - middle)
        row.append(middle - start)
    return {"openvino_us": statistics.median(row) * 1e6, "torch_us": statistics.median(tensors) * 1e6}


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=100, help="runs of each kind [default: 100]")
    arguments = made.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    threads, base = len(os.sched_getaffinity(0)), load_base("lite0")
    peers = against_peers(base, threads, arguments.repeats)
    names = ("patchd", "folded", "folded, streams", "ONNX Runtime", "torch.compile", "eager")
    print_table(
        ("side", "batch", *(f"{name} ms" for name in names), "patchd / best folded", "eager / patchd"),
        [
            (
                f"{case['side']} px",
                case["batch"],
                *(case["ms"][name]["median"] if name in case["ms"] else "-" for name in names),
                case["to_folded"],
                case["eager_to_ours"],
            )
            for case in peers
        ],
    )
    batches = mixed(base, threads, arguments.repeats)
    print()
    print_table(
        ("side", "8 of 8 tasks ms", "8 of 1 task ms", "8 calls ms", "throughput, 8 tasks / 1 task", "/ 8 calls"),
        [
            (
                f"{case['side']} px",
                *(case["ms"][name]["median"] for name in ("8 tasks", "1 task", "8 calls")),
                case["throughput_to_one_task"],
                case["throughput_to_calls"],
            )
            for case in batches
        ],
    )
    switch = switching(base)
    print(f"\nswitching a patch: {switch['openvino_us']:.1f} us (openvino), {switch['torch_us']:.1f} us (torch)")
    print(f"medians of {arguments.repeats}, {threads} threads, float32")
    finish("engines", {"threads": threads, "peers": peers, "batches": batches, "switch": switch}, arguments.output)


if __name__ == "__main__":
    main()
