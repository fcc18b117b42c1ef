"""The engines: whether OpenVINO gives the answers of the torch reference on this machine, and gives them sooner.

A process of its own loads them, as a worker does: `patchctl` itself never holds torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

from pydantic import TypeAdapter, ValidationError

from ...policies.threads import usable_threads
from ..worker_process import ALLOCATOR
from ..workers.comparing_messages import Compared
from ..workers.protocol import WorkerError
from .check import Check, Found, failure, note, ok, warning
from .subject import Subject

MOST_DIFFERENCE = 1e-3  # of a logit in float32
TIMEOUT_S = 240.0
BASE, RESOLUTION = "lite0", 128
SLOWER = 1.1  # more than the noise of one short run

_ANSWER: TypeAdapter[Compared | WorkerError] = TypeAdapter(Compared | WorkerError)


def _engines(subject: Subject) -> Iterator[Found]:
    config = subject.config
    threads = config.threads or usable_threads(subject.monitor().usable_cores())
    command = [sys.executable, "-m", "patchd.daemon.workers.comparing", "--parent", str(os.getpid())]
    command += ["--base", BASE, "--resolution", str(RESOLUTION), "--threads", str(threads)]
    environ = {**subject.environ, **ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
    try:
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield failure(
            f"The engines did not answer within {TIMEOUT_S:.0f} s.", "See what keeps the machine busy: patchctl top."
        )
        return
    try:
        said = _ANSWER.validate_json((ended.stdout.strip().splitlines() or [""])[-1])
    except ValidationError:
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        yield failure(
            f"The process that runs the engines ended with status {ended.returncode}: {last}.",
            "Predictions will fail in the same way; install patchd anew with its packages.",
        )
        return
    if isinstance(said, WorkerError):
        yield failure(said.message, said.hint or "Install patchd anew with its packages.")
        return
    yield from judged(said)


def judged(said: Compared) -> Iterator[Found]:
    """What a comparison means."""
    reference, *others = said.engines
    at = f"{said.base} at {said.resolution} px, {said.threads} thread{'' if said.threads == 1 else 's'}"
    if said.absent is not None:
        yield note(said.absent, "Install the fast engine: pip install 'patchd[openvino]'.")
    for engine in others:
        if engine.ran != engine.name:
            why = engine.remarks[-1] if engine.remarks else f"{engine.ran} answered in its place"
            yield failure(
                f"The engine {engine.name} cannot be used here: {why.rstrip('.')}.",
                'Have torch do all: engine = "torch" in the configuration; and report it, with the processor\'s name.',
            )
        elif engine.difference > MOST_DIFFERENCE:
            yield failure(
                f"The answers of {engine.name} differ from torch's by {engine.difference:.2g}, and {MOST_DIFFERENCE:g} "
                f"is allowed ({at}).",
                'Have torch do all: engine = "torch" in the configuration; and report it, with the processor\'s name.',
            )
        else:
            yield ok(f"The answers of {engine.name} are within {engine.difference:.1g} of torch's ({at}).")
    times = ", ".join(f"{engine.name} {engine.median_ms:.1f} ms" for engine in said.engines)
    slow = [each for each in others if each.median_ms > SLOWER * reference.median_ms]
    if slow:
        yield warning(
            f"The engine {slow[0].name} is slower than torch here: {times} ({at}).",
            'Run it again on a quiet machine; if it stays so, set engine = "torch" in the configuration.',
        )
    else:
        yield ok(f"One image takes the network: {times} ({at}).")


CHECK = Check("engines", _engines, heavy=True)
