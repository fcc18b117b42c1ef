"""Whether something was killed for want of memory: what a worker that died of SIGKILL may have died of.

Kernel: memory.events of Documentation/admin-guide/cgroup-v2.rst, whose oom_kill counts processes of the group and below
killed by any kind of OOM killer; else oom_kill of /proc/vmstat, which counts those of the whole machine. Where memory
is short, killers outside the kernel (earlyoom, systemd-oomd) send the same signal.
"""

from __future__ import annotations

from pathlib import Path

from ...policies.snapshot import Snapshot
from .cgroup import Cgroup
from .files import read_text, whole

SHORT_SHARE = 0.1  # of all memory available at the last look: a kill while there is less is taken for one for its want


class KernelKills:
    """The count of kills as it was at the last look."""

    def __init__(self, proc_root: Path, sys_root: Path) -> None:
        self._vmstat = proc_root / "vmstat"
        self._cgroup = Cgroup(proc_root, sys_root)
        self._seen = self._count()

    def begin(self) -> None:
        """What was killed until now counts no more: a process is started."""
        self._cgroup.discover()
        self._seen = self._count()

    def since(self, snapshot: Snapshot | None) -> bool:
        """Whether the kernel has killed for want of memory since `begin`, or memory is short."""
        count = self._count()
        if count is not None and self._seen is not None and count > self._seen:
            return True
        memory = None if snapshot is None else snapshot.memory
        return memory is not None and memory.available_bytes < SHORT_SHARE * memory.total_bytes

    def _count(self) -> int | None:
        own = self._cgroup.oom_kills()
        if own is not None:
            return own
        for line in (read_text(self._vmstat) or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return whole(value)
        return None
