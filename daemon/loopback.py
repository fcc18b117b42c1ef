"""The optional TCP listener, for clients that know no Unix sockets. It is for programs of this machine and no others.

The kernel does not tell who is at the other end of a TCP connection, so callers stay unknown and may change nothing;
`api.loopback_guard` keeps out what browsers send.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from ..policies.errors import ConfigError

BACKLOG = 128
HTTP_PORT = 80  # the one that a Host need not name


def parse_listen(text: str) -> tuple[str, int]:
    """Address and port out of "127.0.0.1:8000" or "[::1]:8000". Raises ConfigError unless it is this machine's own."""
    found = re.fullmatch(r"(?:\[([0-9a-f:]+)\]|([0-9.]+)):([0-9]{1,5})", text, re.IGNORECASE | re.ASCII)
    try:
        address = ipaddress.ip_address(found[1] or found[2]) if found else None
    except ValueError:
        address = None
    if found is None or address is None or int(found[3]) > 0xFFFF:
        raise ConfigError(f"'{text}' is no address and port.", hint="Give one such as 127.0.0.1:8000 or [::1]:8000.")
    if not address.is_loopback:
        raise ConfigError(
            f"{address} is not an address of this machine alone, and patchd is not for the network.",
            hint="Give a loopback address, such as 127.0.0.1:8000 or [::1]:8000.",
        )
    return str(address), int(found[3])


def bind_loopback(text: str) -> socket.socket:
    """Listen at an address of this machine. Raises ConfigError when that cannot be done."""
    address, port = parse_listen(text)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listener = socket.create_server((address, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"patchd cannot listen at {text}: {error.strerror or error}.", hint="Give another address as `listen`."
        ) from error
    listener.setblocking(False)
    return listener


def bound_at(listener: socket.socket) -> str:
    """Where a socket of `bind_loopback` listens, with the port that was given or found."""
    address, port = listener.getsockname()[:2]
    return f"{_in_url(address)}:{port}"


def authorities(connection: socket.socket) -> frozenset[str]:
    """What the Host of a request on this TCP connection may be."""
    address, port = connection.getsockname()[:2]
    names = {"localhost", "127.0.0.1", "[::1]", _in_url(address)}
    bare = names if port == HTTP_PORT else frozenset[str]()
    return frozenset({f"{name}:{port}" for name in names} | bare)


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
