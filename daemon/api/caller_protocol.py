"""uvicorn's HTTP protocol, with the peer's credentials put into every request's state.

ASGI scopes do not carry them, and uvicorn's own Unix-socket option would make the socket's mode 0666.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..sockets import Caller


class CallerProtocol(HttpToolsProtocol):
    """Adds `request.state.caller`, read once per connection with SO_PEERCRED."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read the peer's credentials when it connects."""
        sock: Any = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            self.app_state = {**self.app_state, "caller": Caller.of(sock)}
        super().connection_made(cast(asyncio.Transport, transport))
