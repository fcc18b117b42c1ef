"""What training used: added up by job and local day, kept, and counted against the day's limit."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.store import Store
from patchd.daemon.training_account import KEPT_DAYS, TrainingAccount
from patchd.policies.training_use import TrainingUse

ZONE = ZoneInfo("America/New_York")
USES = st.builds(
    TrainingUse,
    cpu_seconds=st.integers(0, 9).map(float),
    slices=st.integers(0, 9),
    rapl_joules=st.none() | st.integers(0, 9).map(float),
)


class Clock:
    def __init__(self, text: str) -> None:
        self.set(text)

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=ZONE).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


def test_a_day_ends_at_local_midnight_and_jobs_are_told_apart(store: Store) -> None:
    clock = Clock("2026-06-01T23:59")
    account = TrainingAccount(store, ZONE, clock)
    account.add("a", TrainingUse(cpu_seconds=30.0, slices=1, samples=64))
    account.add("b", TrainingUse(cpu_seconds=10.0))
    assert account.today(clock()).used_s == 40.0
    clock.set("2026-06-02T00:00")
    assert account.today(clock()).used_s == 0.0
    account.add("a", TrainingUse(cpu_seconds=5.0, rapl_joules=2.0))
    usage = account.usage(2, 60.0)
    assert [(day.day, day.use.cpu_seconds) for day in usage.days] == [(date(2026, 6, 2), 5.0), (date(2026, 6, 1), 40.0)]
    assert [each.job for each in usage.days[1].jobs] == ["a", "b"]
    assert (usage.today_cpu_seconds, usage.max_minutes_per_day, usage.use.cpu_seconds) == (5.0, 60.0, 45.0)
    assert usage.use.rapl_joules == 2.0
    assert [day.day for day in account.usage(1, None).days] == [date(2026, 6, 2)]
    assert account.of_job("a") == TrainingUse(cpu_seconds=35.0, slices=1, samples=64, rapl_joules=2.0)
    assert account.of_job("none") == TrainingUse()


def test_what_is_written_is_there_after_a_restart_and_old_days_are_forgotten(store: Store) -> None:
    clock = Clock("2026-06-01T12:00")
    account = TrainingAccount(store, ZONE, clock)
    account.add("a", TrainingUse(cpu_seconds=30.0, battery_joules=9.0), write=True)
    account.add("a", TrainingUse(cpu_seconds=1.0))
    assert TrainingAccount(store, ZONE, clock).of_job("a").cpu_seconds == 30.0
    account.write()
    again = TrainingAccount(store, ZONE, clock)
    assert again.of_job("a") == TrainingUse(cpu_seconds=31.0, battery_joules=9.0)
    clock.now += (KEPT_DAYS + 1) * 86400
    again.trim()
    assert again.of_job("a") == TrainingUse()
    assert store.training_use() == []


@given(st.lists(USES, max_size=6))
def test_uses_add_up_in_any_order(uses: list[TrainingUse]) -> None:
    assert sum(uses, TrainingUse()) == sum(reversed(uses), TrainingUse())
    known = [use.rapl_joules for use in uses if use.rapl_joules is not None]
    assert sum(uses, TrainingUse()).rapl_joules == (sum(known) if known else None)
