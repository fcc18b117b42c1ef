"""How many threads a worker gets: never more than find a processor of their own, never fewer than one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.snapshot import Cpu, Snapshot, WorkerUse
from patchd.policies.threads import SLACK_CORES, free_threads

SHARE = st.floats(0, 1)
MOST = st.integers(1, 64)


def snapshot(busy: float | None, *, count: int = 2, limit: float | None = None, **use: float) -> Snapshot:
    workers = tuple(WorkerUse(name=n, pid=i + 2, cpu_cores=c, resident_bytes=1) for i, (n, c) in enumerate(use.items()))
    return Snapshot(time_s=0.0, cpu=Cpu(count=count, limit_cores=limit, busy=busy), workers=workers)


@given(SHARE, MOST, st.integers(1, 64), st.none() | st.floats(0.01, 64), st.floats(0, 64))
def test_threads_lie_between_one_and_what_is_free(
    busy: float, most: int, count: int, limit: float | None, own: float
) -> None:
    seen = snapshot(busy, count=count, limit=limit, training=own)
    threads = free_threads(seen, most, ("training",))
    assert 1 <= threads <= most
    assert threads == 1 or threads <= seen.cpu.cores * (1 - busy) + own + SLACK_CORES


@given(SHARE, SHARE, MOST)
def test_a_busier_machine_never_gives_more_threads(a: float, b: float, most: int) -> None:
    idler, busier = (free_threads(snapshot(busy, count=64), most, ()) for busy in sorted((a, b)))
    assert busier <= idler


def test_of_two_processors_a_program_that_fills_one_leaves_one_thread() -> None:
    assert free_threads(snapshot(0.02), 2, ()) == 2
    assert free_threads(snapshot(0.5), 2, ()) == 1
    assert free_threads(snapshot(1.0), 2, ()) == 1


def test_what_the_worker_itself_uses_counts_as_free_and_what_others_use_does_not() -> None:
    seen = snapshot(1.0, training=1.95, inference=0.05)
    assert free_threads(seen, 2, ("training",)) == 2
    assert free_threads(seen, 2, ("inference",)) == 1


def test_unknown_use_gives_all_threads() -> None:
    assert free_threads(None, 3, ()) == 3
    assert free_threads(snapshot(None), 3, ()) == 3
