"""What every benchmark shares: a real daemon on a temporary state, the machine in words, tables and JSON."""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from patchd import __version__
from patchd.client import Client
from patchd.policies.errors import PatchdError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class RunningDaemon:
    """A daemon that answers on `socket` and keeps its state in `state`."""

    process: subprocess.Popen[bytes]
    state: Path
    socket: Path
    client: Client


@contextmanager
def running_daemon(*arguments: str) -> Iterator[RunningDaemon]:
    """Start `patchd` on a temporary state directory, and end it with SIGTERM.

    Raises RuntimeError with the end of its log when it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="patchd-bench-"))
    log, state, socket = folder / "log", folder / "state", folder / "s"
    command = [sys.executable, "-m", "patchd.daemon.main", "--state", str(state), "--socket", str(socket)]
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *arguments], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        with Client(socket, retries=0) as client:
            _wait_for(client, process, log)
            yield RunningDaemon(process, state, socket, client)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(client: Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.status()
        except PatchdError as error:
            if process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise RuntimeError(f"patchd did not start: {error}\n{tail}") from error
        return


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not listen."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def sample_photograph() -> Path:
    """A photograph of 640 x 427 pixels that scikit-learn ships. Found without importing it."""
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise RuntimeError("scikit-learn is not installed; `make bench` installs it.")
    return Path(spec.origin).parent / "datasets" / "images" / "china.jpg"


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, 99th percentile and count."""
    return {
        "median": statistics.median(values),
        "p25": quantile(values, 0.25),
        "p75": quantile(values, 0.75),
        "p99": quantile(values, 0.99),
        "n": len(values),
    }


def machine() -> dict[str, Any]:
    """The machine, as far as it matters to a figure."""
    facts: dict[str, Any] = {"python": platform.python_version(), "kernel": platform.release(), "patchd": __version__}
    facts["processors"] = len(os.sched_getaffinity(0))
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            facts["processor"] = value.strip()
        elif name.strip() == "flags":
            facts["avx512"] = "avx512f" in value.split()
            break
    facts["load_1_min"] = round(os.getloadavg()[0], 2)
    facts["time"] = datetime.now(UTC).isoformat(timespec="seconds")
    return facts


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with `--output`."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--output", type=Path, metavar="FILE", help="write the result as JSON")
    return made


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns; numbers are flush right."""
    cells = [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    sizes = [max(len(row[i]) for row in (list(header), *cells)) for i in range(len(header))]
    right = [any(isinstance(row[i], int | float) for row in rows) for i in range(len(header))]
    for line in (list(header), ["-" * size for size in sizes], *cells):
        parts = (c.rjust(s) if r else c.ljust(s) for c, s, r in zip(line, sizes, right, strict=True))
        print("  ".join(parts).rstrip())


def finish(name: str, result: dict[str, Any], output: Path | None) -> None:
    """Print the machine and write the JSON file where one was asked for."""
    facts = machine()
    print("\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        document = {"benchmark": name, "command": sys.argv, "machine": facts, "result": result}
        output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
