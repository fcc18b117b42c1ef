"""Memory available, of the machine or of the control group's limit, whichever leaves less."""

from __future__ import annotations

from pathlib import Path

from ...policies.signal_readings import Origin
from ...policies.snapshot import Memory
from .cgroup import Cgroup
from .files import read_text, whole, why_absent

FIELDS = frozenset(("MemTotal", "MemAvailable", "SwapTotal", "SwapFree"))


def read_memory(proc_root: Path, cgroup: Cgroup) -> Memory | None:
    """From /proc/meminfo and the cgroup's limit; None where /proc/meminfo cannot be read."""
    fields = _meminfo(proc_root)
    total, available = fields.get("MemTotal"), fields.get("MemAvailable")
    if total is None or available is None or total <= 0:
        return None
    limited_by = "machine"
    limit = cgroup.memory_limit()
    if limit is not None and limit.limit_bytes < total:
        total, limited_by = limit.limit_bytes, limit.version
        available = min(available, max(0, limit.limit_bytes - limit.used_bytes))
    swap_total, swap_free = fields.get("SwapTotal"), fields.get("SwapFree")
    swap_used = None if swap_total is None or swap_free is None else max(0, swap_total - swap_free)
    return Memory(
        total_bytes=total,
        available_bytes=min(available, total),
        limited_by=limited_by,
        swap_total_bytes=swap_total,
        swap_used_bytes=swap_used,
        limit_bytes=None if limit is None else limit.limit_bytes,
        limit_used_bytes=None if limit is None else limit.used_bytes,
    )


def origins(proc_root: Path, cgroup: Cgroup) -> dict[str, Origin]:
    """Where each signal of memory is read, and why one is absent."""
    file = proc_root / "meminfo"
    limit, fields = cgroup.memory_limit(), _meminfo(proc_root)
    known = "MemTotal" in fields and "MemAvailable" in fields
    unknown = None if known else why_absent(file)
    source = str(file) if limit is None else f"{file}, {limit.directory}"
    no_limit = "" if cgroup.known else f": {why_absent(cgroup.own_file)}"
    group = Origin(
        "" if limit is None else str(limit.directory),
        unknown or f"no control group above patchd has a memory limit{no_limit}",
    )
    without_swap = "the machine has no swap" if fields.get("SwapTotal") == 0 else why_absent(file)
    return {
        "memory.available": Origin(source, unknown),
        "memory.available_bytes": Origin(source, unknown),
        "memory.swap_used": Origin(str(file), without_swap),
        "memory.limit_bytes": group,
        "memory.limit_used": group,
    }


def _meminfo(proc_root: Path) -> dict[str, int]:
    fields = {}
    for line in (read_text(proc_root / "meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name in FIELDS:  # of some fifty
            number = whole(rest)
            if number is not None and number >= 0:
                fields[name] = number * 1024
            if len(fields) == len(FIELDS):
                break
    return fields
