"""The daemon: whether one answers, whether its decision loop turns, what went wrong of late, and who else is there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ...policies.errors import UnavailableError
from .check import Check, Found, failure, note, ok, warning
from .subject import Subject

DAY_S = 86_400.0
STALE_S = 30.0  # a snapshot older than this: the loop samples every few seconds at the slowest
WORRYING_RESTARTS = 3
LARGE_LOG = 500_000_000


def _daemon(subject: Subject) -> Iterator[Found]:
    status = subject.status
    if status is None:
        yield note(
            f"No daemon answers: {subject.unreachable}",
            "Start it (systemctl start patchd, or patchd); all else here is about the machine and the state alone.",
        )
        return
    up_s = status.now_s - status.started_s
    yield ok(f"patchd {status.version} answers at {subject.socket}, process {status.pid}, up for {_span(up_s)}.")
    try:
        with subject.client() as client:
            client.request("GET", "/v1/health")
    except UnavailableError as error:
        yield failure(
            f"The decision loop stands: {error.message}", "Look at `patchctl events`, then restart the daemon."
        )
    else:
        age_s = None if status.snapshot is None else status.now_s - status.snapshot.time_s
        if age_s is None or age_s > STALE_S:
            seen = "never" if age_s is None else f"{_span(age_s)} ago"
            yield failure(
                f"The device was last looked at {seen}.", "Restart the daemon, and look at `patchctl events`."
            )
        else:
            yield ok(f"The decision loop turns; the device was looked at {age_s:.1f} s ago.")
    for worker in status.workers:
        if worker.restarts >= WORRYING_RESTARTS:
            yield warning(
                f"The {worker.name} worker was started {worker.restarts + 1} times since the daemon's start.",
                "See `patchctl events --kind worker.died`; memory that runs out is the usual cause.",
            )
    yield from _errors(subject)


def _errors(subject: Subject) -> Iterator[Found]:
    with subject.client() as client:
        events = client.events(level="error", limit=1000).events
    recent = [event for event in events if event.time_s > time.time() - DAY_S]
    if recent:
        last = recent[-1]
        yield warning(
            f"{len(recent)} errors in the last day; the last one: {last.message}",
            "See all of them: patchctl events --level error.",
        )
    else:
        yield ok("No error in the last day.")


def _rivals(subject: Subject) -> Iterator[Found]:
    """Whoever holds the lock of the state directory, told by the kernel; nothing is locked here."""
    lock = subject.state_dir / "lock"
    try:
        inode = lock.stat().st_ino
    except FileNotFoundError:
        yield ok("No daemon has ever used this state directory.")
        return
    except PermissionError:
        yield note(f"{lock} cannot be looked at.", "Run patchctl doctor as root or as the daemon's user.")
        return
    holders = holders_of(subject.config.proc_root / "locks", inode)
    if holders is None:
        yield note(f"{subject.config.proc_root}/locks does not tell who uses the state directory.")
    elif not holders:
        yield ok(f"No process uses the state directory {subject.state_dir}.")
    elif subject.daemon_pid in holders:
        yield ok("The daemon that answers is the one that uses the state directory.")
    else:
        holder = next(iter(holders))
        yield warning(
            f"Process {holder} uses the state directory {subject.state_dir}, and does not answer at {subject.socket}.",
            f"Say where its socket is (patchctl --socket PATH), or stop it: kill {holder}.",
        )


def holders_of(locks: Path, inode: int) -> set[int] | None:
    """Processes with a lock on a file, from /proc/locks (proc(5)); None where that cannot be read."""
    try:
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            found.add(int(fields[4]))
    return found


def _log(subject: Subject) -> Iterator[Found]:
    pid = subject.daemon_pid
    if pid is None:
        yield note("No daemon runs, so nothing is logged.")
        return
    try:
        target = Path(f"/proc/{pid}/fd/2").readlink()
    except PermissionError:
        yield note("Where the daemon logs is not to be seen by this user.", "Run patchctl doctor as root.")
        return
    except FileNotFoundError:
        yield warning("The daemon's standard error is closed, so what it logs is lost.", _to_journal())
        return
    name = str(target)
    if name.startswith("socket:"):
        yield ok("The daemon logs to the journal: journalctl -u patchd.")
    elif name == os.devnull:
        yield warning("The daemon's log goes to /dev/null and is lost.", _to_journal())
    elif name.startswith(("pipe:", "/dev/")):
        yield ok(f"The daemon logs to {name}.")
    else:
        size = target.stat().st_size if target.exists() else None
        if size is None:
            yield warning(f"The daemon logs to a file that is gone, {name}.", _to_journal())
        elif size > LARGE_LOG:
            yield warning(
                f"The log {name} holds {size / 1e6:.0f} MB, and patchd does not rotate it.",
                "Have logrotate do it (copytruncate), or let systemd start the daemon, which logs to the journal.",
            )
        else:
            yield ok(f"The daemon logs to {name}, {size / 1e6:.1f} MB so far.")


def _to_journal() -> str:
    return "Start it with systemd, which keeps the log in the journal, or send standard error to a file."


def _span(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


DAEMON, RIVALS, LOG = Check("daemon", _daemon), Check("rivals", _rivals), Check("log", _log)
