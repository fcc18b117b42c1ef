"""Pressure stall triggers: the kernel tells when tasks have lost time to a shortage, with nobody polling.

Kernel: Documentation/accounting/psi.rst, "Monitoring for pressure thresholds". With CAP_SYS_RESOURCE a trigger looks
ten times a window; without it windows are multiples of 2 s and are looked at every 2 s (Linux 6.5). Service managers
name the file to watch in MEMORY_PRESSURE_WATCH, CPU_PRESSURE_WATCH and IO_PRESSURE_WATCH
(https://systemd.io/PRESSURE/), which may also be a FIFO or an AF_UNIX stream socket.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import select
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from .event_sources import EventSource, SourceAbsentError

# Tasks lost 150 ms of 1 s; where only windows of 2 s are allowed, 150 ms of those: rather too early than too late.
TRIGGERS = (b"some 150000 1000000", b"some 150000 2000000")
RESOURCES = ("memory", "cpu", "io")
OFF = "/dev/null"
READ_BYTES = 4096


class PressureTrigger:
    """Watches one pressure file with the first of `triggers` that the kernel takes."""

    def __init__(self, name: str, path: Path, triggers: tuple[bytes, ...] = TRIGGERS) -> None:
        self.name, self.watches = name, str(path)
        self._path, self._triggers = path, triggers
        self._file = -1
        self._epoll: select.epoll | None = None

    def open(self) -> int:
        """Set the trigger. asyncio watches for readability alone, so an epoll of its own stands between."""
        refused: OSError | None = None
        for trigger in self._triggers:
            try:
                self._set(trigger)
            except OSError as error:
                self.close()
                refused = error
                continue
            assert self._epoll is not None
            self.watches = f"{self._path}: {trigger.decode('ascii', 'replace') or 'as it is set'}"
            return self._epoll.fileno()
        raise SourceAbsentError(_why(self._path, refused))

    def _set(self, trigger: bytes) -> None:
        mode = os.O_RDWR if trigger else os.O_RDONLY
        self._file = os.open(self._path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
        with select.epoll() as trial:
            trial.register(self._file, select.EPOLLPRI)  # EPERM for a plain file, which is not to be written into
        if trigger:
            os.write(self._file, trigger + b"\0")
        self._epoll = select.epoll()
        self._epoll.register(self._file, select.EPOLLPRI | select.EPOLLERR)

    def take(self) -> bool:
        """An event there was: looking whether the descriptor is readable has already consumed it.

        The kernel's trigger is taken by whoever polls it first, so that the inner epoll may come out empty here.
        """
        assert self._epoll is not None
        if any(event & select.EPOLLERR for _, event in self._epoll.poll(0)):
            raise SourceAbsentError(f"{self._path}: the kernel has taken the trigger away")
        return True

    def close(self) -> None:
        """Give the trigger back."""
        if self._epoll is not None:
            self._epoll.close()
            self._epoll = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class PressureStream:
    """Watches a FIFO or an AF_UNIX stream socket that a service manager has named: whatever comes is an event."""

    def __init__(self, name: str, path: Path, first: bytes) -> None:
        self.name, self.watches = name, str(path)
        self._path, self._first = path, first
        self._stream: socket.socket | None = None
        self._file = -1

    def open(self) -> int:
        """Connect or open, and write what is to be written."""
        try:
            if stat.S_ISSOCK(self._path.stat().st_mode):
                self._stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                self._stream.settimeout(1.0)
                self._stream.connect(os.fspath(self._path))
                self._stream.sendall(self._first)
                self._stream.setblocking(False)
                return self._stream.fileno()
            # Opened for writing too, or it would count as closed whenever nobody else has it open.
            self._file = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            if self._first:
                os.write(self._file, self._first)
            return self._file
        except OSError as error:
            self.close()
            raise SourceAbsentError(_why(self._path, error)) from error

    def take(self) -> bool:
        """Discard what has come."""
        try:
            read = self._stream.recv(READ_BYTES) if self._stream is not None else os.read(self._file, READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            raise SourceAbsentError(_why(self._path, error)) from error
        if not read:
            raise SourceAbsentError(f"{self._path}: the other side has closed it")
        return True

    def close(self) -> None:
        """Close it."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Refused:
    """A source that is absent from the start."""

    def __init__(self, name: str, watches: str, why: str) -> None:
        self.name, self.watches, self._why = name, watches, why

    def open(self) -> int:
        raise SourceAbsentError(self._why)

    def take(self) -> bool:
        return False

    def close(self) -> None:
        pass


def pressure_sources(proc_root: Path, own_group: Path | None, environ: Mapping[str, str]) -> tuple[EventSource, ...]:
    """What to watch for each resource: the file that the service manager names, else the machine's.

    Memory is watched in the `own_group` of a unified hierarchy too: under its limit the machine may have plenty.
    """
    sources: list[EventSource] = []
    for resource in RESOURCES:
        name = f"pressure.{resource}"
        named = environ.get(f"{resource.upper()}_PRESSURE_WATCH")
        if named:
            sources.append(_named(name, named, environ.get(f"{resource.upper()}_PRESSURE_WRITE", "")))
            continue
        sources.append(PressureTrigger(name, proc_root / "pressure" / resource))
        if resource == "memory" and own_group is not None:
            sources.append(PressureTrigger(f"{name}.own", own_group / f"{resource}.pressure"))
    return tuple(sources)


def _named(name: str, path: str, written: str) -> EventSource:
    variable = f"{name.removeprefix('pressure.').upper()}_PRESSURE_WATCH"
    if path == OFF:
        return _Refused(name, path, f"{variable} is {OFF}: the service manager asks not to watch")
    if not path.startswith("/"):
        return _Refused(name, path, f"{variable} is '{path}', which is no absolute path")
    try:
        first = base64.b64decode(written, validate=True)
    except (binascii.Error, ValueError):
        return _Refused(name, path, f"{variable.replace('WATCH', 'WRITE')} is not Base64")
    with contextlib.suppress(OSError):
        mode = Path(path).stat().st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            return PressureStream(name, Path(path), first)
    return PressureTrigger(name, Path(path), (first.removesuffix(b"\0"),))


def _why(path: Path, error: OSError | None) -> str:
    number = None if error is None else error.errno
    if number == errno.ENOENT:
        return f"{path} does not exist: this kernel or machine tells no pressure there"
    if number in (errno.EACCES, errno.EROFS):
        return f"{path} may not be written by this user or in this sandbox"
    if number == errno.EPERM:
        return f"{path} is not a file that tells of pressure, or triggers on it are not permitted"
    if number == errno.EOPNOTSUPP:
        return f"{path}: this kernel has pressure stall information switched off"
    return f"{path}: {'no trigger is given' if error is None else error.strerror}"
