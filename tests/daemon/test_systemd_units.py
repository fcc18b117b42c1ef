"""The units: systemd accepts them, and every restriction says why it can be one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    copies = []
    for name in ("patchd.service", "patchd.socket"):
        text = (UNITS / name).read_text().replace("/opt/patchd/.venv/bin/patchd", "/bin/true")
        (tmp_path / name).write_text(text)
        copies.append(str(tmp_path / name))
    done = subprocess.run(["systemd-analyze", "verify", *copies], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "patchd" not in done.stderr


def test_the_service_notifies_and_is_watched() -> None:
    lines = (UNITS / "patchd.service").read_text().splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert "SocketMode=0660" in (UNITS / "patchd.socket").read_text().splitlines()


def test_every_restriction_stands_under_a_comment() -> None:
    commented = False
    section = "[Service]"
    for line in (UNITS / "patchd.service").read_text().split(section)[1].splitlines():
        if not line.strip():
            commented = False
        elif line.startswith("#"):
            commented = True
        elif line.startswith(("Protect", "Private", "Restrict", "NoNew", "SystemCall", "Capability", "Device", "Lock")):
            assert commented, line


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit_for_one_user(tmp_path: Path) -> None:
    text = (UNITS / "user" / "patchd.service").read_text()
    copy = tmp_path / "patchd.service"
    copy.write_text(text.replace("%h/.local/share/patchd/.venv/bin/patchd", "/bin/true"))
    command = ["systemd-analyze", "--user", "verify", str(copy)]
    environ = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}  # a user manager has one; a build machine may not
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "patchd" not in done.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_exposure_of_the_service_stays_low(tmp_path: Path) -> None:
    copy = tmp_path / "patchd.service"
    copy.write_text((UNITS / "patchd.service").read_text().replace("/opt/patchd/.venv/bin/patchd", "/bin/true"))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-500:] + done.stderr  # a threshold of 20 is an exposure of 2.0 of 10


def test_the_units_name_the_same_user_places_and_program() -> None:
    service = _settings("patchd.service")
    assert (UNITS / "sysusers.d" / "patchd.conf").read_text().splitlines()[-1].split()[:2] == ["u", service["User"]]
    listener = _settings("patchd.socket")
    assert listener["ListenStream"] == f"/run/{service['RuntimeDirectory']}/patchd.sock"
    assert listener["SocketGroup"] == service["Group"] == service["User"]
    assert service["RuntimeDirectoryPreserve"] == "yes"  # else stopping the service removes the socket unit's socket
    assert {service["NotifyAccess"], _settings("user/patchd.service")["NotifyAccess"]} == {"main"}


@pytest.mark.parametrize("name", ["MemoryDenyWriteExecute", "PrivateUsers", "ProcSubset"])
def test_restrictions_that_patchd_cannot_live_with_stay_out(name: str) -> None:
    assert name not in _settings("patchd.service")


def _settings(name: str) -> dict[str, str]:
    lines = (UNITS / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
