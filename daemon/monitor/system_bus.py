"""What other services know: NetworkManager, whether the connection is metered; logind, who is logged in and idle.

Asked through `busctl`, which comes with systemd: a process now and then costs less than a D-Bus library held in memory
all the time, and a machine without a system bus pays nothing. No service is started for the asking.
NetworkManager: Metered of org.freedesktop.NetworkManager (NMMetered: 0 unknown, 1 yes, 2 no, 3 perhaps, 4 perhaps not).
logind: IdleHint and NCurrentSessions of org.freedesktop.login1.Manager.
"""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...policies.signal_readings import Origin
from ...policies.snapshot import Network

EVERY_S = 30.0
ANSWER_S = 3  # a service that hangs is given up on
NOT_THERE = ("was not provided by any .service files", "does not exist", "has no owner")
METERED = {1: True, 2: False, 3: True, 4: False}


@dataclass(frozen=True, slots=True)
class Service:
    """A well-known name on the bus, an object of it, and the interface whose properties are asked for."""

    title: str
    name: str
    path: str
    interface: str


NETWORK_MANAGER = Service(
    "NetworkManager",
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
)
LOGIND = Service("logind", "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")


@dataclass(frozen=True, slots=True)
class Sessions:
    """Who is logged in; None where logind does not tell."""

    count: int | None
    idle: bool | None


class SystemBus:
    """Remembers why a service did not answer."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._why = {NETWORK_MANAGER.title: "it has not been asked yet", LOGIND.title: "it has not been asked yet"}

    @property
    def present(self) -> bool:
        """Whether there is a system bus."""
        try:
            return stat.S_ISSOCK(self._socket.stat().st_mode)
        except OSError:
            return False

    def network(self) -> Network:
        """Whether the default connection is metered. Waits for a process: not for the event loop."""
        told = self._ask(NETWORK_MANAGER, "Metered")
        metered = METERED.get(told[0]) if told is not None and isinstance(told[0], int) else None
        if told is not None and metered is None:
            self._why[NETWORK_MANAGER.title] = "NetworkManager does not know whether the connection is metered"
        return Network(metered=metered)

    def sessions(self) -> Sessions:
        """Who is logged in. Waits for a process: not for the event loop."""
        count, idle = self._ask(LOGIND, "NCurrentSessions", "IdleHint") or (None, None)
        if not isinstance(count, int) or isinstance(count, bool) or count < 0 or not isinstance(idle, bool):
            return Sessions(None, None)
        return Sessions(count, idle)

    def origins(self) -> dict[str, Origin]:
        """Which service tells each signal, and why one is absent."""
        return {
            name: self._origin(service, names)
            for service, names, name in (
                (NETWORK_MANAGER, "Metered", "network.metered"),
                (LOGIND, "NCurrentSessions", "user.sessions"),
                (LOGIND, "IdleHint", "user.session_idle"),
            )
        }

    def _origin(self, service: Service, name: str) -> Origin:
        if not self.present:
            return Origin("", f"no system bus at {self._socket}")
        return Origin(f"{service.title} on the system bus ({name})", self._why[service.title])

    def _ask(self, service: Service, *names: str) -> list[object] | None:
        """The properties' values; None, and a reason kept, where there is no answer in the known form."""
        program = shutil.which("busctl")
        if program is None:
            self._why[service.title] = "the program busctl of systemd, which asks the system bus, is not installed"
            return None
        options = ("--json=short", "--auto-start=no", f"--timeout={ANSWER_S}", f"--address=unix:path={self._socket}")
        command = [program, *options, "get-property", service.name, service.path, service.interface, *names]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=2 * ANSWER_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            self._why[service.title] = f"{service.title} did not answer within {2 * ANSWER_S} s"
            return None
        if done.returncode != 0:
            self._why[service.title] = f"{service.title} {_complaint(done.stderr.decode(errors='replace'))}"
            return None
        values = parse(done.stdout)
        if values is None or len(values) != len(names):
            self._why[service.title] = f"{service.title} answered in an unknown form"
            return None
        return values


def _complaint(stderr: str) -> str:
    """What busctl says on one line, without what we asked."""
    said = stderr.strip().rpartition("\n")[2].rstrip(".")
    if any(words in said for words in NOT_THERE):
        return "does not run"
    return f"does not answer: {said or 'busctl failed without a word'}"


def parse(output: bytes) -> list[object] | None:
    """The values that `busctl --json=short get-property` prints, one a line; None for anything else."""
    try:
        return [json.loads(line)["data"] for line in output.splitlines() if line.strip()]
    except (ValueError, KeyError, TypeError):
        return None
