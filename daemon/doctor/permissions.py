"""Who may do what: the state directory and the socket, their owners and modes, and whether this user gets in."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from .check import Check, Found, failure, note, ok, warning
from .subject import Subject

PRIVATE = 0o077  # bits that nobody but the owner should have on the state


def _state(subject: Subject) -> Iterator[Found]:
    path = subject.state_dir
    try:
        seen = path.stat()
    except FileNotFoundError:
        yield from _missing(subject)
        return
    except PermissionError:
        yield note(f"The state directory {path} cannot be looked at by {_user(os.geteuid())}.", _as_root())
        return
    if not stat.S_ISDIR(seen.st_mode):
        yield failure(f"{path} is no directory.", "Move it away, or give the daemon another with --state DIR.")
        return
    mode, owner = stat.S_IMODE(seen.st_mode), seen.st_uid
    if mode & PRIVATE:
        yield warning(
            f"The state directory {path} has mode {mode:04o}, so that others may look into it.",
            f"Run: chmod 700 {path}",
        )
    if mode & 0o700 != 0o700:
        yield failure(
            f"The state directory {path} has mode {mode:04o}, so that its owner cannot use it.",
            f"Run: chmod 700 {path}",
        )
    runs_as = _runs_as(subject)
    if runs_as is not None and runs_as not in (owner, 0):
        yield failure(
            f"The state directory {path} belongs to {_user(owner)}, and the daemon runs as {_user(runs_as)}.",
            f"Run: chown -R {_user(runs_as)} {path}",
        )
    strangers = [entry for entry in _entries(path) if entry.lstat().st_uid not in (owner, 0)]
    foreign = [entry for entry in _entries(path) if entry.lstat().st_uid == 0 != owner]
    if strangers or foreign:
        first = (*strangers, *foreign)[0]
        yield failure(
            f"{len(strangers) + len(foreign)} files of the state do not belong to its owner {_user(owner)}, the first "
            f"is {first}.",
            f"Run: chown -R {_user(owner)} {path}",
        )
    elif not mode & PRIVATE and mode & 0o700 == 0o700:
        yield ok(f"The state directory {path} belongs to {_user(owner)} and nobody else gets in.")


def _missing(subject: Subject) -> Iterator[Found]:
    path = subject.state_dir
    parent = next(each for each in path.parents if each.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        yield note(f"There is no state directory {path} yet; a daemon makes it at its first start.")
    else:
        yield failure(
            f"There is no state directory {path}, and {_user(os.geteuid())} may not make it in {parent}.",
            "Give the daemon another with --state DIR, or start it as a user who may.",
        )


def _entries(path: Path) -> Iterator[Path]:
    """The directory's own entries and those one below: the rest is made by the daemon alone."""
    try:
        for entry in sorted(path.iterdir()):
            yield entry
            if entry.is_dir() and not entry.is_symlink():
                yield from sorted(entry.iterdir())
    except PermissionError:
        return


def _runs_as(subject: Subject) -> int | None:
    if subject.daemon_pid is None:
        return None
    try:
        return Path(f"/proc/{subject.daemon_pid}").stat().st_uid
    except OSError:
        return None


def _socket(subject: Subject) -> Iterator[Found]:
    path, wanted = subject.socket, subject.config.socket_mode
    try:
        seen = path.stat()
    except FileNotFoundError:
        yield note(
            f"There is no socket at {path}.", "Start the daemon, or say where its socket is: patchctl --socket PATH."
        )
        return
    except PermissionError:
        me, group = _user(os.geteuid()), _group(_first_visible(path).stat().st_gid)
        yield failure(
            f"{me} may not look into {path.parent}, where the socket is.",
            f"Join its group: usermod -aG {group} {me}, and log in again.",
        )
        return
    if not stat.S_ISSOCK(seen.st_mode):
        yield failure(f"{path} is no socket.", "Move it away, or give the daemon another path with --socket PATH.")
        return
    mode, group = stat.S_IMODE(seen.st_mode), _group(seen.st_gid)
    if subject.status is None and subject.unreachable is not None:
        yield warning(
            f"Nobody answers at the socket {path}: {subject.unreachable}",
            "Start the daemon; it takes the place of a socket that a dead one has left.",
        )
    if mode & 0o006:
        yield warning(
            f"The socket {path} has mode {mode:04o}, so that every user of this machine may predict.",
            "Set socket_mode = 0o660 in the daemon's configuration, or SocketMode=0660 in patchd.socket.",
        )
    elif mode != wanted and subject.status is not None:
        yield note(
            f"The socket {path} has mode {mode:04o}; the configuration says {wanted:04o}.",
            "Restart the daemon; under systemd SocketMode= of patchd.socket decides.",
        )
    else:
        yield ok(f"The socket {path} has mode {mode:04o}: {_user(seen.st_uid)} and the group {group} may connect.")


def _first_visible(path: Path) -> Path:
    for parent in path.parents:
        try:
            parent.stat()
        except PermissionError:
            continue
        return parent
    return Path("/")


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _as_root() -> str:
    return "Run patchctl doctor as root or as the daemon's user to have it examined."


STATE, SOCKET = Check("state", _state), Check("socket", _socket)
