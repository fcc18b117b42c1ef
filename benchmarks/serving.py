"""Through the socket: 1 and 16 clients, JPEG and finished input, against LitServe serving the same OpenVINO model.

The peer has one folded model of the base; patchd serves the ImageNet task at the same resolution. Both run on all
processors of this machine, as does the load, and take turns; the peer is stopped while patchd is asked, for it keeps
the processors busy even when it is idle. Give an interpreter that has the peer:

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install litserve python-multipart openvino pillow numpy
    .venv/bin/python benchmarks/serving.py --peer-python /tmp/peer/bin/python
"""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openvino
from common import finish, parser, print_table, quantile, running_daemon, sample_photograph
from load import Server, load, multipart, once, post
from patchd.models.bases import load_base
from patchd.models.openvino_graph import Arrays
from patchd.models.preprocessing import decode_image, to_input
from patchd.policies.task import Preprocessing
from subjects import folded_model

CLIENTS, FORMS = (1, 16), ("jpeg", "tensor")
ROUNDS = 3
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Peer:
    """The peer and its process group."""

    server: Server
    group: int

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Stop it for the body: even idle, LitServe keeps the processors busy asking for work."""
        os.killpg(self.group, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.group, signal.SIGCONT)


@contextmanager
def running_peer(python: Path, model: Path, side: int, form: str) -> Iterator[Peer]:
    """LitServe on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = Path(__file__).with_name("litserve_peer.py")
    process = subprocess.Popen(
        [python, script, model, str(port), str(side), form],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it starts processes of its own and leaves them behind
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the peer did not start: does its interpreter have litserve?") from None
                time.sleep(0.2)
        yield Peer(Server(port=port), process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def first(answer: bytes) -> int:
    """The index that either server's answer puts first."""
    found = json.loads(answer)
    return int(found["indices"][0] if "indices" in found else found["predictions"][0]["index"])


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--peer-python", type=Path, required=True, help="an interpreter with litserve and openvino")
    made.add_argument("--side", type=int, default=224, help="resolution [default: 224]")
    made.add_argument("--seconds", type=float, default=6.0, help="length of one load [default: 6]")
    arguments = made.parse_args()
    side, base = arguments.side, load_base("lite0")
    jpeg = sample_photograph().read_bytes()
    tensor = to_input(decode_image(jpeg), side, Preprocessing()).contiguous().numpy().tobytes()
    paths = {
        "jpeg": (f"/v1/tasks/imagenet/infer?resolution={side}", jpeg, "image/jpeg"),
        "tensor": (
            f"/v1/tasks/imagenet/infer?shape=3,{side},{side}&datatype=FP32", tensor, "application/octet-stream",
        ),
    }  # fmt: skip
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, running_daemon("--policy", "performance") as daemon:
        model = Path(folder, "model.xml")
        arrays: Arrays = {}
        openvino.save_model(folded_model(base, None, side, arrays), model, compress_to_fp16=False)
        for form in FORMS:
            body, kind = multipart("content", jpeg if form == "jpeg" else tensor)
            with running_peer(arguments.peer_python, model, side, form) as peer:
                sides = {
                    "patchd": (Server(socket=daemon.socket), post(*paths[form])),
                    "LitServe": (peer.server, post("/predict", body, kind)),
                }
                labels = {name: first(once(server, request)) for name, (server, request) in sides.items()}
                if len(set(labels.values())) != 1:
                    raise RuntimeError(f"the servers disagree: {labels}")
                for clients in CLIENTS:
                    case: dict[str, Any] = {"form": form, "clients": clients}
                    rounds: dict[str, list[tuple[list[float], float]]] = {name: [] for name in sides}
                    for turn in range(ROUNDS + 1):
                        for name, (server, request) in sides.items():
                            with peer.asleep() if name == "patchd" else nullcontext():
                                found = load(server, request, clients, arguments.seconds / ROUNDS)
                            if turn:  # the first one warms up
                                rounds[name].append(found)
                    for name, runs in rounds.items():
                        taken = [each for times, _ in runs for each in times]
                        case[name] = {
                            "p50_ms": quantile(taken, 0.5),
                            "p99_ms": quantile(taken, 0.99),
                            "per_s": statistics.median(rate for _, rate in runs),
                            "n": len(taken),
                        }
                    case["throughput_ratio"] = case["patchd"]["per_s"] / case["LitServe"]["per_s"]
                    cases.append(case)
    keys = [(name, key) for name in ("patchd", "LitServe") for key in ("p50_ms", "p99_ms", "per_s")]
    print_table(
        ("input", "clients", *(f"{name} {key}" for name, key in keys), "throughput, patchd / LitServe"),
        [
            (case["form"], case["clients"], *(case[name][key] for name, key in keys), case["throughput_ratio"])
            for case in cases
        ],
    )
    print(f"\n{side} px, float32, medians of {ROUNDS} rounds; the load runs on the same processors")
    finish("serving", {"side": side, "cases": cases}, arguments.output)


if __name__ == "__main__":
    main()
