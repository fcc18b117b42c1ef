"""Compiled graphs on disk, so that a worker that starts again need not compile: a folder of bounded size.

A file is the sha256 of what follows, then the graph as OpenVINO exports it. Whatever is not whole is as good as not
there: a graph can always be compiled anew.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from ..policies.errors import StateError
from .durable import write_durably

LIMIT_BYTES = 512 * 1024 * 1024
SUFFIX = ".graph"
_DIGEST = 32


class GraphCache:
    """Graphs by key in `folder`; those unused for longest go when they are over `limit_bytes` in all."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Raises StateError when the folder cannot be made."""
        self._folder, self._limit = folder, limit_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"The folder {folder} for compiled graphs cannot be made: {error.strerror}.") from error

    def get(self, *key: object) -> bytes | None:
        """The graph kept under `key`; None without a whole one."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        blob = data[_DIGEST:]
        if hashlib.sha256(blob).digest() != data[:_DIGEST]:
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):
            path.touch()  # used just now
        return blob

    def put(self, blob: bytes, *key: object) -> None:
        """Keep a graph under `key`. Raises StateError when it cannot be written."""
        write_durably(self._path(key), hashlib.sha256(blob).digest() + blob)
        self._trim()

    def drop(self, *key: object) -> None:
        """Forget the graph under `key`."""
        self._path(key).unlink(missing_ok=True)

    def _path(self, key: tuple[object, ...]) -> Path:
        name = hashlib.sha256("\n".join(map(str, key)).encode()).hexdigest()
        return self._folder / f"{name}{SUFFIX}"

    def _trim(self) -> None:
        files = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            with contextlib.suppress(OSError):  # another worker may have removed it
                stat = path.stat()
                files.append((stat.st_mtime_ns, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files)[:-1]:
            if total <= self._limit:
                return
            path.unlink(missing_ok=True)
            total -= size
