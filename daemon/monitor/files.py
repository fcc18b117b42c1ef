"""Reading small kernel files: a value, or None where the machine lacks it."""

from __future__ import annotations

from pathlib import Path


def read_text(path: Path) -> str | None:
    """The stripped text of a kernel file; None when it is missing, unreadable or not text."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The whole number in a kernel file; None when there is none."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return int(text.split()[0])
    except (ValueError, IndexError):
        return None


def subdirectories(path: Path) -> tuple[Path, ...]:
    """The entries of a directory of /sys, sorted; empty when it is missing."""
    try:
        return tuple(sorted(path.iterdir()))
    except OSError:
        return ()
