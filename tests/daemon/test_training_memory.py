"""Memory that runs out lowers the plan of a job, and the job goes on."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from patchd.daemon.api.schemas import JobView, TaskCreate
from patchd.daemon.monitor.kills import KernelKills
from patchd.models.training.memory import exhausted_words, is_exhausted
from patchd.policies.decision import TrainingPlan
from patchd.policies.snapshot import Cpu, Memory, Snapshot
from patchd.policies.task import JobState, TrainSpec
from patchd.policies.training_limits import FIRST_CAP_BYTES, LOWERINGS, lowered
from running import RunningDaemon

DIGITS = TaskCreate(name="digits", data="sklearn:digits", resolutions=(64, 32))
SMALL = TrainSpec(task="digits", resolutions=(32,), epochs=1, batch_size=8, max_samples=8)
LARGE = TrainSpec(task="digits", resolutions=(64,), epochs=1, batch_size=128, max_samples=128)
ROOM_BYTES = 160 << 20  # beside what a small job had: enough to load, too little for a step of LARGE


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon whose kernel counts no kills until a test says so, and whose machine tells nothing of its memory."""
    folder = tmp_path_factory.mktemp("memory")
    (folder / "proc").mkdir()
    count(folder, 0)
    config = folder / "config.toml"
    roots = f'proc_root = "{folder / "proc"}"\nsys_root = "{folder / "sys"}"\n'
    config.write_text(f"measure_training_s = 0\n{roots}")
    policy = folder / "policy.toml"
    policy.write_text('[policy]\nname = "all"\n[training]\nallocation = 1.0\n')  # what memory allows decides alone
    with RunningDaemon(folder / "state", "--config", str(config), "--policy", str(policy)) as running:
        running.client.add_task(DIGITS)
        yield running


def count(folder: Path, kills: int) -> None:
    (folder / "proc" / "vmstat").write_text(f"pgfault 12\noom_kill {kills}\n")


def training_pid(daemon: RunningDaemon) -> int | None:
    return next((w.pid for w in daemon.client.status().workers if w.name == "training"), None)


def ended(daemon: RunningDaemon, job: str) -> JobView:
    daemon.until(lambda: _final(daemon, job), 240)
    return daemon.client.job(job)


def _final(daemon: RunningDaemon, job: str) -> bool:
    return daemon.client.job(job).state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


def lowerings(daemon: RunningDaemon, job: str) -> list[int]:
    events = daemon.client.events(limit=500).events
    return [e.data["memory_cap_bytes"] for e in events if e.kind == "job.lowered" and e.data["job"] == job]


def data_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def test_a_step_that_cannot_have_its_memory_lowers_the_plan_and_the_job_ends_well(daemon: RunningDaemon) -> None:
    small = daemon.client.submit(SMALL)
    taken = daemon.until(lambda: _looked_at(daemon, small.id), 240, every_s=0.02)
    ended(daemon, small.id)
    # A process inherits its limits: the next worker has this one, those after it have none.
    before = resource.prlimit(daemon.pid, resource.RLIMIT_DATA, (taken + ROOM_BYTES, resource.RLIM_INFINITY))
    daemon.until(lambda: training_pid(daemon) is None)
    job = daemon.client.submit(LARGE)
    daemon.until(lambda: training_pid(daemon), 120, every_s=0.02)
    resource.prlimit(daemon.pid, resource.RLIMIT_DATA, before)
    done = ended(daemon, job.id)
    assert done.state is JobState.DONE, done.error
    caps = lowerings(daemon, job.id)
    assert caps
    assert done.memory_cap_bytes == caps[-1]
    memory = done.plans_run[-1].plan.memory_bytes
    assert memory is not None
    assert memory <= caps[-1]
    assert done.results[0].published
    kinds = [e.kind for e in daemon.client.events(limit=500).events if e.data.get("job") == job.id]
    assert "worker.crashed" not in kinds


def _looked_at(daemon: RunningDaemon, job: str) -> int | None:
    """What the worker of a job has taken once it trains or has trained; None before."""
    pid = training_pid(daemon)
    view = daemon.client.job(job)
    if pid is None or (view.progress.step == 0 and not view.results):
        return None
    try:
        return data_bytes(pid)
    except (OSError, StopIteration):
        return None


def test_a_worker_that_is_killed_while_memory_is_short_costs_its_slice_and_lowers_the_plan(
    daemon: RunningDaemon,
) -> None:
    job = daemon.client.submit(LARGE.model_copy(update={"epochs": 200}))
    pid = daemon.until(lambda: training_pid(daemon) if daemon.client.job(job.id).progress.step > 0 else None, 240)
    os.kill(pid, signal.SIGSTOP)
    count(daemon.state.parent, 1)
    os.kill(pid, signal.SIGKILL)
    daemon.until(lambda: training_pid(daemon) not in (None, pid), 240)
    view = daemon.client.job(job.id)
    assert view.state is JobState.RUNNING
    assert lowerings(daemon, job.id) == [view.memory_cap_bytes]
    daemon.client.change_job(job.id, "cancel")


def test_each_lowering_is_clearly_smaller_than_what_failed() -> None:
    plan = TrainingPlan(paused=False, memory_bytes=1000)
    assert lowered(plan, None)[0] == int(1000 * LOWERINGS[0])
    assert lowered(plan, 500)[0] == int(500 * LOWERINGS[0])
    assert lowered(TrainingPlan(paused=False), None)[0] == int(FIRST_CAP_BYTES * LOWERINGS[0])
    assert all(cap < 1000 for cap in lowered(plan, None))


def test_what_torch_and_python_say_of_memory_is_understood() -> None:
    torch_says = (
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    )
    error = RuntimeError(f"{torch_says}allocate 50331648 bytes. Error code 12 (Cannot allocate memory)")
    assert is_exhausted(error)
    assert exhausted_words(error) == "48 MiB more could not be had"
    assert is_exhausted(MemoryError())
    assert exhausted_words(MemoryError()) == "MemoryError"
    assert not is_exhausted(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_kills_are_those_of_the_own_group_where_the_kernel_tells_of_it(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "sys/fs/cgroup/patchd"
    (proc / "self").mkdir(parents=True)
    group.mkdir(parents=True)
    (group.parent / "cgroup.controllers").write_text("memory")
    (proc / "self" / "cgroup").write_text("0::/patchd\n")
    (proc / "vmstat").write_text("oom_kill 3\n")
    (group / "memory.events").write_text("oom 0\noom_kill 1\n")
    kills = KernelKills(proc, tmp_path / "sys")
    kills.begin()
    (proc / "vmstat").write_text("oom_kill 4\n")
    assert not kills.since(None)  # of somebody else
    (group / "memory.events").write_text("oom 1\noom_kill 2\n")
    assert kills.since(None)
    kills.begin()
    assert not kills.since(None)
    for available, killed in ((5, True), (50, False)):
        memory = Memory(total_bytes=100, available_bytes=available)
        assert kills.since(Snapshot(time_s=0.0, cpu=Cpu(count=1), memory=memory)) is killed
