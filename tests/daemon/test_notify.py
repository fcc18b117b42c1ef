"""What systemd's side of the protocol would see, and what the daemon does where there is none."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from patchd.daemon.notify import notify, watchdog_interval_s


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(5)
        yield receiver


def test_several_lines_arrive_as_one_datagram_unchanged(manager: socket.socket) -> None:
    message = "READY=1\nSTATUS=policy balanced is ready: é"
    assert notify(message, {"NOTIFY_SOCKET": manager.getsockname()})
    assert manager.recv(1000).decode() == message


def test_the_environment_of_the_process_is_the_default(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    assert notify("WATCHDOG=1")
    assert manager.recv(100) == b"WATCHDOG=1"


def test_the_kernel_vouches_for_the_sender_so_that_notify_access_main_holds(manager: socket.socket) -> None:
    manager.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    code = "import os; from patchd.daemon.notify import notify; assert notify('READY=1'); print(os.getpid())"
    environ = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
    child = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    data, ancillary, _, _ = manager.recvmsg(100, 100)
    pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder, signed=True)
    assert (data, pid) == (b"READY=1", int(child.stdout))


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1", "/" + "x" * 300])
def test_an_address_that_cannot_be_reached_is_no_error(address: str) -> None:
    assert not notify("READY=1", {"NOTIFY_SOCKET": address})


@pytest.mark.parametrize("value", ["", "0", "-1", "soon", "1.5"])
def test_a_watchdog_time_of_no_known_form_is_no_watchdog(value: str) -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": value}) is None


def test_the_watchdog_of_this_very_process_is_fed() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid())}) == 0.5
