"""What the frozen lower part of a network gives for each image of a part, computed once and kept on disk.

A file of float32 rows beside the checkpoint, read through a memory map, with a small record of what it holds. That is
written after the rows are on the disk, so that a crash leaves rows that are right as far as the record says.
"""

from __future__ import annotations

import math
import mmap
import os
from pathlib import Path

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from ...policies.errors import StateError
from ...policies.snapshot import Frozen
from ..durable import write_durably

ITEM_BYTES = 4  # float32
MAPPED_BYTES = 32 << 20  # a larger file does not stay mapped: it would count as memory that the process takes
_PREFIX, _ROWS, _RECORD = "features-", ".f32", ".json"


class FeatureRecord(Frozen):
    """What a file of features holds, and how far it is filled."""

    format: int = 1
    digest: str = Field(description="of all that the rows depend on")
    count: int = Field(ge=1, description="images")
    shape: tuple[int, ...] = Field(description="of one image's features")
    done: int = Field(0, ge=0, description="rows that are computed")

    @property
    def row_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape) * ITEM_BYTES

    @property
    def bytes(self) -> int:
        """Bytes of all images."""
        return self.count * self.row_bytes


class KeptFeatures:
    """The features of one part: appended in order, then read in any."""

    def __init__(self, path: Path, record: FeatureRecord) -> None:
        """Open the file of `record` at `path` (without suffix), made where it is missing. Raises StateError."""
        self._path, self._record = path, record
        try:
            self._map = self._open()
        except OSError as error:
            raise StateError(
                f"Features cannot be kept in {path.parent}: {error.strerror}.", hint="Is the file system full?"
            ) from error
        self._rows = torch.frombuffer(self._map, dtype=torch.float32).view(record.count, *record.shape)

    def _open(self) -> mmap.mmap:
        descriptor = os.open(self._path.with_suffix(_ROWS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Room is taken now: a map over a hole that the disk has no room for would kill the process when written.
            os.posix_fallocate(descriptor, 0, self._record.bytes)
            return mmap.mmap(descriptor, self._record.bytes)
        finally:
            os.close(descriptor)

    @property
    def record(self) -> FeatureRecord:
        """What it holds now."""
        return self._record

    @property
    def complete(self) -> bool:
        """Whether every image is in."""
        return self._record.done == self._record.count

    def append(self, features: Tensor) -> None:
        """The rows of the next images. `save` makes them last."""
        end = self._record.done + len(features)
        self._rows[self._record.done : end].copy_(features)
        self._record = self._record.model_copy(update={"done": end})

    def save(self) -> None:
        """Have all rows so far on the disk, and the record that says so. Raises StateError."""
        try:
            self._map.flush()
        except OSError as error:
            raise StateError(f"{self._path.with_suffix(_ROWS)} cannot be written: {error.strerror}.") from error
        write_durably(self._path.with_suffix(_RECORD), self._record.model_dump_json().encode())

    def chosen(self, indices: Tensor) -> Tensor:
        """A copy of the rows `indices` (int64 [n])."""
        rows = self._rows[indices]
        if self._record.bytes > MAPPED_BYTES:
            self._map.madvise(mmap.MADV_DONTNEED)  # they stay in the page cache, and count no more as this process's
        return rows

    def between(self, start: int, end: int) -> Tensor:
        """A copy of the rows from `start` to `end`."""
        return self.chosen(torch.arange(start, end))


class FeatureStore:
    """The kept features of a job's rung in hand, in the job's directory, within a quota."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.quota_bytes: int | None = None  # none: as much as the disk has

    def open(self, network: str, part: str, digest: str, count: int, shape: tuple[int, ...]) -> KeptFeatures:
        """The features called `digest` of a part, as far as they are there. Raises StateError for want of room.

        `network` names what computes them: all files of one can be kept with `keep_only`.
        """
        path = self._directory / f"{_PREFIX}{network[:16]}-{part}"
        wanted = FeatureRecord(digest=digest, count=count, shape=shape)
        try:
            found = FeatureRecord.model_validate_json(path.with_suffix(_RECORD).read_bytes())
        except (OSError, ValidationError):
            found = wanted
        whole = found.model_copy(update={"done": 0}) == wanted and self._size(path) == wanted.bytes
        total = self.bytes + wanted.bytes - self._size(path)
        if self.quota_bytes is not None and total > self.quota_bytes:
            raise StateError(
                f"Features of the frozen part would take {total} bytes of the disk; {self.quota_bytes} are allowed.",
                hint="See training.features_bytes in docs/policy.md.",
            )
        return KeptFeatures(path, found if whole else wanted)

    @staticmethod
    def _size(path: Path) -> int:
        try:
            return path.with_suffix(_ROWS).stat().st_size
        except OSError:
            return 0

    def clear(self) -> None:
        """Remove all of them: the rung is done."""
        for path in self._directory.glob(f"{_PREFIX}*"):
            path.unlink(missing_ok=True)

    def keep_only(self, network: str) -> None:
        """Remove all files but those of `network`."""
        for path in self._directory.glob(f"{_PREFIX}*"):
            if not path.name.startswith(f"{_PREFIX}{network[:16]}-"):
                path.unlink(missing_ok=True)

    @property
    def bytes(self) -> int:
        """What all of them take of the disk."""
        return sum(path.stat().st_size for path in self._directory.glob(f"{_PREFIX}*{_ROWS}"))
