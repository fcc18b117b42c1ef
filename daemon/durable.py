"""Files that a crash leaves whole, written by the control plane (what workers write goes through `models.durable`)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ..policies.errors import StateError


def write_durably(path: Path, data: bytes) -> None:
    """Put `data` in place of `path` with mode 0600, on the disk when this returns. Raises StateError."""
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise StateError(f"{path} cannot be written: {error.strerror}.", hint="Is the file system full?") from error


def sync_folder(folder: Path) -> None:
    """Have the names in a folder, those that are gone included, as they are now on the disk. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
