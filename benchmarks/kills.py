"""kill -9 of the training worker and of the daemon at random moments of real jobs: what is lost, and what comes out.

Two daemons at once, each with its own state: of one the training worker is killed, of the other the daemon itself. Jobs
are small (digits, two rungs from 32 px; one job of two tasks that train part of the base together), so that most
moments fall into starting, decoding, evaluating and saving. Checked after each kill: the checkpoint on the disk is
whole and not behind what was there. Checked after each job: that it is done, and the tensors of its patches and of the
base that it made are those of the same job undisturbed, bit by bit; a job that was planned anew meanwhile, as costs
follow what slices take, promises no such thing and is counted apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from common import START_TIMEOUT_S, end, finish, parser, print_table
from patchd.client import Client
from patchd.daemon.api.schemas import JobView, TaskCreate
from patchd.models.training.checkpoint import CURRENT, PREVIOUS
from patchd.policies.errors import PatchdError
from patchd.policies.task import JobState, PatchKind, TrainSpec
from patchd.policies.training_words import plan_in_words

SIDES = (36, 32)
TASKS = ("digits", "again")
SPECS = (
    TrainSpec(task="digits", resolutions=SIDES, epochs=2, batch_size=8, max_samples=24),
    TrainSpec(task="digits", resolutions=SIDES, epochs=4, batch_size=8, max_samples=24, patience=1),
    TrainSpec(task="digits", kinds=(PatchKind.HEAD,), resolutions=SIDES, epochs=3, batch_size=8, max_samples=24),
    TrainSpec(task="digits", together=("again",), resolutions=SIDES[-1:], epochs=2, batch_size=8, max_samples=24),
)
# One thread, room for everything and no rule: of what happens beside it only times can change the plan.
CONFIG = "threads = 1\nmeasure_training_s = 0\nsample_period_s = 0.25\n"
POLICY = """[policy]
name = "kills"
[training]
allocation = 1.0
max_fraction = 0.2
slice_s = 0.4
memory_share = 1.0
"""
CHECKPOINTS = (CURRENT, PREVIOUS)
LATEST_S = 1.2  # after a slice: about two more of them
MOST_KILLS = 8  # of one job: where scoring takes longer than two kills are apart it would never end
EARLY_SHARE = 0.3  # of kills that do not wait for a finished slice; never two in a row, as a job fails at three
POLL_S = 0.02
STEP_TIMEOUT_S = 900.0  # beside other work a process of lowest priority may wait for long


@dataclass
class Lane:
    """One daemon on one state, and what was seen of it."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0
    phases: dict[str, int] = field(default_factory=dict)
    jobs: int = 0
    faults: list[str] = field(default_factory=list)
    replanned: list[str] = field(default_factory=list)  # told of jobs under other plans, which are not compared

    def __post_init__(self) -> None:
        (self.folder / "config.toml").write_text(CONFIG)
        (self.folder / "kills.toml").write_text(POLICY)
        self.client = Client(self.folder / "s", retries=0)

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        command = [sys.executable, "-m", "patchd.daemon.main", "--state", str(self.folder / "state")]
        command += ["--socket", str(self.folder / "s"), "--config", str(self.folder / "config.toml")]
        command += ["--policy", str(self.folder / "kills.toml")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.until(lambda: self.answer(self.client.status) is not None, START_TIMEOUT_S)

    def answer(self, ask: Callable[[], Any]) -> Any:
        """What it answers; None while it does not."""
        try:
            return ask()
        except PatchdError:
            return None

    def until(self, condition: Callable[[], Any], timeout_s: float = STEP_TIMEOUT_S) -> Any:
        """Wait for `condition` and return its value. Raises RuntimeError with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(POLL_S)
        tail = (self.folder / "log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"not within {timeout_s:.0f} s; the daemon said:\n{tail}")

    def worker(self) -> int | None:
        """Process id of the training worker."""
        status = self.answer(self.client.status)
        workers = () if status is None else status.workers
        return next((w.pid for w in workers if w.name == "training" and w.pid), None)

    def job(self, job_id: str) -> JobView | None:
        """The job as the daemon tells it; None while it does not answer."""
        found: JobView | None = self.answer(lambda: self.client.job(job_id))
        return found

    def made(self, job: JobView) -> dict[str, str]:
        """Scores, and digests of the tensors of each patch and of a base, without metadata, which tells times.

        A base by which a task got worse is dropped with its patches: then their scores stand for them.
        """
        state, version = self.folder / "state", job.version
        made = {f"{r.task} {r.resolution} px": r.validation.model_dump_json() for r in job.results}
        if version is not None and not version.registered:
            return made
        for r in job.results:
            made[f"{r.task} {r.resolution}"] = digest(state / "patches" / f"{r.patch_id}.safetensors")
        if version is not None:
            (file,) = (state / "bases").glob(f"{version.name.partition('@')[2]}*.safetensors")
            made["base"] = digest(file)
        return made


def header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and where its data begins."""
    data = path.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    found: dict[str, Any] = json.loads(data[8 : 8 + length])
    return found, 8 + length


def digest(path: Path) -> str:
    """sha256 over names, shapes and bytes of a safetensors file's tensors."""
    entries, begin = header(path)
    data, hashed = path.read_bytes()[begin:], hashlib.sha256()
    for name in sorted(entries.keys() - {"__metadata__"}):
        first, last = entries[name]["data_offsets"]
        hashed.update(f"{name} {entries[name]['dtype']} {entries[name]['shape']}\n".encode())
        hashed.update(data[first:last])
    return hashed.hexdigest()


def reached(directory: Path) -> tuple[int, int]:
    """Rungs done and steps of the next one that a job's newest checkpoint tells of; (0, 0) without one."""
    path = next((path for name in CHECKPOINTS if (path := directory / name).exists()), None)
    if path is None:
        return 0, 0
    position = json.loads(header(path)[0]["__metadata__"]["position"])
    return len(position["finished"]), int(position["course"]["step"])


def plans(job: JobView) -> tuple[str, ...]:
    """What each rung ran under, in words: the same bits are promised for the same plans alone."""
    ran = {(run.resolution, plan_in_words(run.plan.model_copy(update={"resolution": None}))) for run in job.plans_run}
    return tuple(f"{resolution} px: {words}" for resolution, words in sorted(ran))


def until_done(lane: Lane, job_id: str) -> JobView:
    """The job once it has ended."""

    def ended() -> JobView | None:
        job = lane.job(job_id)
        return job if job is not None and job.state in (JobState.DONE, JobState.FAILED) else None

    found: JobView = lane.until(ended)
    return found


def disturb(lane: Lane, spec: TrainSpec, whole_daemon: bool, kills: int, draw: random.Random) -> JobView:
    """One job, with at most `kills` kills while it runs, once it has ended."""
    job_id = lane.client.submit(spec).id
    directory = lane.folder / "state/jobs" / job_id
    slices, early = 0, False
    while kills > 0:
        early = not early and draw.random() < EARLY_SHARE
        if early:
            lane.until(lambda: lane.worker() or over(lane, job_id))
        else:
            lane.until(partial(further, lane, job_id, slices))
        if over(lane, job_id):
            break
        time.sleep(draw.uniform(0.0, LATEST_S))
        pid = lane.process.pid if whole_daemon and lane.process is not None else lane.worker()
        job = lane.job(job_id)
        if pid is None or job is None or over(lane, job_id):
            continue
        before = reached(directory)
        phase = job.progress.phase or "waiting"
        lane.phases[phase] = lane.phases.get(phase, 0) + 1
        slices = job.slices
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        lane.kills, kills = lane.kills + 1, kills - 1
        if whole_daemon and lane.process is not None:
            lane.process.wait()
            lane.start()
        else:
            lane.until(partial(gone, lane, pid))
        job = lane.job(job_id)
        if directory.exists() and (after := reached(directory)) < before:
            lane.faults.append(f"job {job_id}: the checkpoint went from {before} back to {after}")
    job = until_done(lane, job_id)
    lane.jobs += 1
    if job.state is not JobState.DONE or len(job.results) != len(spec.resolutions) * len(spec.tasks):
        lane.faults.append(f"job {job_id} is {job.state} with {len(job.results)} patches: {job.error}")
    return job


def over(lane: Lane, job_id: str) -> bool:
    """Whether the job has ended."""
    job = lane.job(job_id)
    return job is not None and job.state in (JobState.DONE, JobState.FAILED)


def further(lane: Lane, job_id: str, slices: int) -> bool:
    """Whether the job has ended more slices than that, or has ended."""
    job = lane.job(job_id)
    return over(lane, job_id) or (job is not None and job.slices > slices)


def gone(lane: Lane, pid: int) -> bool:
    """Whether the daemon has noticed that the worker is no more."""
    return lane.worker() != pid


def run_lane(lane: Lane, whole_daemon: bool, kills: int, seed: int) -> None:
    """Undisturbed jobs first, then disturbed ones until all kills are done."""
    draw = random.Random(seed)
    try:
        lane.start()
        for name in TASKS:
            lane.client.add_task(TaskCreate(name=name, data="sklearn:digits", resolutions=SIDES))
        undisturbed = [until_done(lane, lane.client.submit(spec).id) for spec in SPECS]
        expected = [lane.made(job) for job in undisturbed]
        while lane.kills < kills:
            index = lane.jobs % len(SPECS)
            job = disturb(lane, SPECS[index], whole_daemon, min(MOST_KILLS, kills - lane.kills), draw)
            if plans(job) != plans(undisturbed[index]):
                lane.replanned.append(f"job {lane.jobs}: {plans(job)}, undisturbed {plans(undisturbed[index])}")
            elif lane.made(job) != expected[index]:
                lane.faults.append(f"what job {lane.jobs} made is not what the undisturbed one made")
    except (RuntimeError, PatchdError, OSError) as error:
        lane.faults.append(str(error))
    finally:
        lane.client.close()
        if lane.process is not None:
            end(lane.process)


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--kills", type=int, default=200, help="in all [default: 200]")
    made.add_argument("--seed", type=int, default=0, help="of the moments [default: 0]")
    made.add_argument("--quick", action="store_true", help="10 kills: whether it works")
    arguments = made.parse_args()
    kills = 10 if arguments.quick else arguments.kills
    names = {"training worker": False, "daemon": True}
    folders = [Path(tempfile.mkdtemp(prefix="patchd-kills-")) for _ in names]
    lanes = {name: Lane(folder) for name, folder in zip(names, folders, strict=True)}
    began = time.monotonic()
    threads = [
        threading.Thread(target=run_lane, args=(lanes[name], whole, kills // 2, arguments.seed + whole))
        for name, whole in names.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    rows = [
        (name, lane.kills, lane.jobs, len(lane.faults), len(lane.replanned), told(lane.phases))
        for name, lane in lanes.items()
    ]
    print_table(("killed", "times", "jobs", "faults", "other plans", "in the phases"), rows)
    for lane in lanes.values():
        for line in (*lane.faults, *lane.replanned):
            print(line)
    print(f"\n{sum(lane.kills for lane in lanes.values())} kills in {seconds / 60:.1f} minutes")
    result = {
        name: {
            "kills": lane.kills,
            "jobs": lane.jobs,
            "faults": lane.faults,
            "replanned": lane.replanned,
            "phases": lane.phases,
        }
        for name, lane in lanes.items()
    }
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    finish("kills", {"seconds": seconds, **result}, arguments.output)
    if any(lane.faults for lane in lanes.values()):
        sys.exit(1)


def told(phases: dict[str, int]) -> str:
    """Phases by how often they were hit."""
    return ", ".join(f"{name} {count}" for name, count in sorted(phases.items(), key=lambda one: -one[1]))


if __name__ == "__main__":
    main()
