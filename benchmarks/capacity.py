"""K tasks for the price of one: what a task more costs in memory, on disk and in waiting.

K tasks of ten classes with one rung of 128 px are added to a running daemon through its API, each with a scale-and-bias
patch and a head of its own, and each is asked. The peer: as many separate OpenVINO models, folded from the same
patches, loaded by one process that holds nothing else. Peers beyond the memory given are computed from the slope.
Then one client asks an old task steadily, alone and while a task is added twice a second, by created task, imported
patch and first answer; and while tasks come whose resolution the worker has never run. Aims: 100 tasks within 1.3
times the memory of one; no request waits for a task being added.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import psutil
from common import RunningDaemon, end, finish, parser, print_table, quantile, running_daemon
from load import Server, ask, client, post
from patchd.daemon.api.schemas import InferAnswer, TaskCreate
from patchd.daemon.worker_process import ALLOCATOR
from patchd.daemon.workers.library import PATCH_BYTES
from patchd.models.bases import Base, load_base
from patchd.models.openvino_graph import Arrays
from patchd.models.patches.patch import save_patch
from subjects import CLASSES, LABELS, folded_model, made_up_patch

SIDE = 128
NEW_SIDES = (64, 256, 32)  # no rungs of the built-in task: the worker must compile and time them first
SAMPLE = 50  # requests that a time of asking is the median of
RECENT = 20  # tasks that a time of adding is the median of
IDLE_S = 4.0
SETTLE_S = 2.2  # two samples of the monitor
ADD_EVERY_S, ADD_NEW_EVERY_S = 0.5, 3.0
AIM_TASKS, AIM_RATIO = 100, 1.3


@dataclass(frozen=True)
class NewTask:
    """A task to be added, and the patch file that makes it answer."""

    create: TaskCreate
    patch: bytes
    side: int

    @property
    def name(self) -> str:
        """The task's name."""
        return self.create.name


def new_task(base: Base, number: int, side: int = SIDE) -> NewTask:
    """Task `number` with a patch like no other's."""
    create = TaskCreate(name=f"task-{number}", labels=LABELS, resolutions=(side,))
    with tempfile.TemporaryDirectory() as folder:
        _, file = save_patch(made_up_patch(base, number, create.name, side), Path(folder))
        return NewTask(create, file.read_bytes(), side)


def image(side: int) -> bytes:
    """A finished network input, FP32 [3, side, side]."""
    return np.random.default_rng(0).standard_normal((3, side, side), np.float32).tobytes()


def memory(pid: int) -> dict[str, int]:
    """Resident bytes, and those with shared pages counted by share."""
    found = psutil.Process(pid).memory_full_info()
    return {"rss": found.rss, "pss": found.pss}


def disk(folder: Path) -> int:
    """Bytes that the files below a folder occupy."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def timed(call: Callable[[], object]) -> float:
    """Milliseconds of a call."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


# K tasks


class Grower:
    """Adds tasks to a daemon and measures at each count."""

    def __init__(self, daemon: RunningDaemon, base: Base) -> None:
        self._daemon, self._base, self._image = daemon, base, image(SIDE)
        self._times: dict[str, list[float]] = {"create": [], "import": [], "first": []}
        self._answers: set[tuple[float, ...]] = set()
        self.count = 0

    def grow(self, count: int) -> None:
        """Add tasks until there are `count`, each asked once. Raises RuntimeError where two answer alike."""
        adding = self._daemon.client
        for number in range(self.count, count):
            task = new_task(self._base, number)
            self._times["create"].append(timed(partial(adding.add_task, task.create)))
            self._times["import"].append(timed(partial(adding.import_patch, task.patch)))
            self._times["first"].append(timed(partial(self._note, number)))
        self.count = count
        if len(self._answers) != count:
            raise RuntimeError(f"{count} tasks give {len(self._answers)} different answers.")

    def _ask(self, number: int) -> InferAnswer:
        return self._daemon.client.infer_tensor(f"task-{number}", self._image, (3, SIDE, SIDE), "FP32", top_k=CLASSES)

    def _note(self, number: int) -> None:
        found = sorted((each.index, each.probability) for each in self._ask(number).predictions)
        self._answers.add(tuple(probability for _, probability in found))

    def measure(self) -> dict[str, Any]:
        """Memory, disk, times of adding and of asking at the present count."""
        pid = next(worker.pid for worker in self._daemon.client.status().workers if worker.name == "inference")
        state, held = self._daemon.state, patches_held(self._base)
        found: dict[str, Any] = {
            "tasks": self.count,
            "control_plane": memory(self._daemon.process.pid),
            "worker": memory(int(pid or 0)),
            "disk": {"all": disk(state), "patches": disk(state / "patches"), "graphs": disk(state / "graphs")},
            "add_ms": {name: statistics.median(taken[-RECENT:]) for name, taken in self._times.items()},
            "idle_share": self._idle_share(),
        }
        last = range(self.count - 1, max(-1, self.count - 1 - SAMPLE), -1)
        found["loaded"] = self._asking(list(last))
        if self.count >= held + 2 * SAMPLE:  # the first tasks were asked longest ago: their patches are read again
            found["read_again"] = self._asking(range(SAMPLE))
        return found

    def _asking(self, numbers: Sequence[int]) -> dict[str, float]:
        """Medians over one request to each of these tasks."""
        rounds = [numbers[place % len(numbers)] for place in range(SAMPLE)]
        taken, binding = [], []
        for number in rounds:
            start = time.perf_counter()
            binding.append(self._ask(number).timing.bind_ms)
            taken.append((time.perf_counter() - start) * 1e3)
        return {"ms": statistics.median(taken), "bind_ms": statistics.median(binding), "n": len(taken)}

    def _idle_share(self) -> float:
        """Share of a core that the control plane takes while nothing is asked."""
        process = psutil.Process(self._daemon.process.pid)
        before, began = process.cpu_times(), time.monotonic()
        time.sleep(IDLE_S)
        after = process.cpu_times()
        return float(after.user + after.system - before.user - before.system) / (time.monotonic() - began)


