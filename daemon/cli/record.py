"""`patchctl record`: the device's state, and what the daemon makes of it, into a trace file."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, BinaryIO

import click

from ...policies.errors import BadInputError, BusyError, ConflictError, NotFoundError, UnavailableError
from . import render
from .common import Settings, pass_settings

if TYPE_CHECKING:
    from ...client import Client
    from ...policies.trace import DaemonWork, TraceHeader
    from ..api.schemas import Status

PERIOD_S = 1.0  # the daemon samples once a second, or less often while nothing changes
RATES_EVERY_S = 10.0  # requests a second are counted over so long; it takes a look at every task
PACK_EVERY_S = 30.0  # a compressed recording that is killed loses at most so much
RETRY_S = 1.0
GZIP = 31  # zlib.compressobj: with the header and trailer of gzip


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl record unplugged.jsonl               until Ctrl-C\n"
        "  patchctl record day.jsonl.gz --seconds 86400  compressed\n"
        "  patchctl replay unplugged.jsonl\n\n"
        "What has changed is written at each moment, and what the daemon does: its allocations, the resolution of each "
        "task and its predictions a second. While the daemon restarts, the recording waits for it."
    )
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.  [default: at Ctrl-C]")
@click.option(
    "--period",
    type=click.FloatRange(0.05, 3600),
    default=PERIOD_S,
    show_default=True,
    metavar="SECONDS",
    help="Time between two moments.",
)
@click.option("--story", default="Recorded with `patchctl record`.", help="A sentence on what happened, for the file.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@pass_settings
def record(settings: Settings, file: Path, seconds: float | None, period: float, story: str, force: bool) -> None:
    """Record the device's state to a trace FILE (.jsonl, or .jsonl.gz). Ctrl-C ends it in order."""
    stem = file.name.removesuffix(".gz").removesuffix(".jsonl")
    name = re.sub(r"[^a-z0-9_-]+", "-", stem.lower()).strip("-_")[:64] or "trace"
    with settings.client() as client:
        header = _header(client, name, story, period)
        try:
            out = file.open("wb" if force else "xb", buffering=0)
        except FileExistsError as error:
            raise ConflictError(f"{file} exists already.", hint="Choose another name, or add --force.") from error
        except OSError as error:
            raise BadInputError(f"{file}: cannot be written: {error.strerror}.") from error
        with out:
            lines = TraceFile(out, packed=file.name.endswith(".gz"))
            recording = Recording(client, header, lines)
            try:
                recording.run(seconds, period)
                lines.end()
            except OSError as error:
                raise BadInputError(
                    f"{file}: the recording ended after {recording.moments} moments: {error.strerror}.",
                    hint="What was written until then can be replayed.",
                ) from error
    click.echo(f"{file}: {recording.moments} moments recorded, {render.bytes_(file.stat().st_size)}.")


def _header(client: Client, name: str, story: str, period_s: float) -> TraceHeader:
    """What the trace begins with. Raises UnavailableError without a daemon."""
    from ... import __version__
    from ...policies.trace import TraceMachine
    from ...policies.trace_writing import new_header

    seen = client.snapshot()
    memory = seen.memory
    return new_header(
        name,
        story,
        period_s,
        start=datetime.now().astimezone().replace(microsecond=0),
        timezone=_zone(),
        machine=TraceMachine(
            name=os.uname().nodename,
            cores=seen.cpu.cores,
            memory_bytes=None if memory is None else memory.total_bytes,
        ),
        written_by=f"patchd {__version__}",
    )


def _zone() -> str | None:
    """The name of the time zone (`TZ`, else where `/etc/localtime` leads), where it is in the table of zones."""
    from zoneinfo import ZoneInfo

    name = os.environ.get("TZ", "").removeprefix(":") or str(Path("/etc/localtime").resolve()).partition("zoneinfo/")[2]
    try:
        return name if name and ZoneInfo(name) else None
    except (KeyError, OSError, ValueError):
        return None


class TraceFile:
    """Whole lines into an unbuffered file, compressed or not."""

    def __init__(self, out: BinaryIO, *, packed: bool) -> None:
        self._out = out
        self._packer = zlib.compressobj(9, zlib.DEFLATED, GZIP) if packed else None
        self._whole = 0  # bytes of the file that end with a whole line
        self._packed_s = -math.inf  # the header is put into the file at once

    def end(self) -> None:
        """End the file in order. Raises OSError, as `write`."""
        if self._packer is not None:
            self._put(self._packer.flush(zlib.Z_FINISH))

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._whole

    def write(self, line: str) -> None:
        """Add a line. Raises OSError; then the file still ends with a whole line."""
        data = (line + "\n").encode()
        if self._packer is None:
            self._put(data)
            return
        packed = self._packer.compress(data)
        now_s = time.monotonic()
        if now_s - self._packed_s >= PACK_EVERY_S:
            packed += self._packer.flush(zlib.Z_SYNC_FLUSH)
            self._packed_s = now_s
        self._put(packed)

    def _put(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._out.write(left) :]
        except OSError:
            with suppress(OSError):  # works on a full disk too, but not on a device
                self._out.truncate(self._whole)
            raise
        self._whole += len(data)


