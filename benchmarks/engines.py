"""patchd's engines against OpenVINO's own runtime on a model folded for one patch.

The same scale-and-bias patch with its head, float32, all processors, at 224, 160 and 96 px, batch 1 and 8. The folded
model can run one patch only; patchd's graph takes the patch as an input. The sides take turns in blocks with a rest
between them. Aims: at most 1.10 of the folded model, at least 3 times as fast as eager torch.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
import torch
from common import finish, parser, print_table, spread
from openvino import opset15 as ops
from patchd.daemon.worker_process import ALLOCATOR
from patchd.models.bases import Base, load_base
from patchd.models.engine import Engine, TorchEngine
from patchd.models.openvino_engine import OpenVinoEngine
from patchd.models.openvino_graph import affine_row, filters, graph
from patchd.models.patches import Patch, make_kinds, owners
from patchd.models.patches.shapes import tensor_of
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing

SIDES, BATCHES = (224, 160, 96), (1, 8)
BLOCKS, WARM_UPS, REST_S = 4, 5, 0.3
CLASSES = 10
KINDS = (PatchKind.SCALE_BIAS, PatchKind.HEAD)


def made_up_patch(base: Base) -> Patch:
    """The base's own scales and biases, each a little moved, and a head of ten classes."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name in owners(make_kinds(KINDS, {}), base.network):
        own = tensor_of(base.network, name)
        shape = (CLASSES, *own.shape[1:]) if name.startswith("classifier") else own.shape
        noise = torch.randn(shape, generator=generator)
        tensors[name] = noise * 0.1 if name.startswith("classifier") else own * (1 + 0.02 * noise)
    metadata = PatchMetadata(
        base=base.name,
        base_hash=base.hash,
        task="benchmark",
        labels=tuple(map(str, range(CLASSES))),
        kinds=KINDS,
        resolution=224,
        preprocessing=Preprocessing(),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        base_parameters=base.parameters_count,
        created_s=0.0,
    )
    return Patch(metadata, tensors)


def folded(base: Base, patch: Patch, side: int, batch: int, threads: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The peer: base and patch as one OpenVINO model of constants, classifier included."""
    shared = filters(base.network)
    model = graph(base.network, shared, side, batch, affine_row(base.network, patch.tensors))
    features = model.get_results()[0].input_value(0)
    weight, bias = (patch.tensors[f"classifier.{leaf}"].numpy() for leaf in ("weight", "bias"))
    logits = ops.add(ops.matmul(features, ops.constant(weight), False, True), ops.constant(bias))
    whole = openvino.Model([logits], model.get_parameters(), "folded")
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = openvino.Core().compile_model(whole, "CPU", options).create_infer_request()

    def run(inputs: torch.Tensor) -> torch.Tensor:
        assert shared  # lives as long as this function
        return torch.from_numpy(request.infer([inputs.contiguous().numpy()], share_inputs=True)[0])

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


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--repeats", type=int, default=100, help="runs of each kind [default: 100]")
    arguments = made.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    threads = len(os.sched_getaffinity(0))
    base, eager = load_base("lite0"), load_base("lite0")
    patch = made_up_patch(base)
    fast: Engine = OpenVinoEngine(base, threads)
    rows, result = [], []
    for side in SIDES:
        for batch in BATCHES:
            inputs = torch.from_numpy(np.random.default_rng(0).standard_normal((batch, 3, side, side), np.float32))
            peer, reference = folded(base, patch, side, batch, threads), TorchEngine(eager, threads)
            expected = reference.run(inputs, patch).logits
            for logits in (fast.run(inputs, patch).logits, fast.run(inputs, patch).logits, peer(inputs)):
                if not torch.allclose(logits, expected, atol=1e-3 * max(1.0, float(expected.abs().max()))):
                    raise RuntimeError(f"the engines disagree at {side} px")
            calls: dict[str, Callable[[], object]] = {
                "folded": lambda peer=peer, x=inputs: peer(x),  # type: ignore[misc]
                "patchd": lambda x=inputs: fast.run(x, patch),  # type: ignore[misc]
            }
            found = measure(calls, arguments.repeats)
            torch.set_num_threads(threads)
            found |= measure({"eager": lambda r=reference, x=inputs: r.run(x, patch)}, arguments.repeats)  # type: ignore[misc]
            torch.set_num_threads(1)
            times = {name: spread(values) for name, values in found.items()}
            ours = times["patchd"]["median"]
            ratio, gain = ours / times["folded"]["median"], times["eager"]["median"] / ours
            rows.append(
                (f"{side} px", batch, *(times[name]["median"] for name in ("folded", "patchd", "eager")), ratio, gain)
            )
            result.append({"side": side, "batch": batch, "ms": times, "to_folded": ratio, "eager_to_ours": gain})
    header = ("side", "batch", "folded ms", "patchd ms", "eager torch ms", "patchd / folded", "eager / patchd")
    print_table(header, rows)
    print(f"\nmedians of {arguments.repeats}, {threads} threads, float32")
    finish("engines", {"threads": threads, "cases": result}, arguments.output)


if __name__ == "__main__":
    main()
