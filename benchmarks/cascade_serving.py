"""The same stream of images with and without a cascade, through the socket, at 1 and 16 clients.

The built-in task is calibrated through the API on half of the images, which are labelled; the other half is streamed as
JPEG: through the cascade, with `cascade=false`, and to the reference alone. The three take turns, block by block, so
that other work on the machine meets all of them. The policy neither shortens cascades nor audits.

    benchmarks/cascade_serving.py --data imagenet_sample/test --index imagenet_sample/imagenet_index.tsv
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import RunningDaemon, finish, parser, print_table, quantile, running_daemon
from load import Server, once, post, stream
from patchd.daemon.api.schemas import CalibrateCreate, CascadeState
from patchd.policies.cascade import CalibrationImage
from top1 import index_of_classes, items

TASK = "imagenet"
CLIENTS = (1, 16)
WARM_UPS = 10
ASK_EVERY_S = 1.0
POLICY = """\
[policy]
name = "steady"
description = "The same allocations whatever the device does, cascades as a whole, no audits."

[inference]
allocation = 1.0

[training]
allocation = 0.0

[cascade]
shorten = false
audit_share = 0.0
"""

Image = tuple[Path, int]  # a JPEG file and its class


def calibrate(daemon: RunningDaemon, images: Sequence[Image], create: CalibrateCreate) -> CascadeState:
    """Make the cascade. Raises SystemExit, with the reason, unless it is in force."""
    given = tuple(CalibrationImage(file=str(file.resolve()), label=label) for file, label in images)
    daemon.client.calibrate(TASK, create.model_copy(update={"images": given}))
    while (view := daemon.client.cascade(TASK)).calibration is None or view.calibration.state == "running":
        time.sleep(ASK_EVERY_S)
    if view.calibration.error is not None or view.state is None:
        raise SystemExit(f"Calibrating failed: {view.calibration.error}")
    if not view.state.in_force:
        raise SystemExit(f"There is nothing to compare, the cascade is not in force: {view.state.reason}.")
    return view.state


def modes(state: CascadeState) -> dict[str, str]:
    """How each side is asked for: the query of its requests."""
    base, side = state.cascade.reference.base, state.cascade.reference.resolution
    return {
        "cascade": "",
        "cascade=false": "?cascade=false",
        "reference": f"?cascade=false&base={base}&resolution={side}",
    }


def measure(
    server: Server, images: Sequence[Image], queries: Mapping[str, str], clients: int, blocks: int
) -> dict[str, dict[str, Any]]:
    """All images through every mode, in turns."""
    taken: dict[str, list[tuple[float, bytes]]] = {mode: [] for mode in queries}
    rates: dict[str, list[float]] = {mode: [] for mode in queries}
    for block in range(blocks):
        part = images[block::blocks]
        for mode, query in queries.items():
            requests = [post(f"/v1/tasks/{TASK}/infer{query}", file.read_bytes(), "image/jpeg") for file, _ in part]
            answers, rate = stream(server, requests, clients)
            taken[mode] += answers
            rates[mode].append(rate)
    labels = [label for block in range(blocks) for _, label in images[block::blocks]]
    return {mode: summary(taken[mode], rates[mode], labels) for mode in queries}


def summary(answers: Sequence[tuple[float, bytes]], rates: Sequence[float], labels: Sequence[int]) -> dict[str, Any]:
    """Times, right answers, shares of stages, and what the answers themselves say that they cost.

    Images smaller than a rung's side go straight to a smaller rung and pass no cascade: shares need not add up to 1.
    """
    bodies = [json.loads(body) for _, body in answers]
    times = [taken for taken, _ in answers]
    stages = [body["cascade"]["stage"] for body in bodies if body.get("cascade")]
    right = [body["predictions"][0]["index"] == label for body, label in zip(bodies, labels, strict=True)]
    parts = ("decode_ms", "preprocess_ms", "bind_ms", "network_ms")
    return {
        "per_s": statistics.median(rates),
        "p50_ms": quantile(times, 0.5),
        "p99_ms": quantile(times, 0.99),
        "top1": float(np.mean(right)),
        "cost_ms": float(np.mean([sum(body["timing"][part] for part in parts) for body in bodies])),
        "shares": (np.bincount(stages) / len(bodies)).tolist() if stages else [],
        "n": len(answers),
    }


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, help="directory of CLASS/*.jpg")
    made.add_argument("--index", type=Path, required=True, help="tab-separated: folder name, ImageNet index")
    made.add_argument("--reference", default="lite2:260", metavar="BASE:SIDE", help="[default: lite2:260]")
    made.add_argument("--epsilon", type=float, default=0.02, help="what may be lost [default: 0.02]")
    made.add_argument("--delta", type=float, default=0.05, help="risk of the promise [default: 0.05]")
    made.add_argument("--blocks", type=int, default=5, help="turns of each mode [default: 5]")
    made.add_argument("--seed", type=int, default=0, help="of the halving [default: 0]")
    made.add_argument("--limit", type=int, help="stream at most so many images")
    arguments = made.parse_args()
    images = items(arguments.data, index_of_classes(arguments.index), None)
    order = np.random.default_rng(arguments.seed).permutation(len(images))
    chosen, streamed = ([images[i] for i in half] for half in np.array_split(order, 2))
    base, _, side = arguments.reference.partition(":")
    create = CalibrateCreate(reference=(base, int(side)), epsilon=arguments.epsilon, delta=arguments.delta)
    cases: list[dict[str, Any]] = []
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as policy:
        policy.write(POLICY)
        policy.flush()
        with running_daemon("--policy", policy.name) as daemon:
            server = Server(socket=daemon.socket)
            once(server, post(f"/v1/tasks/{TASK}/infer", chosen[0][0].read_bytes(), "image/jpeg"))
            state = calibrate(daemon, chosen, create)
            queries = modes(state)
            measure(server, chosen[:WARM_UPS], queries, 1, 1)
            for clients in CLIENTS:
                found = measure(server, streamed[: arguments.limit], queries, clients, arguments.blocks)
                cases.append({"clients": clients, "modes": found})
    cascade = state.cascade
    print(f"{state.reason}\n")
    for stage in cascade.stages:
        print(f"{stage.rung}, {stage.rule.kind}: answers {stage.share:.0%}, adds {stage.cost_ms:.1f} ms")
    print(f"expected {cascade.cost_ms:.1f} ms, the reference {cascade.reference_cost_ms:.1f} ms\n")
    print_table(
        ("clients", "asked", "images/s", "p50 ms", "p99 ms", "top-1 %", "mean cost ms", "by stage"),
        [
            (
                case["clients"], mode, row["per_s"], row["p50_ms"], row["p99_ms"], 100 * row["top1"], row["cost_ms"],
                ", ".join(f"{share:.0%}" for share in row["shares"]),
            )
            for case in cases
            for mode, row in case["modes"].items()
        ],
    )  # fmt: skip
    finish("cascade_serving", {"state": state.model_dump(mode="json"), "cases": cases}, arguments.output)


if __name__ == "__main__":
    main()
