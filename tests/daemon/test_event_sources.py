"""What tells of a change by itself: pressure triggers, what a service manager names in their place, kernel events."""

from __future__ import annotations

import asyncio
import base64
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.daemon.api.sampling_schemas import EventSourceState
from patchd.daemon.monitor.event_sources import EventSource, EventSources, SourceAbsentError
from patchd.daemon.monitor.triggers import PressureTrigger, pressure_sources
from patchd.daemon.monitor.uevents import Uevent, Uevents, kernel_socket, parse_uevent

CPU = Path("/proc/pressure/cpu")
LOOPBACK = Path("/sys/class/net/lo/uevent")  # its event is asked for below: a network device that every machine has
TIMEOUT_S = 30.0
Told = asyncio.Queue[EventSourceState]


def watched(sources: tuple[EventSource, ...], act: Callable[[EventSources, Told, Told], object]) -> EventSources:
    """Open the sources in a loop of their own and let `act`, a coroutine function, see what they tell."""

    async def run() -> EventSources:
        events, lost = Told(), Told()
        made = EventSources(sources, events.put_nowait, lost.put_nowait)
        made.open()
        try:
            await asyncio.wait_for(act(made, events, lost), TIMEOUT_S)  # type: ignore[arg-type]
        finally:
            made.close()
        return made

    return asyncio.run(run())


def state(sources: EventSources, name: str) -> EventSourceState:
    found = sources.get(name)
    assert found is not None
    return found


async def nothing(_made: EventSources, _events: Told, _lost: Told) -> None:
    pass


def named(environ: dict[str, str], proc_root: Path) -> tuple[EventSource, ...]:
    return pressure_sources(proc_root, None, environ)


# pressure


def test_the_kernel_tells_of_tasks_that_wait_for_a_processor() -> None:
    trigger = PressureTrigger("pressure.cpu", CPU)
    try:
        trigger.open()
    except SourceAbsentError as error:
        pytest.skip(str(error))
    trigger.close()
    spin = [sys.executable, "-c", "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile 1: pass"]

    async def crowd(made: EventSources, events: Told, _lost: Told) -> None:
        crowding = [subprocess.Popen(spin) for _ in range(4)]  # on one processor
        try:
            told = await events.get()
        finally:
            for process in crowding:
                process.kill()
                process.wait()
        assert told.last_s is None  # the first one ever
        assert state(made, "pressure.cpu").last_s is not None

    sources = watched((trigger,), crowd)
    assert state(sources, "pressure.cpu").events >= 1
    assert "some 150000" in state(sources, "pressure.cpu").watches


def test_without_pressure_files_each_source_is_absent_with_the_reason(tmp_path: Path) -> None:
    sources = watched(named({}, tmp_path), nothing)
    assert [each.name for each in sources] == ["pressure.memory", "pressure.cpu", "pressure.io"]
    assert all("does not exist: this kernel or machine tells no pressure there" in (s.absent or "") for s in sources)


def test_a_plain_file_in_place_of_the_kernels_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    file = tmp_path / "pressure" / "memory"
    file.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
    sources = watched(named({}, tmp_path), nothing)
    assert "is not a file that tells of pressure" in (state(sources, "pressure.memory").absent or "")
    assert file.read_text() == "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"


def test_the_own_group_is_watched_for_memory_beside_the_machine(tmp_path: Path) -> None:
    sources = watched(pressure_sources(tmp_path, tmp_path / "group", {}), nothing)
    assert state(sources, "pressure.memory.own").watches == str(tmp_path / "group" / "memory.pressure")


