"""Which of the policy's `[application.NAME]` sections are for a caller: by its user, its cgroups and its program.

The kernel tells user and process of whoever connected (SO_PEERCRED); cgroups and the program's name are those of that
process now. A process may have ended since and its id been given to another: one that began after the connection was
made is not taken for the caller. What a program calls itself is up to itself, so only user and unit keep anybody out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..policies.policy import Policy
from ..policies.restrictions import FREE, Restrictions, of_applications
from .sockets import Caller

START_TIME = 22  # field of /proc/PID/stat, in clock ticks since the machine's start (proc(5))
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Process:
    units: tuple[str, ...] = ()
    program: str | None = None


def sections_for(policy: Policy, caller: Caller, proc_root: Path) -> tuple[str, ...]:
    """The names of the sections that match a caller."""
    if not policy.application:
        return ()
    process = _Process()
    if caller.pid is not None and any(section.needs_process for section in policy.application.values()):
        process = _look(caller.pid, caller.connected_s, proc_root)
    return tuple(
        name
        for name, section in policy.application.items()
        if section.matches(caller.user, process.units, process.program)
    )


def restrictions_for(policy: Policy, caller: Caller, proc_root: Path) -> Restrictions:
    """What the policy takes away from a caller, whatever it asks for."""
    names = sections_for(policy, caller, proc_root)
    return of_applications((name, policy.application[name]) for name in names) if names else FREE


def _look(pid: int, connected_s: float | None, proc_root: Path) -> _Process:
    """What a process is, as far as it can be told; nothing of one that began after the caller had connected."""
    folder = proc_root / str(pid)
    try:
        cgroups = (folder / "cgroup").read_text(errors="replace")
        program = (folder / "comm").read_text(errors="replace").rstrip("\n")
        began = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        began_s = int(began[START_TIME - 3]) / TICKS_A_SECOND  # the first two fields stand before the bracket
    except (OSError, ValueError, IndexError):
        return _Process()
    if connected_s is not None and began_s > connected_s + 1 / TICKS_A_SECOND:
        return _Process()
    paths = (line.split(":", 2)[2] for line in cgroups.splitlines() if line.count(":") >= 2)
    units = dict.fromkeys(part for path in paths for part in path.split("/") if part)
    return _Process(tuple(units), program)
