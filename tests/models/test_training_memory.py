"""The peak of memory follows what is taken, and forgets what was taken before it began."""

from __future__ import annotations

import torch
from patchd.models.training.memory import MemoryPeak

MIB = 1 << 20
TOLERANCE = 48 * MIB  # of a process that also does other things


def test_a_peak_is_what_was_taken_at_once_beyond_the_level() -> None:
    peak = MemoryPeak()
    held = torch.ones(64 * MIB // 4)
    passing = torch.ones(128 * MIB // 4)
    del passing
    taken = peak.bytes()
    assert taken is not None
    assert abs(taken - 192 * MIB) < TOLERANCE
    del held


def test_a_new_stretch_forgets_what_was_freed_and_keeps_what_is_held() -> None:
    peak = MemoryPeak()
    held = torch.ones(64 * MIB // 4)
    passing = torch.ones(256 * MIB // 4)
    del passing
    peak.begin()
    taken = peak.bytes()
    assert taken is not None
    assert abs(taken - 64 * MIB) < TOLERANCE
    del held
