"""A `patchd` on a temporary state directory and socket, steered through `patchctl` only, that leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAMS = Path(sys.executable).parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0  # patchd promises 10


class DemoError(Exception):
    """A step of the demo did not do what it must; the sentence says which and why."""


class Session:
    """Context manager around one daemon process and its temporary folder."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="patchd-demo-"))
        self.socket = self.folder / "patchd.sock"
        self.log = self.folder / "patchd.log"
        self.transcript: list[str] = []
        columns = str(min(shutil.get_terminal_size((100, 24)).columns, 100))
        self._environ = {**os.environ, "PATCHD_SOCKET": str(self.socket), "COLUMNS": columns}
        self._daemon: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._daemon is not None and self._daemon.poll() is None:
            self.stop()
        if error is not None and not isinstance(error, KeyboardInterrupt) and self.log.exists():
            print("\nThe last lines of the daemon's log:\n" + "\n".join(self.log.read_text().splitlines()[-15:]))
        shutil.rmtree(self.folder, ignore_errors=True)

    def say(self, text: str = "") -> None:
        """Print a line and keep it for the picture."""
        print(text, flush=True)
        self.transcript.append(text)

    def start(self, policy: Path) -> None:
        """Start patchd under a policy file and wait until it answers.

        It gets a session of its own, so that Ctrl-C reaches the demo alone.
        """
        command = [
            "patchd",
            "--state",
            str(self.folder / "state"),
            "--socket",
            str(self.socket),
            "--policy",
            os.path.relpath(policy),
        ]
        self.say(f"$ {shlex.join(command)} &")
        with self.log.open("wb") as log:
            self._daemon = subprocess.Popen(
                [PROGRAMS / command[0], *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._run(["status", "--json"]).returncode != 0:
            if self._daemon.poll() is not None:
                raise DemoError(f"patchd ended at once with exit status {self._daemon.returncode}.")
            if time.monotonic() > deadline:
                raise DemoError(f"patchd did not answer within {START_TIMEOUT_S:.0f} s.")
            time.sleep(0.2)
        self.say(f"$ export PATCHD_SOCKET={self.socket}")

    def _run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        command = [str(PROGRAMS / "patchctl"), *arguments]
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False)

    def show(self, *arguments: str) -> None:
        """Echo a patchctl command line, then run it and show what it prints."""
        self.say(f"\n$ {shlex.join(['patchctl', *arguments])}")
        done = self._run(list(arguments))
        self.say(done.stdout.rstrip())
        if done.returncode != 0:
            raise DemoError(
                f"patchctl {' '.join(arguments[:2])} ended with exit status {done.returncode}: {done.stderr.strip()}"
            )

    def follow(self, *arguments: str) -> None:
        """As `show`, with progress on the screen while the command runs."""
        self.say(f"\n$ {shlex.join(['patchctl', *arguments])}")
        command = [str(PROGRAMS / "patchctl"), *arguments]
        with subprocess.Popen(command, env=self._environ, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            for line in running.stdout:
                self.say(line.rstrip())
        if running.returncode != 0:
            raise failed(arguments, running)

    def ask(self, *arguments: str) -> list[Any]:
        """The JSON lines that a patchctl command prints, without showing them."""
        done = self._run([*arguments, "--json"])
        if done.returncode != 0:
            raise DemoError(
                f"patchctl {' '.join(arguments[:2])} ended with exit status {done.returncode}: {done.stderr.strip()}"
            )
        return [json.loads(line) for line in done.stdout.splitlines()]

    def stop(self) -> tuple[int, float, list[int]]:
        """SIGTERM; exit status, seconds that it took, and pids of the daemon's processes that are still alive.

        There should be none; whatever is still alive is killed.
        """
        assert self._daemon is not None
        began = time.monotonic()
        self._daemon.send_signal(signal.SIGTERM)
        try:
            status = self._daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            status = self._daemon.wait()
        took = time.monotonic() - began
        left = still_alive(self.folder)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return status, took, left


def failed(arguments: Sequence[str], done: subprocess.CompletedProcess[str] | subprocess.Popen[str]) -> DemoError:
    """The error for a patchctl command that ended with a status other than 0."""
    said = done.stderr.strip() if isinstance(done.stderr, str) else "its words are above"
    return DemoError(f"patchctl {' '.join(arguments[:2])} ended with exit status {done.returncode}: {said}")


def still_alive(folder: Path) -> list[int]:
    """Pids of the living processes that were started with this folder's socket in their environment, but for our own.

    The workers have sessions of their own, so neither the session nor the process group would find them all.
    """
    marker, alive = f"PATCHD_SOCKET={folder}/".encode(), []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if marker in environ.read_bytes():  # empty for a zombie
                alive.append(int(environ.parent.name))
        except OSError:
            continue  # it ended while we looked, or is another user's
    return [pid for pid in alive if pid != os.getpid()]