def test_a_service_managers_socket_gets_what_is_to_be_written_and_its_messages_are_events(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as manager:
        manager.bind(str(tmp_path / "m"))
        manager.listen()
        environ = {
            "MEMORY_PRESSURE_WATCH": str(tmp_path / "m"),
            "MEMORY_PRESSURE_WRITE": base64.b64encode(b"some 1 2\0").decode(),
        }

        async def tell(made: EventSources, events: Told, lost: Told) -> None:
            connection, _ = manager.accept()
            with connection:
                assert connection.recv(100) == b"some 1 2\0"
                connection.sendall(b"now")
                assert (await events.get()).name == "pressure.memory"
                connection.sendall(b"again")
                again = await events.get()
                assert again.events == 2
                assert again.last_s is not None
            gone = await lost.get()
            assert "the other side has closed it" in (gone.absent or "")

        sources = watched(named(environ, tmp_path), tell)
    assert state(sources, "pressure.memory").events == 2


def test_a_service_managers_fifo_is_an_event_source_that_outlives_its_writers(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def tell(_made: EventSources, events: Told, lost: Told) -> None:
        for _ in range(2):
            fifo.write_bytes(b"x")  # opens and closes it
            assert (await events.get()).name == "pressure.cpu"
        assert lost.empty()

    sources = watched(named({"CPU_PRESSURE_WATCH": str(fifo)}, tmp_path), tell)
    assert state(sources, "pressure.cpu").events == 2


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"MEMORY_PRESSURE_WATCH": "/dev/null"}, "asks not to watch"),
        ({"MEMORY_PRESSURE_WATCH": "some/where"}, "no absolute path"),
        ({"MEMORY_PRESSURE_WATCH": "/proc/pressure/memory", "MEMORY_PRESSURE_WRITE": "*"}, "WRITE is not Base64"),
        ({"MEMORY_PRESSURE_WATCH": "/nowhere/at/all"}, "does not exist"),
    ],
    ids=["switched off", "relative", "not base64", "missing"],
)
def test_what_a_service_manager_gets_wrong_or_forbids_is_said(
    environ: dict[str, str], why: str, tmp_path: Path
) -> None:
    assert why in (state(watched(named(environ, tmp_path), nothing), "pressure.memory").absent or "")


# kernel events

TEXT = st.binary(min_size=1, max_size=20).filter(lambda text: not set(text) & {0, ord("="), ord("@")})


def message(action: bytes, path: bytes, subsystem: bytes, *more: bytes) -> bytes:
    fields = (b"ACTION=" + action, b"DEVPATH=" + path, b"SUBSYSTEM=" + subsystem, *more)
    return b"\0".join((action + b"@" + path, *fields, b""))


@given(TEXT, TEXT, TEXT, st.lists(TEXT, max_size=4))
@settings(max_examples=100)
def test_what_the_kernel_writes_is_read_again(action: bytes, path: bytes, subsystem: bytes, more: list[bytes]) -> None:
    found = parse_uevent(message(action, b"/" + path, subsystem, *(b"KEY=" + each for each in more)))
    expected = (text.decode("utf-8", "replace") for text in (action, b"/" + path, subsystem))
    assert found == Uevent(*expected)


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda rest: b"change@/devices/x\0" + rest))
@settings(max_examples=200)
def test_any_other_message_is_no_event_and_no_failure(junk: bytes) -> None:
    found = parse_uevent(junk)
    assert found is None or f"{found.action}@{found.path}".encode() in junk


def test_udevs_own_messages_are_not_taken_for_the_kernels() -> None:
    assert parse_uevent(b"libudev\0\xfe\xed\xca\xfe" + message(b"change", b"/devices/x", b"power_supply")) is None


def test_only_events_of_the_watched_subsystems_count() -> None:
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    ours.setblocking(False)

    async def happen(_made: EventSources, events: Told, _lost: Told) -> None:
        kernel.send(message(b"add", b"/devices/usb1", b"usb"))
        kernel.send(b"nonsense")
        kernel.send(message(b"change", b"/devices/AC", b"power_supply", b"POWER_SUPPLY_ONLINE=0"))
        assert (await events.get()).name == "uevents"
        assert events.empty()

    with kernel:
        sources = watched((Uevents(connect=lambda: ours),), happen)
    assert state(sources, "uevents").events == 1


def test_a_kernel_that_lets_nobody_listen_makes_the_source_absent() -> None:
    def refuse() -> socket.socket:
        raise PermissionError(1, "Operation not permitted")

    sources = watched((Uevents(connect=refuse),), nothing)
    assert (
        state(sources, "uevents").absent == "the kernel's device events cannot be heard here: Operation not permitted"
    )


def test_an_event_of_this_kernel_is_heard() -> None:
    try:
        kernel_socket().close()
        LOOPBACK.write_text("change")
    except OSError as error:
        pytest.skip(f"this machine lets nobody hear or ask for kernel events: {error}")

    async def ask(_made: EventSources, events: Told, _lost: Told) -> None:
        LOOPBACK.write_text("change")
        assert (await events.get()).name == "uevents"

    watched((Uevents(("net",)),), ask)


def test_a_trigger_that_the_kernel_takes_away_ends_the_source() -> None:
    """The write end of a pipe whose readers are gone answers as a removed group's pressure file does: with an error."""
    reading, writing = os.pipe()
    trigger = PressureTrigger("pressure.memory", CPU)
    trigger._file, trigger._epoll = writing, select.epoll()
    trigger._epoll.register(writing, select.EPOLLPRI | select.EPOLLERR)
    os.close(reading)
    with pytest.raises(SourceAbsentError, match="taken the trigger away"):
        trigger.take()
    trigger.close()
