"""The units: systemd accepts them, and every restriction says why it can be one."""

from __future__ import annotations

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
