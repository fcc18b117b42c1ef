"""What the kernel offers a resource daemon: control groups, pressure stall information with triggers, and the clock."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ..monitor.cgroup import Cgroup
from ..monitor.event_sources import EventSource, SourceAbsentError
from ..monitor.files import read_text
from ..monitor.triggers import pressure_sources
from .check import Check, Found, note, ok, warning
from .subject import Subject

WANTED = ("cpu", "memory")  # controllers whose limits and accounts patchd reads
OLDEST_YEAR, YEARS_AHEAD = 2026, 50  # this program was written in the first
DRIFT_WATCH_S, MOST_DRIFT_S = 0.5, 0.05
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised


def _cgroup(subject: Subject) -> Iterator[Found]:
    config, pid = subject.config, subject.daemon_pid
    root = config.sys_root / "fs" / "cgroup"
    own = config.proc_root / (str(pid) if pid is not None else "self") / "cgroup"
    path = _unified(read_text(own) or "")
    whose = "the daemon" if pid is not None else "a process started here"
    if not (root / "cgroup.controllers").exists():
        if any(root.glob("*/cgroup.procs")):
            yield note(
                "Control groups are of version 1: limits are read, the pressure of patchd's own group does not exist.",
                "Boot with systemd.unified_cgroup_hierarchy=1 to have version 2.",
            )
        else:
            yield note("There are no control groups here, so no limits are read.")
        return
    folder = root / (path or "").strip("/")
    shown = "/" + (path or "").strip("/")
    offered = set((read_text(folder / "cgroup.controllers") or read_text(root / "cgroup.controllers") or "").split())
    missing = [name for name in WANTED if name not in offered]
    if missing:
        yield warning(
            f"The group {shown} of {whose} lacks {' and '.join(missing)}, so limits on that are not seen.",
            "Have systemd account for the unit: CPUAccounting=yes and MemoryAccounting=yes.",
        )
    else:
        yield ok(f"The group {shown} of {whose} has the controllers cpu and memory.")
    yield from _limits(Cgroup(config.proc_root, config.sys_root))
    delegated = os.access(folder / "cgroup.subtree_control", os.W_OK) and os.access(folder / "cgroup.procs", os.W_OK)
    if shown == "/" or os.geteuid() == 0:
        return  # root may always, which says nothing of the daemon
    if delegated:
        yield ok(f"The group {shown} is delegated to this user.")
    else:
        yield note(
            f"The group {shown} is not delegated (Delegate= of the unit), and patchd asks for none: training is held "
            "back by SCHED_IDLE and its memory plan."
        )


def _limits(group: Cgroup) -> Iterator[Found]:
    quota, limit = group.cpu_quota(), group.memory_limit()
    told = []
    if quota is not None:
        told.append(f"{quota.cores:g} processors ({quota.directory})")
    if limit is not None:
        told.append(f"{limit.limit_bytes / 1e9:.2f} GB of memory ({limit.directory})")
    yield ok(f"Limits of control groups here: {' and '.join(told) if told else 'none'}.")


def _unified(text: str) -> str | None:
    """The path in the hierarchy of version 2, from /proc/PID/cgroup."""
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        if number == "0":
            return rest.partition(":")[2]
    return None


def _pressure(subject: Subject) -> Iterator[Found]:
    config = subject.config
    missing = [name for name in ("cpu", "memory", "io") if read_text(config.proc_root / "pressure" / name) is None]
    if missing:
        yield warning(
            f"The kernel tells no pressure of {', '.join(missing)}, so shortages are seen late or not at all.",
            "Boot with psi=1, on a kernel with CONFIG_PSI.",
        )
        return
    yield ok("The kernel tells the pressure of cpu, memory and io.")
    if subject.status is not None and subject.status.sampling is not None:
        told = [(each.name, each.watches, each.absent) for each in subject.status.sampling.sources]
    else:
        told = [_tried(source) for source in pressure_sources(config.proc_root, None, subject.environ)]
    for name, watches, absent in told:
        if absent is not None and "pressure" in name:
            yield note(
                f"Nothing wakes patchd at {name}: {absent}; shortages are seen at the next sample.",
                "Give the unit AmbientCapabilities=CAP_SYS_RESOURCE, or a kernel of 6.5 or newer.",
            )
        elif "pressure" in name:
            yield ok(f"A trigger wakes patchd at {name} ({watches}).")


def _tried(source: EventSource) -> tuple[str, str, str | None]:
    try:
        source.open()
    except SourceAbsentError as error:
        return source.name, source.watches, str(error)
    finally:
        source.close()
    return source.name, source.watches, None


def _clock(subject: Subject) -> Iterator[Found]:
    now = datetime.now().astimezone()
    if not OLDEST_YEAR <= now.year <= OLDEST_YEAR + YEARS_AHEAD:
        yield warning(
            f"The clock says {now:%Y-%m-%d}, which cannot be; windows and days of policies go by it.",
            "Set the clock, and have it kept: timedatectl set-ntp true.",
        )
    wall, steady = time.time(), time.monotonic()
    time.sleep(DRIFT_WATCH_S)
    drift = (time.time() - wall) - (time.monotonic() - steady)
    if abs(drift) > MOST_DRIFT_S:
        yield warning(
            f"The clock was moved by {drift * 1000:.0f} ms within {DRIFT_WATCH_S:g} s, while it was looked at.",
            "See what sets it: journalctl -u systemd-timesyncd -u chronyd.",
        )
    behind = _last_written(subject.state_dir) - time.time()
    if behind > 60:
        yield warning(
            f"The state was last written {behind / 60:.0f} minutes in the future: the clock was set back since.",
            "Set it right; decisions and days are ordered by it until then.",
        )
    synchronised = _synchronised()
    if synchronised is None:
        yield note("Whether the clock is synchronised is not told here.")
    elif not synchronised:
        yield note(
            f"The clock says {now:%Y-%m-%d %H:%M:%S %Z}, and nothing keeps it synchronised.",
            "Have it kept, if windows and daily limits of policies matter: timedatectl set-ntp true.",
        )
    else:
        yield ok(f"The clock says {now:%Y-%m-%d %H:%M:%S %Z} and is synchronised.")


def _last_written(state_dir: Path) -> float:
    """When the database was written last; 0 without one."""
    times = [0.0]
    for name in ("patchd.db", "patchd.db-wal"):
        try:
            times.append((state_dir / name).stat().st_mtime)
        except OSError:
            continue
    return max(times)


def _synchronised() -> bool | None:
    """What adjtimex(2) says, which anyone may ask; None where it says nothing."""
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(512))
    except (AttributeError, OSError):
        return None
    return None if answer < 0 else answer != TIME_ERROR


CGROUP, PRESSURE, CLOCK = Check("cgroup", _cgroup), Check("pressure", _pressure), Check("clock", _clock)
