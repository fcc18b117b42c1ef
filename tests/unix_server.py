"""A small real HTTP/1.1 server on a Unix socket, for tests of the client: it answers what a test tells it to."""

from __future__ import annotations

import json
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel


@dataclass
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


Answer = tuple[int, bytes] | Callable[["Handler", Seen], None]


@dataclass
class FakeDaemon:
    """The answers by method and path, and what has been asked."""

    path: Path
    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0

    def on(self, method: str, path: str, body: BaseModel | bytes | Callable[..., None], status: int = 200) -> None:
        """Answer `method path` with a model, with bytes, or by calling a function."""
        if isinstance(body, BaseModel):
            body = body.model_dump_json().encode()
        self.answers[method, path] = body if callable(body) else (status, body)


class Handler(BaseHTTPRequestHandler):
    """Looks the answer up."""

    protocol_version = "HTTP/1.1"
    daemon: FakeDaemon

    def setup(self) -> None:
        super().setup()
        self.daemon = self.server.daemon  # type: ignore[attr-defined]
        self.daemon.connections += 1

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""

    def address_string(self) -> str:
        return "unix"

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_method(self) -> None:
        parts = urlsplit(self.path)
        key = (self.command, parts.path)
        found = self.daemon.answers.get(key)
        if found is None:
            body = json.dumps({"error": f"There is no route {key[0]} {key[1]}.", "code": "not_found"}).encode()
            found = (404, body)
        length = int(self.headers.get("Content-Length", "0"))
        early = callable(found) and getattr(found, "early", False)
        seen = Seen(
            self.command,
            parts.path,
            parse_qs(parts.query),
            {name.lower(): value for name, value in self.headers.items()},
            b"" if early else self.rfile.read(length),
        )
        self.daemon.seen.append(seen)
        if callable(found):
            found(self, seen)
        else:
            self.answer(*found)

    do_GET = do_POST = do_DELETE = handle_method  # noqa: N815


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextmanager
def fake_daemon() -> Iterator[FakeDaemon]:
    """A server on a fresh socket; its path is short enough for `sun_path`."""
    with tempfile.TemporaryDirectory(prefix="pd") as folder:
        daemon = FakeDaemon(Path(folder) / "s.sock")
        with _Server(str(daemon.path), Handler) as server:
            server.daemon = daemon  # type: ignore[attr-defined]
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            try:
                yield daemon
            finally:
                server.shutdown()
                thread.join()
