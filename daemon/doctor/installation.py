"""The installation: Python, the packages that patchd needs, and whether the fast engine is there."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from ... import __version__
from .check import Check, Found, failure, note, ok, warning
from .subject import Subject

LEAST_PYTHON = (3, 11)
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)(?:;(.*))?")
_BOUND = re.compile(r"(>=|<=|==|!=|>|<|~=)\s*([0-9][^,\s]*)")
_RELEASE = re.compile(r"\d+(?:\.\d+)*")


def _run(subject: Subject) -> Iterator[Found]:
    python = platform.python_version()
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        yield failure(f"Python is {python}, and patchd needs {least}.", f"Install patchd with Python {least} or newer.")
    wanted = requires("patchd") if _installed("patchd") is not None else None
    if wanted is None:
        todo = "Install it with pip; the packages that it needs then come with it."
        yield warning(
            "patchd is run from a folder and is not installed, so nobody knows which packages it needs.", todo
        )
    else:
        yield from _packages(wanted, python)
    yield from _engine()
    if subject.status is not None and subject.status.version != __version__:
        yield warning(
            f"The daemon that runs is patchd {subject.status.version}, and this patchctl is {__version__}.",
            "Restart the daemon: systemctl restart patchd.",
        )


def _packages(wanted: list[str], python: str) -> Iterator[Found]:
    count, wrong = 0, 0
    for line in wanted:
        found = _REQUIREMENT.match(line)
        if found is None or "extra" in (found[3] or ""):
            continue
        count += 1
        problem = unmet(found[1], found[2])
        if problem is not None:
            wrong += 1
            yield failure(problem, f"Run: {sys.executable} -m pip install '{found[1]}{found[2].strip()}'")
    if not wrong:
        yield ok(f"patchd {__version__} runs on Python {python}, and the {count} packages that it needs fit.")


def unmet(name: str, bounds: str) -> str | None:
    """What is wrong with an installed package, in a sentence; None where its version is within the bounds."""
    have = _installed(name)
    if have is None:
        return f"The package {name} is missing."
    for operator, bound in _BOUND.findall(bounds):
        if not _holds(_release(have), operator, _release(bound)):
            return f"The package {name} is {have}, and patchd needs {operator}{bound}."
    return None


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _release(text: str) -> tuple[int, ...]:
    """The numbers of a version; what is before or after a release counts as the release."""
    found = _RELEASE.match(text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _holds(have: tuple[int, ...], operator: str, bound: tuple[int, ...]) -> bool:
    if operator == "~=":
        return have >= bound and have[: len(bound) - 1] == bound[:-1]
    size = max(len(have), len(bound))
    left, right = (each + (0,) * (size - len(each)) for each in (have, bound))
    return {
        ">=": left >= right,
        "<=": left <= right,
        "==": left == right,
        "!=": left != right,
        ">": left > right,
        "<": left < right,
    }[operator]


def _engine() -> Iterator[Found]:
    if find_spec("openvino") is None:
        todo = "Install the fast engine: pip install 'patchd[openvino]'."
        yield note(
            "OpenVINO is not installed, so predictions run on torch, which takes about three times as long.", todo
        )
    else:
        yield ok(f"The engine OpenVINO {_installed('openvino')} is installed beside torch {_installed('torch')}.")


CHECK = Check("installation", _run)
