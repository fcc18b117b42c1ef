"""A check is a name and what it does; all of them run side by side, and each is told of as soon as it is done."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from ...policies.errors import PatchdError
from ...policies.snapshot import Frozen
from .subject import Subject

PARALLEL = 8  # checks wait for files and processes more than for a processor


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    NOTE = "note"  # worth knowing; nothing is wrong
    WARNING = "warning"  # patchd works, and worse than it could
    FAILURE = "failure"  # something does not work, or will not


LEVELS = tuple(Level)


@dataclass(frozen=True, slots=True)
class Found:
    """What a check found, in a sentence, and what to do about it, in another."""

    level: Level
    text: str
    todo: str | None = None


def ok(text: str) -> Found:
    """All is well."""
    return Found(Level.OK, text)


def note(text: str, todo: str | None = None) -> Found:
    """Worth knowing."""
    return Found(Level.NOTE, text, todo)


def warning(text: str, todo: str) -> Found:
    """Worse than it could be."""
    return Found(Level.WARNING, text, todo)


def failure(text: str, todo: str) -> Found:
    """Does not work."""
    return Found(Level.FAILURE, text, todo)


@dataclass(frozen=True, slots=True)
class Check:
    """`run` yields what it finds; what it found before an error counts. A heavy one takes seconds."""

    name: str
    run: Callable[[Subject], Iterable[Found]]
    heavy: bool = False


class Finding(Frozen):
    """One finding of one check."""

    check: str = Field(description="stable name of the check")
    level: Level
    found: str = Field(description="one sentence: what was found")
    todo: str | None = Field(None, description="one sentence: what to do; absent where nothing is to be done")


class Checkup(Frozen):
    """All findings, and what they are of."""

    version: str = Field(description="of patchctl")
    socket: str
    state_dir: str
    daemon: int | None = Field(None, description="process id of the daemon that answers at the socket; absent: none")
    quick: bool = Field(description="true: heavy checks were left out")
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def worst(self) -> Level:
        """The level of the gravest finding."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default=Level.OK)

    def counts(self) -> dict[Level, int]:
        """Findings by level."""
        found = Counter(finding.level for finding in self.findings)
        return {level: found[level] for level in Level}


def run_all(
    checks: Sequence[Check], subject: Subject, began: Callable[[Check], None] = lambda _: None
) -> Iterator[tuple[Check, tuple[Finding, ...], float]]:
    """Each check with its findings and the seconds it took, as soon as it is done.

    `began` hears of a check when it is put to work, from this thread. One check that fails costs the others nothing.
    """
    with ThreadPoolExecutor(PARALLEL, "check") as pool:
        waiting = {}
        for check in checks:
            began(check)
            waiting[pool.submit(_findings, check, subject)] = check
        for done in as_completed(waiting):
            findings, seconds = done.result()
            yield waiting[done], findings, seconds


def _findings(check: Check, subject: Subject) -> tuple[tuple[Finding, ...], float]:
    start = time.perf_counter()
    findings: list[Finding] = []
    try:
        for found in check.run(subject):
            findings.append(Finding(check=check.name, level=found.level, found=found.text, todo=found.todo))
    except PatchdError as error:
        findings.append(Finding(check=check.name, level=Level.FAILURE, found=error.message, todo=error.hint))
    except OSError as error:
        where = f" at {error.filename}" if error.filename else ""
        text = f"This check broke off{where}: {error.strerror or error}."
        todo = "Run it as root or as the daemon's user, which may see more."
        findings.append(Finding(check=check.name, level=Level.WARNING, found=text, todo=todo))
    except Exception as error:  # a fault of the check must not hide what the others find
        text = f"This check broke off: {type(error).__name__}: {error}."
        todo = "This is a fault of patchd: please report it with the output of `patchctl doctor --json`."
        findings.append(Finding(check=check.name, level=Level.WARNING, found=text, todo=todo))
    return tuple(findings), time.perf_counter() - start
