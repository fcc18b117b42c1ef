"""HTTP/1.1 over one Unix socket with the standard library: requests, streams, and errors that say what to do."""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlencode

from ..policies.errors import ForbiddenError, PatchdError, UnavailableError
from .error_codes import error_from_code

Query = Mapping[str, str | int | float | None]

READ_TIMEOUT_S = 10.0  # every reading route answers from memory or SQLite
SEND_BYTES = 256 * 1024  # one send; between two of them an early answer is noticed


def error_from_body(status: int, body: bytes) -> PatchdError:
    """The error of `policies.errors` that a non-2xx answer stands for."""
    try:
        fields = json.loads(body)
        message, code = str(fields["error"]), str(fields["code"])
    except (ValueError, KeyError, TypeError):
        return PatchdError(f"patchd answered with status {status} and no readable error.")
    return error_from_code(code, message, fields.get("hint"), fields.get("retry_after_s"))


class _Connection(http.client.HTTPConnection):
    """HTTP over one Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(os.fspath(self._path))
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class UnixHttp:
    """Requests over one keep-alive connection, so from one thread at a time."""

    def __init__(self, path: Path, timeout_s: float = READ_TIMEOUT_S) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_s: float | None = None,
    ) -> bytes:
        """Send one request and return the body of the 2xx answer, unchanged. Raises the error the answer stands for."""
        target = path + _encode(query)
        limit = self._timeout_s if timeout_s is None else timeout_s
        status, answer = self._exchange(method, target, body, content_type, limit)
        if not 200 <= status < 300:
            raise error_from_body(status, answer)
        return answer

    def _exchange(
        self, method: str, target: str, body: bytes | None, content_type: str, timeout_s: float
    ) -> tuple[int, bytes]:
        reused = self._usable()
        try:
            return self._try_exchange(method, target, body, content_type, timeout_s)
        except TimeoutError as error:
            self.close()
            raise UnavailableError(
                f"patchd at {self.path} did not answer {method} {target} within {timeout_s:g} s."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # An idle connection may be closed while the request is on its way. Only what changes nothing is sent twice.
            if not (reused and method == "GET"):
                raise self._unreachable(error) from error
        try:
            return self._try_exchange(method, target, body, content_type, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def _usable(self) -> bool:
        """Whether there is a connection to use again; one that the daemon has closed meanwhile is dropped here."""
        if self._connection is None or self._connection.sock is None:
            return False
        if select.select([self._connection.sock], [], [], 0)[0]:
            self.close()
            return False
        return True

    def _try_exchange(
        self, method: str, target: str, body: bytes | None, content_type: str, timeout_s: float
    ) -> tuple[int, bytes]:
        connection = self._open(timeout_s)
        connection.putrequest(method, target, skip_accept_encoding=True)
        connection.putheader("Accept", "application/json")
        if body is not None:
            connection.putheader("Content-Type", content_type)
        if body is not None or method == "POST":
            connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders()
        complete = _send(connection.sock, body or b"", timeout_s)
        response = connection.getresponse()
        answer = response.read()
        if not complete or response.will_close:
            self.close()
        return response.status, answer

    def _open(self, timeout_s: float | None) -> _Connection:
        if self._connection is None:
            self._connection = _Connection(self.path, timeout_s)
            self._connection.connect()
        else:
            self._connection.sock.settimeout(timeout_s)
        return self._connection

    def _unreachable(self, error: OSError | http.client.HTTPException) -> PatchdError:
        if isinstance(error, PermissionError):
            return ForbiddenError(
                f"This user may not open the socket {self.path}.",
                hint="Ask for membership of the socket's group, or give another one with --socket.",
            )
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
            return UnavailableError(
                f"patchd does not answer at {self.path}.",
                hint="Start it with `patchd`, or give its socket with --socket.",
            )
        if isinstance(error, (ConnectionError, http.client.HTTPException)):
            return UnavailableError(
                f"patchd at {self.path} closed the connection before it had answered.", hint="Try again."
            )
        return UnavailableError(f"patchd cannot be reached at {self.path}: {error.strerror or error}.")

    def stream(self, path: str, query: Query | None = None) -> Iterator[str]:
        """The `data` of each server-sent event, until the daemon ends the stream.

        Uses a connection of its own, so other requests may be made meanwhile.
        """
        connection = _Connection(self.path, self._timeout_s)
        try:
            connection.connect()
            sock = connection.sock
            connection.request("GET", path + _encode(query))
            response = connection.getresponse()
            if response.status != 200:
                raise error_from_body(response.status, response.read())
            sock.settimeout(None)  # a quiet device has no events for hours
            yield from _sse_data(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()


def _encode(query: Query | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return "?" + urlencode(given, safe=",") if given else ""


def _send(sock: socket.socket, body: bytes, timeout_s: float) -> bool:
    """Send `body`; False when the daemon answered, or hung up, before all of it was sent (a body that is too large)."""
    view = memoryview(body)
    while view:
        started = time.monotonic()
        readable, writable, _ = select.select([sock], [sock], [], timeout_s)
        if readable:
            return False
        if not writable:
            raise TimeoutError(f"nothing could be sent for {time.monotonic() - started:.0f} s")
        try:
            view = view[sock.send(view[:SEND_BYTES]) :]
        except (BrokenPipeError, ConnectionResetError):
            return False
    return True


def _sse_data(response: http.client.HTTPResponse) -> Iterator[str]:
    """The `data` fields of a server-sent event stream, one string an event."""
    data: list[str] = []
    while line := response.readline():
        text = line.decode().rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text and data:
            yield "\n".join(data)
            data = []
