"""uvicorn's HTTP protocol, with what the connection tells of the peer put into every request's state.

ASGI scopes do not carry them, and uvicorn's own Unix-socket option would make the socket's mode 0666.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..loopback import authorities
from ..sockets import Caller
from .loopback_guard import STATE_KEY


class CallerProtocol(HttpToolsProtocol):
    """Adds `request.state.caller`, read once per connection with SO_PEERCRED; on TCP, what its Host may be."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read the peer's credentials when it connects; a peer on TCP has none."""
        sock: Any = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            self.app_state = {**self.app_state, "caller": Caller.of(sock)}
        elif sock is not None:
            self.app_state = {**self.app_state, STATE_KEY: authorities(sock)}
        super().connection_made(cast(asyncio.Transport, transport))
