"""HTTP/1.1 without a socket (RFC 9112): requests as bytes, and answers read by generators that say what they need next.

A generator yields `LINE`, `REST` or a number of bytes and is sent what a `Buffer` gives for it; the two transports
differ only in how they fill the buffer. What is sent back is shorter than asked for when the daemon has hung up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..policies.error_codes import error_from_code
from ..policies.errors import ForbiddenError, PatchdError, UnavailableError
from .call import Call

LINE, REST = -1, -2
LINE_LIMIT = 64 * 1024  # bytes; a longer line is no answer of patchd's
SEND_BYTES = 256 * 1024  # one send; between two of them an early answer is noticed
RECEIVE_BYTES = 256 * 1024
READ_TIMEOUT_S = 10.0  # every reading route answers from memory or SQLite
MOST_HEADERS = 100

Read = TypeVar("Read")
Reading = Generator[int, bytes, Read]
_STATUS = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: .*)?")


class HttpError(Exception):
    """What came is no answer of HTTP/1.1, or ends in the middle of one."""


class Buffer:
    """What has been received and not been read."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ended = False

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, received: bytes) -> None:
        """Add what a socket gave; nothing at all is its end."""
        self._data += received
        self._ended = self._ended or not received

    def take(self, need: int) -> bytes | None:
        """What a generator asked for; None while more has to be received first."""
        count = need
        if need == REST:
            count = len(self._data) if self._ended else -1
        elif need == LINE:
            count = self._data.find(b"\n", 0, LINE_LIMIT) + 1 or (LINE_LIMIT if len(self._data) >= LINE_LIMIT else -1)
        if not 0 <= count <= len(self._data):
            if not self._ended:
                return None
            count = len(self._data)
        taken = bytes(self._data[:count])
        del self._data[:count]
        return taken


@dataclass(frozen=True, slots=True)
class Head:
    """Status and framing of an answer; without a length it ends with the connection."""

    status: int
    length: int | None
    chunked: bool
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer, and whether its connection can be used again."""

    status: int
    body: bytes
    keep_alive: bool


def request_head(call: Call[Any]) -> bytes:
    """Request line and headers; the body follows them."""
    lines = [f"{call.method} {call.target} HTTP/1.1", "Host: localhost", "Accept: application/json"]
    if call.body is not None:
        lines.append(f"Content-Type: {call.content_type}")
    if call.body is not None or call.method == "POST":
        lines.append(f"Content-Length: {len(call.body or b'')}")
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def read_head() -> Reading[Head]:
    """The head of an answer; interim answers (1xx) are passed over."""
    while True:
        match = _STATUS.fullmatch((yield from _line()))
        if match is None:
            raise HttpError("no status line")
        lines: list[str] = []
        while line := (yield from _line()):
            lines.append(line.decode("latin-1"))
            if ":" not in lines[-1] or len(lines) > MOST_HEADERS:
                raise HttpError("a malformed header")
        pairs = (each.split(":", 1) for each in lines)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        if (status := int(match[2])) >= 200:
            return _framed(status, headers, reusable=match[1] == b"1")


def _framed(status: int, headers: dict[str, str], reusable: bool) -> Head:
    chunked = headers.get("transfer-encoding", "").lower().endswith("chunked")
    length = headers.get("content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        raise HttpError("a malformed length")
    bare = status in (204, 304)
    known = 0 if bare else None if chunked or length is None else int(length)
    keep_alive = reusable and headers.get("connection", "").lower() != "close" and (chunked or known is not None)
    return Head(status, known, chunked and not bare, keep_alive)


def read_answer() -> Reading[HttpAnswer]:
    """A whole answer."""
    head = yield from read_head()
    return HttpAnswer(head.status, (yield from read_body(head)), head.keep_alive)


def read_body(head: Head) -> Reading[bytes]:
    """The whole body that follows `head`."""
    if head.chunked:
        parts = []
        while part := (yield from read_chunk()):
            parts.append(part)
        return b"".join(parts)
    if head.length is None:
        return (yield REST)
    return (yield from _exactly(head.length))


def read_chunk() -> Reading[bytes]:
    """The next chunk of a chunked body; empty at its end."""
    size = (yield from _line()).partition(b";")[0].strip()
    if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
        raise HttpError("a malformed chunk")
    if not (length := int(size, 16)):
        while (yield from _line()):  # trailers
            pass
        return b""
    part = yield from _exactly(length)
    if (yield from _line()):
        raise HttpError("a malformed chunk")
    return part


def read_part(head: Head) -> Reading[bytes]:
    """The next part of a stream's body, a line or a chunk; empty at its end."""
    return (yield from read_chunk()) if head.chunked else (yield LINE)


def _line() -> Reading[bytes]:
    line = yield LINE
    if not line.endswith(b"\n"):
        raise HttpError("the connection was closed" if len(line) < LINE_LIMIT else "too long a line")
    return line.rstrip(b"\r\n")


def _exactly(count: int) -> Reading[bytes]:
    data = (yield count) if count else b""
    if len(data) < count:
        raise HttpError("the connection was closed")
    return data


class EventParser:
    """The `data` of server-sent events, from parts of their stream as they come."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, part: bytes) -> Iterator[str]:
        """The events that `part` completes."""
        *lines, self._rest = (self._rest + part).split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            if text.startswith("data:"):
                self._data.append(text[5:].removeprefix(" "))
            elif not text and self._data:
                yield "\n".join(self._data)
                self._data = []


def error_from_body(status: int, body: bytes) -> PatchdError:
    """The error of `policies.errors` that a non-2xx answer stands for."""
    try:
        fields = json.loads(body)
        message, code = str(fields["error"]), str(fields["code"])
    except (ValueError, KeyError, TypeError):
        return PatchdError(f"patchd answered with status {status} and no readable error.")
    return error_from_code(code, message, fields.get("hint"), fields.get("retry_after_s"))


def checked(answer: HttpAnswer) -> bytes:
    """The body of a 2xx answer. Raises the error that another one stands for."""
    if not 200 <= answer.status < 300:
        raise error_from_body(answer.status, answer.body)
    return answer.body


def unanswered(call: Call[Any], path: Path, timeout_s: float) -> UnavailableError:
    """The daemon was silent for too long."""
    return UnavailableError(f"patchd at {path} did not answer {call.method} {call.target} within {timeout_s:g} s.")


def unreachable(path: Path, error: OSError | HttpError) -> PatchdError:
    """Why there is no answer, and what to do."""
    if isinstance(error, PermissionError):
        return ForbiddenError(
            f"This user may not open the socket {path}.",
            hint="Ask for membership of the socket's group, or give another one with --socket.",
        )
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
        return UnavailableError(
            f"patchd does not answer at {path}.", hint="Start it with `patchd`, or give its socket with --socket."
        )
    if isinstance(error, (ConnectionError, HttpError)):
        return UnavailableError(f"patchd at {path} closed the connection before it had answered.", hint="Try again.")
    return UnavailableError(f"patchd cannot be reached at {path}: {error.strerror or error}.")
