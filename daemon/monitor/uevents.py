"""Kernel events of devices, for those whose state is sampled: a plug pulled or a battery's change is seen at once.

Kernel: lib/kobject_uevent.c, a datagram `ACTION@DEVPATH`, then `KEY=VALUE` texts, all ended by zero bytes, from the
netlink family NETLINK_KOBJECT_UEVENT to group 1. (Group 2 is what udev sends on after it has looked at them, later.)
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from dataclasses import dataclass

from .event_sources import SourceAbsentError

NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1
SUBSYSTEMS = ("power_supply", "thermal")
MAX_BYTES = 16384  # the kernel's own limit is 2048 for all texts together
MAX_AT_ONCE = 64  # messages read in one turn of the event loop


@dataclass(frozen=True, slots=True)
class Uevent:
    """What happened to a device."""

    action: str
    path: str
    subsystem: str


def parse_uevent(message: bytes) -> Uevent | None:
    """The event in a kernel's message; None for any other."""
    head, *fields = message.split(b"\0")
    action, at, path = head.partition(b"@")
    if not at or not action or not path.startswith(b"/"):
        return None
    told = dict(field.split(b"=", 1) for field in fields if b"=" in field)
    if told.get(b"ACTION") != action or told.get(b"DEVPATH") != path:
        return None
    return Uevent(*(text.decode("utf-8", "replace") for text in (action, path, told.get(b"SUBSYSTEM", b""))))


def kernel_socket() -> socket.socket:
    """A socket that hears the kernel's events."""
    made = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT
    )
    try:
        made.bind((0, KERNEL_GROUP))
    except OSError:
        made.close()
        raise
    return made


class Uevents:
    """Watches the events of some subsystems; `connect` gives the socket that they come from."""

    name = "uevents"

    def __init__(
        self, subsystems: tuple[str, ...] = SUBSYSTEMS, connect: Callable[[], socket.socket] = kernel_socket
    ) -> None:
        self.watches = f"kernel events of {' and '.join(subsystems)}"
        self._subsystems, self._connect = subsystems, connect
        self._socket: socket.socket | None = None

    def open(self) -> int:
        """Bind the socket."""
        try:
            self._socket = self._connect()
        except OSError as error:
            raise SourceAbsentError(f"the kernel's device events cannot be heard here: {error.strerror}") from error
        return self._socket.fileno()

    def take(self) -> bool:
        """Read what has come; whether one of it is of a subsystem that is watched."""
        assert self._socket is not None
        found = False
        for _ in range(MAX_AT_ONCE):
            try:
                message = self._socket.recv(MAX_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise SourceAbsentError(f"the kernel's device events ended: {error.strerror}") from error
                found = True  # some were lost, which may have been any
                continue
            event = parse_uevent(message)
            found = found or (event is not None and event.subsystem in self._subsystems)
        return found

    def close(self) -> None:
        """Hear no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
