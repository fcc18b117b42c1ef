"""What is examined: a state directory, a socket, a configuration, and the daemon that answers, if one does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...client import Client
from ...policies.errors import PatchdError
from ..api.schemas import Status
from ..config import DaemonConfig, load_config, resolved
from ..monitor.monitor import Monitor
from ..sockets import MACHINE_SOCKET

MACHINE_STATE = Path("/var/lib/patchd")  # of the system service (StateDirectory=)
ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Subject:
    """Handed to every check; nothing in it changes."""

    socket: Path
    state_dir: Path
    config: DaemonConfig
    environ: Mapping[str, str]
    status: Status | None  # of the daemon that answers at the socket
    unreachable: str | None = None  # why none does

    @property
    def daemon_pid(self) -> int | None:
        """The daemon's process id; None where none answers."""
        return None if self.status is None else self.status.pid

    def monitor(self) -> Monitor:
        """The device as a daemon of this configuration reads it, with the disk that the state is or would be on."""
        config = self.config
        return Monitor(
            state_dir=next(path for path in (self.state_dir, *self.state_dir.parents) if path.exists()),
            proc_root=config.proc_root,
            sys_root=config.sys_root,
            dev_root=config.dev_root,
            system_bus=config.system_bus,
        )

    def client(self) -> Client:
        """A client of the daemon, for one check: close it."""
        return Client(self.socket, timeout_s=ASK_TIMEOUT_S, retries=0)


def examine(
    socket: Path, state_dir: Path | None, config_file: Path | None, environ: Mapping[str, str] | None = None
) -> Subject:
    """Look for a daemon at `socket`, and find out where its state lies and how it is configured.

    What is given wins; then what the daemon says; then what a daemon started here would take. Raises ConfigError when
    the configuration file is wrong.
    """
    environ = dict(os.environ if environ is None else environ)
    status, unreachable = _ask(socket)
    file = config_file if config_file is not None or status is None else _configured(status.pid)
    config = load_config(file)
    if state_dir is not None:
        found = state_dir.absolute()
    elif status is not None:
        found = Path(status.state_dir)
    elif config.state is None and socket == MACHINE_SOCKET and MACHINE_STATE.exists():
        found = MACHINE_STATE
    else:
        found = resolved(config, environ)
    return Subject(socket, found, config, environ, status, unreachable)


def _ask(socket: Path) -> tuple[Status | None, str | None]:
    try:
        with Client(socket, timeout_s=ASK_TIMEOUT_S, retries=0) as client:
            return client.status(), None
    except PatchdError as error:
        return None, error.message
    except OSError as error:
        return None, f"{socket}: {error.strerror or error}."


def _configured(pid: int) -> Path | None:
    """The configuration file that a running daemon was given; None without one, or where that is not to be seen."""
    folder = Path("/proc") / str(pid)
    try:
        words = folder.joinpath("cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
        here = folder.joinpath("cwd").readlink()
    except OSError:
        return None
    for place, word in enumerate(words):
        if word == "--config" and place + 1 < len(words):
            return here / words[place + 1]
        if word.startswith("--config="):
            return here / word.partition("=")[2]
    return None
