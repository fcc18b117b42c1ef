"""What workers run on: threads against processors and quota, the allocator's settings, and idle scheduling."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ...policies.threads import usable_threads
from ..worker_process import ALLOCATOR
from .check import Check, Found, failure, note, ok, warning
from .subject import Subject

TRY_IDLE = "import os; os.nice(19); os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))"
TRY_TIMEOUT_S = 20.0


def _threads(subject: Subject) -> Iterator[Found]:
    config = subject.config
    cores = subject.monitor().usable_cores()
    whole = usable_threads(cores)
    if config.threads is not None and config.threads > whole:
        yield warning(
            f"The configuration gives workers {config.threads} threads, for {cores:g} usable processors.",
            f"Leave threads out of the configuration, or set it to {whole}: more of them slow everything.",
        )
    running = [worker for worker in (subject.status.workers if subject.status else ()) if worker.threads]
    for worker in running:
        if worker.threads is not None and worker.threads > whole:
            yield warning(
                f"The {worker.name} worker has {worker.threads} threads, for {cores:g} usable processors.",
                "Restart the daemon, which counts processors at its start.",
            )
    told = f"{cores:g} processors may be used"
    if cores < 1:
        yield warning(
            f"A quota leaves {cores:g} of a processor, so that workers stand still most of the time.",
            "Raise CPUQuota= of the unit, or the container's limit, to a whole processor.",
        )
    elif config.threads is None or config.threads <= whole:
        threads = config.threads or whole
        yield ok(f"Workers get {threads} thread{'' if threads == 1 else 's'}; {told} by affinity and quota.")


def _allocator(subject: Subject) -> Iterator[Found]:
    """glibc gives large buffers back after each use unless it is told not to; the daemon tells its workers."""
    library = platform.libc_ver()[0]
    if library != "glibc":
        yield note(
            f"The C library is {library or 'not glibc'}, which does not heed the settings that workers are given.",
            "Load jemalloc into the daemon (LD_PRELOAD) if predictions are slow; measure before and after.",
        )
        return
    workers = [worker for worker in (subject.status.workers if subject.status else ()) if worker.pid is not None]
    if not workers:
        yield ok(f"Workers are started with {', '.join(sorted(ALLOCATOR))}; none runs now to look at.")
        return
    for worker in workers:
        try:
            given = _environ(Path(f"/proc/{worker.pid}/environ"))
        except FileNotFoundError:
            continue  # it has ended since
        except PermissionError:
            yield note(f"The settings of the {worker.name} worker are not to be seen by this user.", "Run it as root.")
            continue
        missing = [name for name in ALLOCATOR if name not in given]
        if missing and "jemalloc" not in given.get("LD_PRELOAD", ""):
            yield warning(
                f"The {worker.name} worker runs without {', '.join(missing)}, which can make torch three times slower.",
                "Start workers through the daemon alone, which sets them.",
            )
        else:
            yield ok(f"The {worker.name} worker keeps large buffers, as the allocator was told.")


def _environ(path: Path) -> dict[str, str]:
    pairs = (each.partition("=") for each in path.read_bytes().decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs if name}


def _training(subject: Subject) -> Iterator[Found]:
    worker = next(
        (each for each in (subject.status.workers if subject.status else ()) if each.name == "training"), None
    )
    if worker is not None and worker.pid is not None:
        try:
            idle = os.sched_getscheduler(worker.pid) == os.SCHED_IDLE
        except ProcessLookupError:
            idle = None
        if idle:
            yield ok("The training worker runs under SCHED_IDLE: it gets what nothing else wants.")
            return
        if idle is False:
            yield failure(
                "The training worker does not run under SCHED_IDLE, so it takes its share from others.", _why_not()
            )
            return
    tried = subprocess.run(
        [sys.executable, "-c", TRY_IDLE], stderr=subprocess.PIPE, text=True, timeout=TRY_TIMEOUT_S, check=False
    )
    if tried.returncode == 0:
        yield ok("A process may take nice 19 and SCHED_IDLE here, as the training worker does.")
    else:
        last = (tried.stderr.strip().splitlines() or ["no reason told"])[-1]
        yield failure(f"A process may not take SCHED_IDLE here: {last}.", _why_not())


def _why_not() -> str:
    return "Allow sched_setscheduler and setpriority: the unit's SystemCallFilter= does, a container's profile may not."


THREADS, ALLOCATION, TRAINING = Check("threads", _threads), Check("allocator", _allocator), Check("training", _training)
