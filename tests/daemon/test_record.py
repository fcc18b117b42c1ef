"""`patchctl record` against a real daemon, real files and real signals."""

from __future__ import annotations

import errno
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patchd.daemon.cli.record import TraceFile
from patchd.policies.snapshot import Cpu, Snapshot
from patchd.policies.trace import Trace
from patchd.policies.trace_reading import read_trace
from patchd.policies.trace_writing import TraceWriter, new_header
from running import RunningDaemon

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A real daemon that nobody asks for predictions."""
    with RunningDaemon(tmp_path_factory.mktemp("state")) as running:
        yield running


def record(daemon: RunningDaemon, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "patchd.daemon.cli.main", "--socket", str(daemon.socket), "record"]
        + [str(argument) for argument in arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(file: Path, lines: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, file
        time.sleep(0.05)


def read(file: Path) -> Trace:
    return read_trace(file.read_bytes(), str(file))


def test_a_recording_tells_the_machine_the_device_and_the_daemon(idle: RunningDaemon, tmp_path: Path) -> None:
    file = tmp_path / "My Trace.jsonl.gz"
    done = record(idle, file, "--seconds", "2.5", "--period", "0.5", "--story", "A quiet machine.")
    said, errors = done.communicate(timeout=DEADLINE_S)
    assert done.returncode == 0, errors
    trace = read(file)
    assert re.fullmatch(rf"{re.escape(str(file))}: [2-6] moments recorded, {file.stat().st_size} B\.\n", said)
    assert (trace.name, trace.header.story, trace.notes) == ("my-trace", "A quiet machine.", ())
    assert trace.header.start is not None
    machine, memory = trace.header.machine, idle.client.snapshot().memory
    assert machine is not None
    assert memory is not None
    assert machine.memory_bytes == memory.total_bytes
    assert 2.0 <= trace.records[-1].t <= 3.5
    first = trace.records[0]
    assert {"cpu", "memory", "disk"} <= set(first.given)
    assert first.work is not None
    assert (first.work.policy, first.work.inference) == ("steady", 1.0)
    again = record(idle, file, "--seconds", "1")
    assert "add --force" in again.communicate(timeout=DEADLINE_S)[1]
    assert again.returncode == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["ctrl-c", "term", "kill"])
def test_a_recording_that_is_ended_can_be_replayed(number: int, idle: RunningDaemon, tmp_path: Path) -> None:
    file = tmp_path / "ended.jsonl"
    running = record(idle, file, "--period", "0.1")
    wait_for(file, 3)
    running.send_signal(number)
    said, errors = running.communicate(timeout=DEADLINE_S)
    assert len(read(file).records) >= 2
    if number != signal.SIGKILL:
        assert (running.returncode, errors) == (0, "")
        assert "moments recorded" in said


def test_a_recording_goes_on_when_the_daemon_has_restarted_and_says_so(idle: RunningDaemon, tmp_path: Path) -> None:
    file = tmp_path / "restarted.jsonl"
    running = record(idle, file, "--period", "0.2")
    wait_for(file, 2)
    idle.kill()
    assert running.stderr is not None
    assert running.stderr.readline() == (
        "patchctl: patchd does not answer; the recording waits for it, and goes on when it does.\n"
    )
    idle.start()
    assert "patchd answers again after" in running.stderr.readline()
    deadline = time.monotonic() + DEADLINE_S
    while not any(record.note for record in read(file).records):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(DEADLINE_S) == 0
    running.communicate()
    noted = next(record for record in read(file).records if record.note)
    assert noted.note is not None
    assert noted.note.startswith("patchd did not answer for")


def test_a_full_disk_ends_a_recording_with_one_sentence_and_a_readable_file(
    idle: RunningDaemon, tmp_path: Path
) -> None:
    file = tmp_path / "full.jsonl"
    running = record(idle, file, "--period", "0.1")
    # The file may not grow further: what a full disk does, with another number.
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (2500, 2500))
    _, errors = running.communicate(timeout=DEADLINE_S)
    assert running.returncode == 5
    assert errors.count("\n") == 1
    assert errors.startswith(f"patchctl: {file}: the recording ended after ")
    assert "File too large" in errors
    trace = read(file)
    assert trace.records
    assert trace.notes == ()


def test_a_compressed_file_keeps_what_was_packed_before_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchd.daemon.cli.record.PACK_EVERY_S", 0.0)
    file = tmp_path / "full.jsonl.gz"
    writer = TraceWriter(new_header("full", "s", 1.0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with file.open("wb", buffering=0) as out:
        lines = TraceFile(out, packed=True)
        lines.write(writer.header_line())
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        written = 0
        try:
            while written < 1000:
                line = writer.line(float(written), Snapshot(time_s=0, cpu=Cpu(count=2, load1=written / 7)))
                assert line is not None
                lines.write(line)
                written += 1
        except OSError as error:
            assert error.errno == errno.EFBIG
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert 10 < len(read(file).records) == written
