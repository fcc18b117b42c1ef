"""Limits of the control group this process runs in, v1, v2 or both: under a limit, the limit counts.

Kernel: Documentation/admin-guide/cgroup-v2.rst (cpu.max, memory.max, memory.stat) and cgroup-v1/.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import read_int, read_text, whole

V1_UNLIMITED = 1 << 60  # the kernel writes the largest multiple of the page size below 2**63 for "no limit"


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """The tightest processor quota above this process, and what the group that bears it has used so far."""

    cores: float
    directory: Path
    used_s: float | None  # processor seconds of the whole group, siblings included; None where it is not told


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The tightest memory limit above this process, in bytes, and what counts against it."""

    limit_bytes: int
    used_bytes: int  # without the file cache that the kernel gives back on demand
    version: str
    directory: Path


class Cgroup:
    """The control group's directories, found by `discover`; limits are read anew at each call."""

    def __init__(self, proc_root: Path, sys_root: Path) -> None:
        self.own_file = proc_root / "self" / "cgroup"
        self._root = sys_root / "fs" / "cgroup"
        self.discover()

    def discover(self) -> None:
        """Find the directories: a process may be moved to another group while it runs."""
        root, paths = self._root, _own_paths(self.own_file)
        unified = root if (root / "cgroup.controllers").exists() else root / "unified"
        self._v2 = _chain(unified, paths.get("")) if "" in paths else ()
        self._v2_cpu_max = _files(self._v2, "cpu.max")
        self._v2_memory_max = _files(self._v2, "memory.max")
        self._v1_cpu_quota = _files(_chain(_controller(root, "cpu"), paths.get("cpu")), "cpu.cfs_quota_us")
        same = paths.get("cpu") == paths.get("cpuacct")  # else the quota's group has no account of its own
        self._v1_usage = _chain(_controller(root, "cpuacct"), paths.get("cpuacct")) if same else ()
        self._v1_memory_limit = _files(
            _chain(_controller(root, "memory"), paths.get("memory")), "memory.limit_in_bytes"
        )

    @property
    def known(self) -> bool:
        """Whether the kernel tells which group this process is in."""
        return bool(_own_paths(self.own_file))

    @property
    def directory(self) -> Path | None:
        """The group's own directory in the hierarchy of version 2; None where it is in none."""
        return self._v2[0] if self._v2 else None

    @property
    def own_group(self) -> Path | None:
        """This process's group in the unified hierarchy; None where that is the whole machine's."""
        return self._v2[0] if len(self._v2) > 1 else None

    def cpu_quota(self) -> CpuQuota | None:
        """The smallest processor quota on the way to the root; None without one."""
        return min((*self._v2_cpu_quotas(), *self._v1_cpu_quotas()), key=lambda quota: quota.cores, default=None)

    def _v2_cpu_quotas(self) -> Iterator[CpuQuota]:
        for directory, file in self._v2_cpu_max:
            quota, _, period = (read_text(file) or "max").partition(" ")
            runtime, of = whole(quota), whole(period)
            if runtime is not None and of is not None and runtime > 0 and of > 0:
                used = _stat(directory / "cpu.stat", "usage_usec")
                yield CpuQuota(max(0.01, runtime / of), directory, None if used is None else used / 1e6)

    def _v1_cpu_quotas(self) -> Iterator[CpuQuota]:
        for depth, (directory, file) in enumerate(self._v1_cpu_quota):
            quota = read_int(file)
            if quota is None or quota <= 0:
                continue
            period = read_int(directory / "cpu.cfs_period_us")
            if period is not None and period > 0:
                counted = self._v1_usage[depth] if depth < len(self._v1_usage) else directory
                used = read_int(counted / "cpuacct.usage")
                yield CpuQuota(max(0.01, quota / period), directory, None if used is None else used / 1e9)

    def memory_limit(self) -> MemoryLimit | None:
        """The limit with least room left on the way to the root; None without one."""
        limits = [*self._v2_memory_limits(), *self._v1_memory_limits()]
        return min(limits, key=lambda limit: limit.limit_bytes - limit.used_bytes, default=None)

    def _v2_memory_limits(self) -> Iterator[MemoryLimit]:
        for directory, file in self._v2_memory_max:
            limit = read_int(file)
            if limit is None or limit <= 0:
                continue
            used = read_int(directory / "memory.current")
            if used is not None:
                cache = _stat(directory / "memory.stat", "inactive_file") or 0
                yield MemoryLimit(limit, max(0, used - cache), "cgroup-v2", directory)

    def _v1_memory_limits(self) -> Iterator[MemoryLimit]:
        for directory, file in self._v1_memory_limit:
            limit = read_int(file)
            if limit is None or not 0 < limit < V1_UNLIMITED:
                continue
            used = read_int(directory / "memory.usage_in_bytes")
            if used is not None:
                cache = _stat(directory / "memory.stat", "total_inactive_file") or 0
                yield MemoryLimit(limit, max(0, used - cache), "cgroup-v1", directory)

    def oom_kills(self) -> int | None:
        """Processes of this group and those below that the kernel killed for want of memory; None without v2."""
        return _stat(self._v2[0] / "memory.events", "oom_kill") if self._v2 else None


def _own_paths(file: Path) -> dict[str, str]:
    """Controller to path in its hierarchy, from /proc/self/cgroup; '' is the unified hierarchy."""
    paths: dict[str, str] = {}
    for line in (read_text(file) or "").splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3:
            for controller in fields[1].split(","):
                paths[controller] = fields[2]
    return paths


def _controller(root: Path, name: str) -> Path:
    """Where a v1 controller is mounted; cpu and cpuacct often share a directory under either order of names."""
    shared = (root / "cpu,cpuacct", root / "cpuacct,cpu") if name.startswith("cpu") else ()
    candidates = (root / name, *shared)
    return next((path for path in candidates if path.is_dir()), root / name)


def _chain(root: Path, path: str | None) -> tuple[Path, ...]:
    """The group's directory and all above it up to the root of the hierarchy.

    In a container the path may be the host's, which is not visible inside; then the visible root is the group's own.
    """
    if path is None or not root.is_dir():
        return ()
    own = root / path.strip("/")
    if not own.is_dir():
        return (root,)
    parts = own.relative_to(root).parts
    return tuple(root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))


def _files(directories: tuple[Path, ...], name: str) -> tuple[tuple[Path, Path], ...]:
    """Each directory with its file of this name: made once, because they are read at every sample."""
    return tuple((directory, directory / name) for directory in directories)


def _stat(file: Path, key: str) -> int | None:
    for line in (read_text(file) or "").splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            number = whole(value)
            return None if number is None else max(0, number)
    return None