def patches_held(base: Base) -> int:
    """How many such patches the worker keeps loaded."""
    tensors = made_up_patch(base, 0).tensors.values()
    return int(PATCH_BYTES // sum(tensor.numel() * tensor.element_size() for tensor in tensors))


# the peer


def folded_models(base: Base, counts: Sequence[int], limit: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Memory and disk of as many folded models in one process, measured up to `limit` bytes, computed from there on."""
    threads = len(os.sched_getaffinity(0))
    script = Path(__file__).with_name("folded_peer.py")
    command = [sys.executable, str(script), str(threads), str(SIDE)]
    environ = {**os.environ, **ALLOCATOR}
    peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ)
    measured: list[dict[str, Any]] = []
    loaded = 0
    try:
        for count in counts:
            if (computed := _computed(measured, count)) and computed["memory"]["pss"] > limit:
                yield computed
                continue
            for number in range(loaded, count):
                _load_folded(peer, base, number, folder)
            loaded = count
            measured.append({"tasks": count, "memory": memory(peer.pid), "disk": disk(folder), "computed": False})
            yield measured[-1]
    finally:
        end(peer)


def _load_folded(peer: subprocess.Popen[bytes], base: Base, number: int, folder: Path) -> None:
    arrays: Arrays = {}
    file = folder / f"{number}.xml"
    openvino.save_model(folded_model(base, made_up_patch(base, number), SIDE, arrays), file, compress_to_fp16=False)
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write(f"{file}\n".encode())
    peer.stdin.flush()
    if peer.stdout.readline().strip() != b"loaded":
        raise RuntimeError("the peer did not load a model")


def _computed(measured: Sequence[dict[str, Any]], count: int) -> dict[str, Any] | None:
    """What `count` models would take by the slope between the last two measurements."""
    if len(measured) < 2:
        return None
    one, other = measured[-2:]
    steps = float(count - other["tasks"]) / float(other["tasks"] - one["tasks"])

    def reach(low: int, high: int) -> int:
        return round(high + (high - low) * steps)

    return {
        "tasks": count,
        "memory": {key: reach(one["memory"][key], other["memory"][key]) for key in ("rss", "pss")},
        "disk": reach(one["disk"], other["disk"]),
        "computed": True,
    }


# adding while another client asks


def infer_request(task: str, side: int) -> bytes:
    """A request for a prediction from a finished input."""
    path = f"/v1/tasks/{task}/infer?shape=3,{side},{side}&datatype=FP32"
    return post(path, image(side), "application/octet-stream")


async def add_steadily(server: Server, tasks: Sequence[NewTask], every_s: float) -> list[float]:
    """Add the tasks one after the other; the milliseconds from each one's start to its first answer."""
    requests = [
        (
            post("/v1/tasks", task.create.model_dump_json().encode(), "application/json"),
            post("/v1/patches", task.patch, "application/octet-stream"),
            infer_request(task.name, task.side),
        )
        for task in tasks
    ]
    reader, writer = await server.connect()
    taken = []
    try:
        for steps in requests:
            await asyncio.sleep(every_s)
            start = time.perf_counter()
            for step in steps:
                await ask(reader, writer, step)
            taken.append((time.perf_counter() - start) * 1e3)
    finally:
        writer.close()
    return taken


def stream(server: Server, seconds: float, tasks: Sequence[NewTask], every_s: float) -> dict[str, Any]:
    """What one client that asks task-0 without a pause waits, while `tasks` are added."""
    request = infer_request("task-0", SIDE)

    async def run() -> tuple[list[float], list[float]]:
        taken: list[float] = []
        asking = client(server, request, time.perf_counter() + seconds, taken)
        _, added = await asyncio.gather(asking, add_steadily(server, tasks, every_s))
        return taken, added

    time.sleep(SETTLE_S)
    taken, added = asyncio.run(run())
    return {
        "p50_ms": quantile(taken, 0.5),
        "p99_ms": quantile(taken, 0.99),
        "max_ms": max(taken),
        "n": len(taken),
        "added": len(added),
        "added_ms": statistics.median(added) if added else None,
    }


def streams(daemon: RunningDaemon, base: Base, existing: int, seconds: float) -> list[dict[str, Any]]:
    """The stream alone, with tasks of a known resolution coming, alone again, and with tasks of new resolutions."""
    server, first = Server(socket=daemon.socket), 10_000
    known = [new_task(base, first + number) for number in range(int(seconds / ADD_EVERY_S) - 1)]
    new = [new_task(base, first + 1000 + side, side) for side in NEW_SIDES]
    cases = [
        ("nothing added", stream(server, seconds, (), 0.0)),
        (f"a task every {ADD_EVERY_S:g} s", stream(server, seconds, known, ADD_EVERY_S)),
        (
            f"tasks of new resolutions ({', '.join(map(str, NEW_SIDES))} px)",
            stream(server, (len(new) + 1) * ADD_NEW_EVERY_S, new, ADD_NEW_EVERY_S),
        ),
    ]
    alone = cases[0][1]
    keys = ("p50_ms", "p99_ms", "max_ms")
    return [
        {"existing": existing, "adding": name, **case, "to_alone": {key: case[key] / alone[key] for key in keys}}
        for name, case in cases
    ]


# tables


def show_tasks(ours: Sequence[dict[str, Any]], peers: Sequence[dict[str, Any]], held: int) -> None:
    """Memory, disk and times at each count."""

    def total(case: dict[str, Any], key: str) -> float:
        return float(case["control_plane"][key] + case["worker"][key]) / 1e6

    print_table(
        (
            "tasks", "patchd PSS MB", "RSS MB", "control plane", "worker", "to 1 task", "disk MB", "patches", "graphs",
            "models", "models PSS MB", "RSS MB", "to 1 model", "disk MB",
        ),
        [
            (
                case["tasks"], total(case, "pss"), total(case, "rss"), case["control_plane"]["pss"] / 1e6,
                case["worker"]["pss"] / 1e6, total(case, "pss") / total(ours[0], "pss"),
                *(case["disk"][key] / 1e6 for key in ("all", "patches", "graphs")),
                "computed" if peer["computed"] else "measured", *(peer["memory"][key] / 1e6 for key in ("pss", "rss")),
                peer["memory"]["pss"] / peers[0]["memory"]["pss"], peer["disk"] / 1e6,
            )
            for case, peer in zip(ours, peers, strict=True)
        ],
    )  # fmt: skip
    print()
    print_table(
        ("tasks", "create ms", "import ms", "first answer ms", "loaded ms", "read again ms", "idle, % of a core"),
        [
            (
                case["tasks"], *case["add_ms"].values(), case["loaded"]["ms"],
                case["read_again"]["ms"] if "read_again" in case else "-", 100 * case["idle_share"],
            )
            for case in ours
        ],
    )  # fmt: skip
    print(f"\nthe worker keeps {held} such patches loaded; those of other tasks are read again when they are asked")


def show_streams(cases: Sequence[dict[str, Any]]) -> None:
    """What the steady client waits."""
    print()
    print_table(
        ("tasks", "added", "n", "p50 ms", "p99 ms", "max ms", "to nothing added: p50", "p99", "max", "to answer ms"),
        [
            (
                case["existing"], case["adding"], case["n"], case["p50_ms"], case["p99_ms"], case["max_ms"],
                *case["to_alone"].values(), case["added_ms"] or "-",
            )
            for case in cases
        ],
    )  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--tasks", default="1,10,100,1000", metavar="K,K", help="counts [default: 1,10,100,1000]")
    made.add_argument("--peer-gb", type=float, default=10.0, help="most memory for the peer's models [default: 10]")
    made.add_argument("--seconds", type=float, default=10.0, help="length of one stream of requests [default: 10]")
    arguments = made.parse_args()
    counts, base = sorted(set(map(int, arguments.tasks.split(",")))), load_base("lite0")
    ours, waits = [], []
    with running_daemon("--policy", "performance") as daemon:
        grower = Grower(daemon, base)
        grower.grow(1)
        waits += streams(daemon, base, 1, arguments.seconds)
    with running_daemon("--policy", "performance") as daemon:
        grower = Grower(daemon, base)
        daemon.client.infer_tensor("imagenet", image(SIDE), (3, SIDE, SIDE), "FP32")  # starts the worker
        for count in counts:
            grower.grow(count)
            ours.append(grower.measure())
            print(f"{count} tasks are measured", file=sys.stderr)
        if counts[-1] > 1:
            waits += streams(daemon, base, counts[-1], arguments.seconds)
    with tempfile.TemporaryDirectory(prefix="patchd-bench-") as folder:
        peers = list(folded_models(base, counts, int(arguments.peer_gb * 1e9), Path(folder)))
    held = patches_held(base)
    show_tasks(ours, peers, held)
    show_streams(waits)
    finish("capacity", {"patches_held": held, "patchd": ours, "models": peers, "streams": waits}, arguments.output)


if __name__ == "__main__":
    main()
