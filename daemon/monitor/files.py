"""Reading small kernel files: a value, or None where the machine lacks it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

MAX_DIGITS = 20  # 64 bits; int() itself refuses very long texts


def read_text(path: Path) -> str | None:
    """The stripped text of a kernel file; None when it is missing or unreadable.

    Straight through the system calls: a text stream for each of dozens of one-line files takes three times as long.
    """
    try:
        return _read(path)
    except OSError:
        return None


def why_absent(path: Path) -> str:
    """Why a kernel file gives no value, in words: it is missing, may not be read, or says something else."""
    try:
        _read(path)
    except FileNotFoundError:
        return f"there is no {path}"
    except PermissionError:
        return f"{path} may not be read by the user that patchd runs as"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    return f"{path} holds no value of the known form"


def _read(path: Path) -> str:
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        parts = []
        while part := os.read(number, 65536):
            parts.append(part)
    finally:
        os.close(number)
    return b"".join(parts).decode("utf-8", errors="replace").strip()


def read_int(path: Path) -> int | None:
    """The whole number in a kernel file; None when there is none."""
    return whole((read_text(path) or "").partition("\n")[0])


def whole(text: str) -> int | None:
    """The whole number that the text begins with; None when there is none. The kernel writes ASCII digits only."""
    word = text.split(maxsplit=1)[0] if text.strip() else ""
    digits = word.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > MAX_DIGITS:
        return None
    return int(word)


def numbers(fields: Sequence[str]) -> list[float] | None:
    """Finite numbers of 0 or more; None when one of the fields is anything else."""
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return None
    return values if all(math.isfinite(value) and value >= 0 for value in values) else None


def subdirectories(path: Path) -> tuple[Path, ...]:
    """The entries of a directory of /sys, sorted; empty when it is missing."""
    try:
        return tuple(sorted(path.iterdir()))
    except OSError:
        return ()
