"""Loads that are real, by stress-ng: all processors, or a share of the memory; and how long until patchd follows.

A training job runs and predictions are asked for without pause. The clock starts with the load (of memory: when so much
of it is gone that the rule applies) and ends when the snapshot shows it, when a prediction is given a lower allocation,
when one is answered at a lower resolution, and when training takes no processor any more; then, the load being gone,
when each of them is back. The rules are those of `balanced`; that about memory stands half way between what is
available without the load and with it, so that a part of the memory will do, whatever the machine.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from common import RunningDaemon, end
from patchd.daemon.api.schemas import TaskCreate
from patchd.policies.task import PatchKind, TrainSpec

MOST_MEMORY = 0.30  # of the machine's: more could take it from those who need it
LOADED_S = 15.0  # at least, so that nothing comes back before all has followed
FALL_S, RETURN_S, SETTLE_S = 30.0, 120.0, 120.0
SIDE = 256  # of the images that are asked about, pixels: finer than each rung, so that the decision chooses
BETWEEN_S = 0.4  # between two looks: asking without a pause would itself take much of the processors
TRAINS = 0.05  # a worker that takes less of a processor between two looks does not train
POLICY = """
[policy]
name = "{name}"
[inference]
allocation = 1.0
[training]
allocation = 0.5
[[rule]]
name = "processors-full"
when = [{{ signal = "cpu.busy_other", above = 0.85, leave_below = 0.70, for_s = 0.5 }}]
inference = 0.1
training = 0.0
[[rule]]
name = "memory-taken"
when = [{{ signal = "memory.available", below = {below:.4f}, leave_above = {above:.4f} }}]
inference = 0.1
training = 0.0
"""


@dataclass(frozen=True)
class Looked:
    """What a client sees at one moment."""

    loaded: bool
    allocation: float
    resolution: int
    trains: bool


@dataclass(frozen=True)
class Followed:
    """Seconds from a change of the load to each of its effects."""

    snapshot: float
    allocation: float
    resolution: float
    training: float


class _Meter:
    """How much of a processor a process has taken lately."""

    def __init__(self) -> None:
        self._before: tuple[int, float, float] | None = None  # process, when, processor seconds
        self._share = 0.0

    def share(self, pid: int | None) -> float:
        """Of one process, 0 where there is none; as at the last look where that is too short ago to tell."""
        now, used = time.monotonic(), None
        if pid is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                used = float(times.user + times.system)
        if pid is None or used is None:
            self._before, self._share = None, 0.0
        elif self._before is None or self._before[0] != pid:
            self._before = (pid, now, used)
        elif now - self._before[1] >= BETWEEN_S:
            self._share = (used - self._before[2]) / (now - self._before[1])
            self._before = (pid, now, used)
        return self._share


class Loads:
    """Puts a load on the machine and watches a daemon follow."""

    def __init__(self, daemon: RunningDaemon, memory_share: float, folder: Path) -> None:
        """Queue a job that outlasts the benchmark, and learn what memory there is. Raises RuntimeError."""
        for program in ("stress-ng", "prlimit"):
            if shutil.which(program) is None:
                raise RuntimeError(f"{program} is not installed; the loads are made with it")
        self._client, self._folder = daemon.client, folder
        self._image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8).tobytes()
        self._meter = _Meter()
        memory = self._client.snapshot().memory
        if memory is None:
            raise RuntimeError("this machine does not tell how much memory is available")
        self._total = memory.total_bytes
        self._bytes = int(min(memory_share, MOST_MEMORY) * memory.total_bytes)
        if self._bytes > 0.6 * memory.available_bytes:
            raise RuntimeError(f"{self._bytes / 1e9:.1f} GB would be too much of what is available")
        available = memory.available_bytes / memory.total_bytes
        self._below, self._above = available - 0.6 * memory_share, available - 0.3 * memory_share
        self._client.add_task(TaskCreate(name="reaction", data="sklearn:digits", resolutions=(96,)))
        kinds = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
        self._client.submit(TrainSpec(task="reaction", kinds=kinds, epochs=1000))
        self._turn = 0

    def react(self, load: str) -> tuple[Followed, Followed]:
        """Follow one load, "processors" or "memory", from its start and from its end."""
        self._settle()
        top = self._look(load).resolution
        with self._load(load):
            began = time.monotonic()
            if load == "memory":
                self._until(lambda: self._taken() or None, FALL_S, "the memory was not taken")
            changed = time.monotonic()
            down = self._follow(load, changed, FALL_S, lambda seen: (seen.allocation < 1, seen.resolution < top, seen))
            time.sleep(max(0.0, LOADED_S - (time.monotonic() - began)))
        gone = time.monotonic()
        back = self._follow(
            load, gone, RETURN_S, lambda seen: (seen.allocation == 1, seen.resolution == top, seen), back=True
        )
        return down, back

    def _follow(
        self,
        load: str,
        since: float,
        most_s: float,
        has: Callable[[Looked], tuple[bool, bool, Looked]],
        back: bool = False,
    ) -> Followed:
        found: dict[str, float] = {}
        while len(found) < 4:
            allocation, resolution, seen = has(self._look(load))
            now = time.monotonic() - since
            effects = {
                "snapshot": seen.loaded is not back,
                "allocation": allocation,
                "resolution": resolution,
                "training": seen.trains is back,
            }
            for name, is_so in effects.items():
                if is_so:
                    found.setdefault(name, now)
            if now > most_s:
                missing = sorted(effects.keys() - found.keys())
                raise RuntimeError(f"within {most_s:.0f} s of the {'end' if back else 'start'}: no {missing} of {load}")
            time.sleep(BETWEEN_S)
        return Followed(**found)

    def _look(self, load: str) -> Looked:
        answer = self._client.infer_tensor("imagenet", self._image, (SIDE, SIDE, 3))
        status = self._client.status()
        snapshot, worker = status.snapshot, next(each for each in status.workers if each.name == "training")
        trains = self._meter.share(worker.pid if worker.in_flight else None) > TRAINS
        if snapshot is None:
            raise RuntimeError("nothing was sampled yet")
        if load == "memory":
            memory = snapshot.memory
            loaded = memory is not None and memory.available_bytes / memory.total_bytes < self._below
        else:
            loaded = (snapshot.cpu.busy or 0.0) - (snapshot.cpu.busy_own or 0.0) > 0.85
        return Looked(loaded, answer.allocation, answer.resolution, trains)

    def _taken(self) -> bool:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024 / self._total < self._below

    def _settle(self) -> None:
        """Put the rules in force anew, which forgets earlier loads, and wait for full quality and for training."""
        self._turn += 1
        policy = self._folder / f"reaction-{self._turn}.toml"
        policy.write_text(POLICY.format(name=f"reaction-{self._turn}", below=self._below, above=self._above))
        self._client.use_policy(path=policy)

        def calm() -> bool | None:
            seen = self._look("processors")
            return (seen.allocation == 1 and seen.trains and not seen.loaded) or None

        self._until(calm, SETTLE_S, "full quality and training did not come back: is the machine at other work?")

    def _until(self, condition: Callable[[], bool | None], most_s: float, failed: str) -> None:
        deadline = time.monotonic() + most_s
        while condition() is None:
            if time.monotonic() > deadline:
                raise RuntimeError(f"{failed} (after {most_s:.0f} s)")
            time.sleep(0.05)

    @contextmanager
    def _load(self, load: str) -> Iterator[None]:
        if load == "memory":
            asked = ["--vm", "1", "--vm-bytes", str(self._bytes), "--vm-keep", "--vm-populate", "--vm-hang", "0"]
        else:
            asked = ["--cpu", "2"]
        limit = self._bytes + (1 << 30)  # what it is told to take, and not much more
        command = [
            "prlimit",
            f"--as={limit}",
            "stress-ng",
            "--quiet",
            "--timeout",
            f"{FALL_S + LOADED_S + 30:.0f}s",
            *asked,
        ]
        process = subprocess.Popen(command)
        try:
            yield
        finally:
            end(process)