class Recording:
    """Takes moments and writes them, whatever becomes of the daemon."""

    def __init__(self, client: Client, header: TraceHeader, lines: TraceFile) -> None:
        from ...policies.trace_writing import TraceWriter

        self._client, self._lines = client, lines
        self._writer = TraceWriter(header)
        self._began_s = 0.0
        self._counted: tuple[float, dict[str, int]] = (0.0, {})
        self._rates: dict[str, float] = {}
        self._note: str | None = None
        self._live = sys.stderr.isatty()
        self._shown_s = 0.0
        self.moments = 0

    def run(self, seconds: float | None, period_s: float) -> None:
        """Record until `seconds` have passed or Ctrl-C. Raises OSError where the file cannot be written."""
        with _ended_by_signals():
            try:
                self._lines.write(self._writer.header_line())
                self._began_s = time.monotonic()
                self._take(seconds, period_s)
            except KeyboardInterrupt:
                pass
        if self._live:
            click.echo("", err=True)

    def _take(self, seconds: float | None, period_s: float) -> None:
        moment = 0
        while True:
            self._moment(seconds)
            moment = max(moment, int((time.monotonic() - self._began_s) / period_s)) + 1
            due_s = self._began_s + moment * period_s
            if seconds is not None and due_s >= self._began_s + seconds:
                time.sleep(max(0.0, self._began_s + seconds - time.monotonic()))
                self._moment(seconds, last=True)
                return
            time.sleep(max(0.0, due_s - time.monotonic()))

    def _moment(self, seconds: float | None, *, last: bool = False) -> None:
        try:
            seen = self._client.status()
            work = self._work(seen)
        except (UnavailableError, NotFoundError, BusyError):
            self._wait(seconds)
            return
        if seen.snapshot is None:  # the daemon has only begun
            return
        line = self._writer.line(time.monotonic() - self._began_s, seen.snapshot, work, self._note, last=last)
        self._note = None
        self.moments += 1
        if line is not None:
            self._lines.write(line)
        self._show()

    def _work(self, seen: Status) -> DaemonWork | None:
        """What the daemon does; None before its first decision."""
        from ...policies.trace import DaemonWork, TaskWork

        decision = seen.decision
        if decision is None:
            return None
        now_s = time.monotonic()
        since_s, before = self._counted
        if now_s - since_s >= RATES_EVERY_S:
            counts = {view.spec.name: view.predictions for view in self._client.tasks().tasks}
            if before:
                passed = {name: count - before.get(name, 0) for name, count in counts.items()}
                # A count that has fallen is that of a daemon begun anew.
                self._rates = {name: max(0, count) / (now_s - since_s) for name, count in passed.items()}
            self._counted = now_s, counts
        sides = {rung.task: rung.resolution for rung in decision.rungs}
        return DaemonWork(
            policy=decision.policy,
            inference=decision.inference.value,
            training=decision.training.value,
            tasks={
                name: TaskWork(resolution=sides.get(name), per_second=self._rates.get(name))
                for name in sorted(sides.keys() | self._rates.keys())
            },
        )

    def _wait(self, seconds: float | None) -> None:
        """Wait until the daemon answers again, and note it; at most until the recording is to end."""
        since_s = time.monotonic()
        self._say("patchd does not answer; the recording waits for it, and goes on when it does.")
        while seconds is None or time.monotonic() < self._began_s + seconds:
            time.sleep(RETRY_S)
            try:
                self._client.snapshot()
            except (UnavailableError, NotFoundError, BusyError):
                continue
            waited = render.duration(time.monotonic() - since_s)
            self._counted = 0.0, {}
            self._note = f"patchd did not answer for {waited} before this moment"
            self._say(f"patchd answers again after {waited}; the recording goes on.")
            return

    def _say(self, text: str) -> None:
        click.echo(("\n" if self._live else "") + f"patchctl: {text}", err=True)

    def _show(self) -> None:
        now_s = time.monotonic()
        if self._live and now_s - self._shown_s >= 1.0:
            self._shown_s = now_s
            took, size = render.duration(now_s - self._began_s), render.bytes_(self._lines.size)
            click.echo(f"\r\x1b[K{self.moments} moments, {took}, {size}; Ctrl-C ends it", err=True, nl=False)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP (the terminal has gone) end a recording as Ctrl-C does: in order."""

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (the signature of a signal's handler)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
