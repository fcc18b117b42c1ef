"""The disk that holds the state directory: what is free, and how much of its life is used where it says so.

eMMC: device/life_time, two estimates in tenths (JEDEC eMMC 5.0: 0x01 is up to 10 %, 0x0b past its life, 0x00 untold).
UFS: health_descriptor/life_time_estimation_a and _b of its host, in the same steps
(Documentation/ABI/testing/sysfs-driver-ufs). Drives on NVMe and SATA tell it to root alone, by commands.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ...policies.signal_readings import Origin
from ...policies.snapshot import Disk
from .files import read_text, subdirectories

LEVELS = 8  # of /sys between a disk and the host that it hangs on
MOST_BELOW = 8  # disks under one another, as LVM over an encrypted disk over RAID


class DiskReader:
    """Wear moves in months, so it is looked for at `discover` alone."""

    def __init__(self, sys_root: Path, state_dir: Path) -> None:
        self._sys, self._state_dir = sys_root, state_dir
        self.discover()

    def discover(self) -> None:
        """Find the disks and read their wear."""
        self._disks: list[Path] = []
        self._number = ""
        self.looked_s = time.time()
        try:
            device = self._state_dir.stat().st_dev
        except OSError:
            self._wear: list[tuple[str, float]] = []
            return
        self._number = f"{os.major(device)}:{os.minor(device)}"
        block = self._sys / "dev" / "block" / self._number
        self._disks = _whole_disks(block, MOST_BELOW) if block.exists() else []
        self._wear = [told for disk in self._disks if (told := _wear(disk)) is not None]

    def read(self) -> Disk | None:
        """What is free now, and the wear of the most worn disk below."""
        try:
            status = os.statvfs(self._state_dir)
        except OSError:
            return None
        if status.f_blocks == 0:
            return None
        return Disk(
            total_bytes=status.f_blocks * status.f_frsize,
            free_bytes=status.f_bavail * status.f_frsize,
            wear=max((share for _, share in self._wear), default=None),
        )

    def origins(self) -> dict[str, Origin]:
        """Where the disk is read, and why its wear is absent."""
        free = Origin(f"statvfs of {self._state_dir}", f"the file system of {self._state_dir} does not tell its size")
        names = ", ".join(disk.name for disk in self._disks)
        if not self._disks:
            why = f"the file system of {self._state_dir} is on no disk of its own (device {self._number or 'unknown'})"
        elif any(disk.name.startswith(("nvme", "sd")) for disk in self._disks):
            why = f"{names} tells its wear to root alone, by commands (smartctl -a, nvme smart-log)"
        else:
            why = f"{names} tells no wear in {self._sys}"
        worn = Origin(", ".join(source for source, _ in self._wear), why)
        return {"disk.free_bytes": free, "disk.free": free, "disk.wear": worn}


def _whole_disks(block: Path, depth: int) -> list[Path]:
    """The disks under a block device: its partition's whole, or those that it is made of."""
    if depth == 0:
        return []
    block = block.resolve()
    if (block / "partition").exists():
        block = block.parent
    below = subdirectories(block / "slaves")
    return [disk for each in below for disk in _whole_disks(each, depth - 1)] if below else [block]


def _wear(disk: Path) -> tuple[str, float] | None:
    """Where a disk tells its wear, and the share of its life that is used."""
    file = disk / "device" / "life_time"
    share = _used((read_text(file) or "").split())
    if share is not None:
        return str(file), share
    place = (disk / "device").resolve()
    for host in (place, *place.parents)[:LEVELS]:
        health = host / "health_descriptor"
        estimates = [read_text(health / f"life_time_estimation_{which}") or "" for which in "ab"]
        share = _used([estimate for estimate in estimates if estimate])
        if share is not None:
            return str(health), share
    return None


def _used(steps: list[str]) -> float | None:
    try:
        tenths = [int(step, 16) for step in steps if len(step) <= 6]
    except ValueError:
        return None
    known = [step for step in tenths if 1 <= step <= 0x0B]
    return min(1.0, max(known) / 10) if known else None
