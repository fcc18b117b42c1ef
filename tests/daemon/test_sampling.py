"""When a real daemon samples: rarely while nothing moves, at once when something happens or is asked for."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from patchd.daemon.api.sampling_schemas import SamplingState
from patchd.daemon.api.schemas import Event
from running import RunningDaemon, warm

MEMINFO = "MemTotal: 1000000 kB\nMemAvailable: {} kB\n"
POLICY = """
[policy]
name = "short"
[[rule]]
name = "memory-short"
when = [{ signal = "memory.available", below = 0.2 }]
inference = 0.3
"""
RARELY = "sample_period_s = 60\nsample_period_calm_s = 60\n"
OFTEN = "sample_period_s = 0.1\nsample_period_calm_s = 0.8\n"


class Device:
    """A device made of files on which nothing moves by itself, and a service manager that may tell of pressure."""

    def __init__(self, root: Path, periods: str) -> None:
        self.root = root
        for name in ("proc", "sys", "dev"):
            (root / name).mkdir()
        self.available(900_000)
        (root / "policy.toml").write_text(POLICY)
        roots = "".join(f'{name}_root = "{root / name}"\n' for name in ("proc", "sys", "dev"))
        (root / "config.toml").write_text(f"{periods}{roots}measure_training_s = 0\n")
        self.manager = socket.socket(socket.AF_UNIX)
        self.manager.bind(str(root / "m"))
        self.manager.listen()
        self.manager.settimeout(30)

    def available(self, kilobytes: int) -> None:
        (self.root / "proc" / "meminfo").write_text(MEMINFO.format(kilobytes))

    def daemon(self) -> RunningDaemon:
        options = ("--config", str(self.root / "config.toml"), "--policy", str(self.root / "policy.toml"))
        environ = {"MEMORY_PRESSURE_WATCH": str(self.root / "m")}
        return RunningDaemon(self.root / "state", *options, environ=environ)

    def warm(self) -> Device:
        """Let its daemon find what is kept of a first prediction."""
        warm(self.root / "state")
        return self


@pytest.fixture(scope="module")
def rarely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Device, RunningDaemon, socket.socket]]:
    """A daemon that samples once a minute by itself, and its service manager's end of the connection."""
    device = Device(tmp_path_factory.mktemp("d"), RARELY).warm()
    with device.manager, device.daemon() as running:
        connection, _ = device.manager.accept()
        with connection:
            yield device, running, connection


def sampling(running: RunningDaemon) -> SamplingState:
    told = running.client.status().sampling
    assert told is not None
    return told


def events(running: RunningDaemon) -> tuple[Event, ...]:
    return running.client.events().events


def allocation(running: RunningDaemon) -> float:
    decision = running.client.status().decision
    assert decision is not None
    return decision.inference.value


def test_pressure_that_is_told_of_is_sampled_and_decided_on_at_once(
    rarely: tuple[Device, RunningDaemon, socket.socket],
) -> None:
    device, running, manager = rarely
    assert allocation(running) == 1.0
    device.available(100_000)
    manager.sendall(b"pressure")
    running.until(lambda: allocation(running) == 0.3, 30)
    assert {each.name: each.events for each in sampling(running).sources}["pressure.memory"] == 1
    assert [event.kind for event in events(running) if event.kind == "pressure.memory"] == ["pressure.memory"]
    acute = next(each for each in running.client.signals().signals if each.name == "pressure.memory.acute")
    assert (acute.value, acute.source) == (1.0, str(device.root / "m"))


def test_an_idle_worker_is_unloaded_when_tasks_lose_time_to_a_shortage_of_memory(
    rarely: tuple[Device, RunningDaemon, socket.socket], photographs: dict[str, Path]
) -> None:
    _, running, manager = rarely
    running.client.infer("imagenet", photographs["china"].read_bytes())

    def unloaded() -> bool:
        manager.sendall(b"pressure")  # a worker that has just answered is not taken away
        return running.client.status().workers[0].pid is None

    running.until(unloaded, 60, every_s=0.5)
    assert "tasks lose time to a shortage of memory" in (running.client.status().workers[0].reason or "")


def test_what_cannot_be_watched_is_told_once_with_the_reason(
    rarely: tuple[Device, RunningDaemon, socket.socket],
) -> None:
    _, running, _ = rarely
    told = [event.message for event in events(running) if event.kind == "sampling.polled"]
    assert len(told) == 1
    assert "pressure.cpu (" in told[0]
    assert "does not exist" in told[0]
    sources = sampling(running).sources
    assert {each.name for each in sources if each.absent is not None} == {"pressure.cpu", "pressure.io"}


def test_a_service_manager_that_goes_away_is_told_of(rarely: tuple[Device, RunningDaemon, socket.socket]) -> None:
    _, running, manager = rarely
    manager.close()
    running.until(lambda: any(event.kind == "sampling.lost" for event in events(running)), 30)
    absent = {each.name: each.absent for each in sampling(running).sources}
    assert "closed it" in (absent["pressure.memory"] or "")


def test_the_daemon_slows_down_while_nothing_moves_and_looks_closely_again_when_something_does(tmp_path: Path) -> None:
    device = Device(tmp_path, OFTEN)
    with device.manager, device.daemon() as running:
        running.until(lambda: sampling(running).period_s == 0.8, 30)
        assert "has moved for" in sampling(running).why
        # A request is answered by a sample of its own: this one is at most as old as those of a device that moves.
        time.sleep(0.2)
        snapshot = running.client.snapshot()
        assert time.time() - snapshot.time_s < 0.2
        device.available(300_000)
        running.until(lambda: sampling(running).period_s == 0.1, 30)
        assert sampling(running).why.startswith("memory.available moved")
        running.until(lambda: sampling(running).period_s == 0.8, 30)
        following = running.client.follow_events(since=0)
        next(following)
        running.until(lambda: sampling(running).why == "a client follows the events", 30)
        assert sampling(running).period_s == 0.1
        assert isinstance(following, Generator)
        following.close()
        running.until(lambda: sampling(running).period_s == 0.8, 30)
        running.client.use_policy(path=device.root / "policy.toml")
        assert sampling(running).why.startswith("a request changed something")
        assert sampling(running).period_s == 0.1
        assert running.client.request("GET", "/v1/health")
