"""Room for training: never above what there is, and still while the device only breathes."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.policy_tables import Training
from patchd.policies.snapshot import Cpu, Disk, Memory, Snapshot, WorkerUse
from patchd.policies.training_limits import DISK_RESERVE_BYTES, STEP, WORKER_BYTES, held, room

MIB, GIB = 1 << 20, 1 << 30
BYTES = st.integers(0, 1 << 40)


def snapshot(available: int, free: int = 100 * GIB, training: int = 0) -> Snapshot:
    own = (WorkerUse(name="training", pid=1, resident_bytes=training),) if training else ()
    return Snapshot(
        time_s=0.0,
        cpu=Cpu(count=2),
        memory=Memory(total_bytes=1 << 41, available_bytes=available),
        disk=Disk(total_bytes=1 << 41, free_bytes=free),
        workers=own,
    )


@given(BYTES, st.none() | BYTES)
def test_a_mark_is_never_above_what_there_is_and_never_far_below(value: int, before: int | None) -> None:
    mark = held(value, before)
    assert 0 <= mark <= value
    assert mark == 0 or mark * STEP * math.sqrt(STEP) >= value * (1 - 1e-6)


@given(st.integers(MIB, 1 << 40), st.lists(st.floats(-0.05, 0.05), max_size=40))
def test_a_value_that_only_breathes_moves_its_mark_once_at_most(value: int, breaths: list[float]) -> None:
    marks = []
    before = None
    for breath in (0.0, *breaths):
        before = held(max(MIB, int(value * (1 + breath))), before)
        marks.append(before)
    assert sum(a != b for a, b in itertools.pairwise(marks)) <= 1


def test_what_the_worker_holds_counts_as_free_for_it() -> None:
    calm = room(Training(), snapshot(8 * GIB), 0, None)
    training = room(Training(), snapshot(7 * GIB, training=1 * GIB), 0, calm)
    assert training == calm
    assert calm.memory_bytes is not None
    assert calm.memory_bytes <= 4 * GIB - WORKER_BYTES


def test_the_policy_caps_memory_in_bytes_and_by_share() -> None:
    assert room(Training(memory_bytes=50.0 * MIB), snapshot(8 * GIB), 0, None).memory_bytes == 50 * MIB
    assert room(Training(memory_share=0.0), snapshot(8 * GIB), 0, None).memory_bytes == 0
    assert room(Training(), Snapshot(time_s=0.0, cpu=Cpu(count=2)), 0, None).memory_bytes is None


def test_features_leave_a_reserve_on_the_disk_and_their_own_bytes_count_as_free() -> None:
    assert room(Training(), snapshot(GIB, free=DISK_RESERVE_BYTES), 0, None).disk_bytes == 0
    kept = room(Training(), snapshot(GIB, free=DISK_RESERVE_BYTES), 100 * MIB, None).disk_bytes
    assert kept == held(100 * MIB, None)
    assert room(Training(features_bytes=0.0), snapshot(GIB), 0, None).disk_bytes == 0
