"""How much memory a stretch of training takes: the resident peak of this process, begun anew at will.

The peak is the kernel's VmHWM, which writing 5 to clear_refs sets back to what is resident now (Linux
Documentation/filesystems/proc.rst). Where a kernel does not let it be set back, a peak is told only where it rose.
"""

from __future__ import annotations

import ctypes
import gc
import re
from contextlib import suppress
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_PEAK_RESET = "5"
_ASKED = re.compile(r"tried to allocate (\d+) bytes")
_EXHAUSTED = (  # in lower case
    "can't allocate memory",  # c10's allocator
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "could not create a memory",  # oneDNN
    "could not create a primitive",
    "failed to allocate",
)


class MemoryPeak:
    """The most memory that was resident since `begin`, beyond a level taken before."""

    def __init__(self) -> None:
        """Take the level: what is resident now, free memory given back to the system."""
        give_back_free()
        self._level = resident_bytes()
        self._stale: int | None = None  # the peak that could not be set back
        self.begin()

    def begin(self) -> None:
        """Begin a new stretch: what was taken and freed before it counts no more."""
        give_back_free()
        try:
            _CLEAR.write_text(_PEAK_RESET)
            self._stale = None
        except OSError:  # a kernel without it, or a container that does not allow it
            self._stale = _status("VmHWM")

    def bytes(self) -> int | None:
        """Bytes at the highest moment of the stretch, beyond the level; None where the kernel cannot tell."""
        peak = _status("VmHWM")
        if peak is None or self._level is None or (self._stale is not None and peak <= self._stale):
            return None
        return max(0, peak - self._level)


def resident_bytes() -> int | None:
    """Memory of this process in RAM now; None where /proc does not tell."""
    return _status("VmRSS")


def give_back_free() -> None:
    """Return freed memory to the system: the allocator of a worker keeps it otherwise (`ALLOCATOR`)."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory has run out: torch and oneDNN report it as a RuntimeError, in many words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _EXHAUSTED)


def exhausted_words(error: BaseException) -> str:
    """What `error` says of memory that has run out, in a clause."""
    if asked := _ASKED.search(str(error)):
        return f"{int(asked[1]) >> 20} MiB more could not be had"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _status(field: str) -> int | None:
    try:
        text = _STATUS.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None
