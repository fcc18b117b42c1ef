"""How fast the daemon tells its state: `patchctl status`, and GET /v1/status over one keep-alive connection.

Peers in the same run, turn about: an empty Python program for the command, and for the requests a bare Starlette
application under uvicorn that answers fixed JSON of the same size over a Unix socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import end, finish, parser, print_table, quantile, running_daemon, spread

ROUNDS = 10
BARE_SERVER = """
import sys, uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
body = open(sys.argv[2], "rb").read()
async def status(request):
    return Response(body, media_type="application/json")
uvicorn.run(Starlette(routes=[Route("/v1/status", status)]), uds=sys.argv[1], access_log=False, log_level="error",
            loop="asyncio", http="httptools", server_header=False, date_header=False)
"""
REQUEST = b"GET /v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Connection:
    """One keep-alive connection; the least that a client can do, so that the server is what is measured."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(os.fspath(path))

    def get(self) -> bytes:
        """The body of GET /v1/status. Raises RuntimeError unless the answer is 200 and has a length."""
        self._socket.sendall(REQUEST)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
        if b" 200 " not in lines[0] + b" " or not lengths:
            raise RuntimeError(f"unexpected answer: {head.decode(errors='replace')}")
        while len(body) < lengths[0]:
            body += self._more()
        return body

    def _more(self) -> bytes:
        part = self._socket.recv(262_144)
        if not part:
            raise RuntimeError("the server closed the connection")
        return part

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


@contextmanager
def bare_server(body: bytes) -> Iterator[Path]:
    """The peer: starts it, yields its socket, ends it."""
    with tempfile.TemporaryDirectory(prefix="patchd-bench-") as folder:
        path, file = Path(folder, "s"), Path(folder, "body")
        file.write_bytes(body)
        process = subprocess.Popen([sys.executable, "-c", BARE_SERVER, str(path), str(file)])
        try:
            deadline = time.monotonic() + 20.0
            while not path.exists():
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("the bare server did not start")
                time.sleep(0.05)
            yield path
        finally:
            end(process)


def timed(command: list[str], environ: dict[str, str]) -> float:
    """Milliseconds that a command takes from start to end."""
    start = time.perf_counter()
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - start) * 1e3


def requests(connection: Connection, count: int) -> list[float]:
    """Milliseconds of each of `count` requests, one after the other."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        connection.get()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--requests", type=int, default=5000, help="requests to each server [default: 5000]")
    made.add_argument("--commands", type=int, default=20, help="runs of patchctl status [default: 20]")
    arguments = made.parse_args()
    with running_daemon() as daemon:
        environ = {**os.environ, "PATCHD_SOCKET": str(daemon.socket)}
        patchctl = str(Path(sys.executable).parent / "patchctl")
        commands: dict[str, list[float]] = {"patchctl status": [], "python -c pass": []}
        for _ in range(arguments.commands):
            commands["patchctl status"].append(timed([patchctl, "status"], environ))
            commands["python -c pass"].append(timed([sys.executable, "-c", "pass"], environ))
        ours = Connection(daemon.socket)
        body = ours.get()
        with bare_server(body) as path:
            theirs = Connection(path)
            found: dict[str, list[float]] = {"patchd GET /v1/status": [], "bare starlette": []}
            for _ in range(ROUNDS):
                for name, connection in zip(found, (ours, theirs), strict=True):
                    found[name] += requests(connection, max(1, arguments.requests // ROUNDS))
            theirs.close()
        ours.close()
    print_table(
        ("command", "median ms", "p99 ms", "runs"),
        [(name, quantile(t, 0.5), quantile(t, 0.99), len(t)) for name, t in commands.items()],
    )
    print()
    print_table(
        ("server", "requests/s", "p50 ms", "p99 ms", "requests"),
        [(name, 1e3 * len(t) / sum(t), quantile(t, 0.5), quantile(t, 0.99), len(t)) for name, t in found.items()],
    )
    ratio = quantile(found["patchd GET /v1/status"], 0.5) / quantile(found["bare starlette"], 0.5)
    print(f"\nratio of medians to the bare server: {ratio:.2f}; {len(body)} bytes a body")
    result = {name: spread(times) for name, times in (commands | found).items()}
    rates = {name: 1e3 * len(times) / sum(times) for name, times in found.items()}
    finish("status", {"ms": result, "requests_per_s": rates, "ratio": ratio, "body": len(body)}, arguments.output)


if __name__ == "__main__":
    main()
