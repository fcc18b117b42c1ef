"""All checks, in the order in which they are put to work."""

from __future__ import annotations

from . import device, engines, installation, kernel, permissions, processors, serving, storage
from .check import Check

CHECKS: tuple[Check, ...] = (
    engines.CHECK,  # takes longest
    serving.DAEMON,
    installation.CHECK,
    permissions.STATE,
    permissions.SOCKET,
    serving.RIVALS,
    serving.LOG,
    device.POLICY,
    device.SIGNALS,
    kernel.PRESSURE,
    kernel.CGROUP,
    kernel.CLOCK,
    processors.THREADS,
    processors.ALLOCATION,
    processors.TRAINING,
    storage.DISK,
    storage.DATABASE,
    storage.PATCHES,
)
