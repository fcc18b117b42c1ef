"""The worker's end of the stream socket to the control plane: blocking frames, with a check for waiting ones."""

from __future__ import annotations

import select
import socket
from threading import Lock

from .protocol import MAX_HEADER_BYTES, MESSAGE, PREFIX, Message, encode


class Channel:
    """Frames over a connected stream socket. Any thread may send; only one at a time may receive."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = Lock()

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Take over an inherited descriptor."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(True)
        return cls(sock)

    def send(self, message: Message, payload: bytes = b"") -> None:
        """Send one frame. Raises BrokenPipeError when the control plane is gone."""
        frame = encode(message, payload)
        with self._sending:
            self._sock.sendall(frame)

    def waiting(self, timeout_s: float = 0.0) -> bool:
        """Whether a frame (or the end of the stream) can be read without blocking."""
        readable, _, _ = select.select([self._sock], [], [], timeout_s)
        return bool(readable)

    def receive(self) -> tuple[Message, bytes] | None:
        """The next frame; None when the control plane has closed its end."""
        prefix = self._read(PREFIX.size)
        if prefix is None:
            return None
        header_length, payload_length = PREFIX.unpack(prefix)
        if header_length > MAX_HEADER_BYTES:
            raise ConnectionError(f"frame header of {header_length} bytes is over {MAX_HEADER_BYTES}")
        header = self._read(header_length)
        payload = self._read(payload_length)
        if header is None or payload is None:
            return None
        return MESSAGE.validate_json(header), payload

    def _read(self, length: int) -> bytes | None:
        buffer = bytearray(length)
        view = memoryview(buffer)
        done = 0
        while done < length:
            count = self._sock.recv_into(view[done:])
            if count == 0:
                return None
            done += count
        return bytes(buffer)
