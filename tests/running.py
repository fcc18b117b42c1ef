"""A real daemon process for tests: started on a fresh state directory, asked over its socket, ended by its pid."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from patchd.client import Client
from patchd.policies.errors import PatchdError

START_TIMEOUT_S = 30.0
STEADY = """
[policy]
name = "steady"
description = "No rules: what the machine of a test does beside it decides nothing."
[inference]
allocation = 1.0
[training]
allocation = 0.5
"""


class RunningDaemon:
    """`patchd` in a process of its own; use as a context manager."""

    def __init__(self, state: Path, *arguments: str, environ: dict[str, str] | None = None) -> None:
        self.state = state
        self._short = Path(
            tempfile.mkdtemp(prefix="patchd-")
        )  # pytest's own paths may be over the 107 bytes of a socket
        self.socket = self._short / "s"
        self.log = self._short / "log"
        steady = self._short / "steady.toml"
        steady.write_text(STEADY)
        config = self._short / "config.toml"
        config.write_text("measure_training_s = 0\n")  # tests of other matters need not wait for it
        defaults = {"--policy": steady, "--config": config}
        missing = (part for name, path in defaults.items() if name not in arguments for part in (name, str(path)))
        self.arguments = (*arguments, *missing)
        self.environ = environ or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.client = Client(self.socket, retries=0)

    def start(self, wait: bool = True) -> RunningDaemon:
        command = [sys.executable, "-m", "patchd.daemon.main", "--state", str(self.state)]
        command += ["--socket", str(self.socket), *self.arguments]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **self.environ}
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"patchd ended with {self.process.returncode}:\n{self.text()}")
            try:
                self.client.status()
            except PatchdError:
                time.sleep(0.05)
                continue
            return
        raise AssertionError(f"patchd did not answer:\n{self.text()}")

    def text(self) -> str:
        return self.log.read_text()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """kill -9, as a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.client.close()

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Signal, wait; the exit status and the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.client.close()
        return code, time.monotonic() - began

    def until(self, condition, timeout_s: float = 60.0, every_s: float = 0.1):
        """Wait for `condition()` to be true and return its value."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(every_s)
        raise AssertionError(f"not within {timeout_s} s; the daemon said:\n{self.text()}")

    def __enter__(self) -> RunningDaemon:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.client.close()
        shutil.rmtree(self._short, ignore_errors=True)


def warm(state: Path) -> Path:
    """Fill a new state directory with what a daemon keeps of its first prediction: compiled graphs and measured costs.

    They are of `lite0` at the sides of `imagenet`. Making them takes ten seconds of processor time, so that is done
    once, in a daemon of its own.
    """
    template = _first_prediction()
    state.mkdir(exist_ok=True)
    shutil.copytree(template / "graphs", state / "graphs", copy_function=os.link)  # replaced, never written into
    shutil.copy(template / "patchd.db", state / "patchd.db")
    return state


@cache
def _first_prediction() -> Path:
    """A state directory with costs and graphs, and nothing said or decided yet."""
    state = Path(tempfile.mkdtemp(prefix="patchd-warm-"))
    atexit.register(shutil.rmtree, state, ignore_errors=True)
    found = find_spec("sklearn")
    assert found is not None
    with RunningDaemon(state) as running:
        running.client.infer(
            "imagenet", Path(str(found.origin)).with_name("datasets").joinpath("images/china.jpg").read_bytes()
        )
        running.stop()
    with closing(sqlite3.connect(state / "patchd.db")) as database:
        for table in ("events", "decisions", "settings", "requests", "history", "training_slices"):
            database.execute(f"delete from {table}")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return state


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"
