"""A load of clients on keep-alive connections, each sending one prepared request after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Server:
    """Where to ask: a Unix socket or a port on this machine."""

    socket: Path | None = None
    port: int | None = None

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        if self.socket is not None:
            return await asyncio.open_unix_connection(self.socket)
        return await asyncio.open_connection("127.0.0.1", self.port)


def post(path: str, body: bytes, content_type: str) -> bytes:
    """One request, ready to be sent."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
    return head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body


def multipart(name: str, data: bytes) -> tuple[bytes, str]:
    """A form with one file, and its content type."""
    edge = "patchd-benchmark"
    head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n'
    head += "Content-Type: application/octet-stream\r\n\r\n"
    return head.encode() + data + f"\r\n--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}"


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> bytes:
    """The body of the answer to one request. Raises RuntimeError unless its status is 2xx."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    body = await reader.readexactly(length)
    if " 2" not in lines[0]:
        raise RuntimeError(f"{lines[0]}: {body[:300]!r}")
    return body


async def client(server: Server, request: bytes, until: float, taken: list[float]) -> None:
    """Ask until `until`, a moment of `time.perf_counter`; the milliseconds of each answer go to `taken`."""
    reader, writer = await server.connect()
    try:
        while (start := time.perf_counter()) < until:
            await ask(reader, writer, request)
            taken.append((time.perf_counter() - start) * 1e3)
    finally:
        writer.close()


def stream(server: Server, requests: Sequence[bytes], clients: int) -> tuple[list[tuple[float, bytes]], float]:
    """Each request once, spread over `clients`: milliseconds and body of the answers, and how many came a second."""
    left = iter(enumerate(requests))
    answers: list[tuple[float, bytes]] = [(0.0, b"")] * len(requests)

    async def one() -> None:
        reader, writer = await server.connect()
        try:
            for place, request in left:
                start = time.perf_counter()
                body = await ask(reader, writer, request)
                answers[place] = (time.perf_counter() - start) * 1e3, body
        finally:
            writer.close()

    async def run() -> float:
        start = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        return len(requests) / (time.perf_counter() - start)

    rate = asyncio.run(run())
    return answers, rate


def once(server: Server, request: bytes) -> bytes:
    """The answer to one request. Raises RuntimeError unless its status is 2xx."""

    async def run() -> bytes:
        reader, writer = await server.connect()
        try:
            return await ask(reader, writer, request)
        finally:
            writer.close()

    return asyncio.run(run())


def load(server: Server, request: bytes, clients: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds of each answer that `clients` got in `seconds`, and the answers a second."""

    async def run() -> tuple[list[float], float]:
        taken: list[float] = []
        start = time.perf_counter()
        await asyncio.gather(*(client(server, request, start + seconds, taken) for _ in range(clients)))
        return taken, len(taken) / (time.perf_counter() - start)

    return asyncio.run(run())
