"""Files that a crash leaves whole: either as they were, or as they were to become."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..policies.errors import StateError


def write_durably(path: Path, data: bytes, *, keep: Path | None = None) -> None:
    """Put `data` in place of `path` and have it on the disk when this returns; `keep` gets what was there before.

    Raises StateError when it cannot be written; then `path` is as it was.
    """
    try:
        _write(path, data, keep)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror}.", hint="Is the file system full?") from error


def _write(path: Path, data: bytes, keep: Path | None) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem[:8]}-", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
