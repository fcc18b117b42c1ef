"""Windows of the wall clock, through nights that skip or repeat an hour."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.windows import (
    DAYS,
    is_open,
    next_change,
    next_midnight,
    parse_weekly_time,
    parse_window,
    windows_of,
)

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Cairo"]
)
CLOCK = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
TEXTS = st.builds(
    lambda days, start, end: f"{days}{start}-{end}",
    st.sampled_from(["", "mon-fri ", "sat,sun ", "fri-mon ", "wed "]),
    CLOCK,
    CLOCK,
)
MOMENTS = st.integers(1_735_689_600, 1_830_297_600).map(lambda unix: datetime.fromtimestamp(unix, UTC))  # 2025 to 2027


def at(text: str, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


def open_at(window: str, text: str, fold: int = 0) -> bool:
    return is_open(windows_of((window,)), at(text, fold))


def test_a_window_is_open_from_its_start_until_its_end() -> None:
    assert [open_at("01:00-05:00", f"2026-06-01T{t}") for t in ("00:59:59", "01:00", "04:59:59", "05:00")] == [
        False,
        True,
        True,
        False,
    ]
    assert is_open((), at("2026-06-01T12:00"))


def test_a_window_over_midnight_belongs_to_the_day_on_which_it_begins() -> None:
    # 2026-06-05 is a Friday
    assert open_at("mon-fri 22:00-06:00", "2026-06-05T23:00")
    assert open_at("mon-fri 22:00-06:00", "2026-06-06T05:59")
    assert not open_at("mon-fri 22:00-06:00", "2026-06-06T22:00")
    assert not open_at("mon-fri 22:00-06:00", "2026-06-08T05:00")  # Monday: Sunday night is no weekday's
    assert open_at("sun 22:00-06:00", "2026-06-08T05:00")


def test_a_window_of_24_hours_and_one_that_ends_at_midnight() -> None:
    assert open_at("00:00-24:00", "2026-06-01T00:00")
    assert open_at("12:00-12:00", "2026-06-01T11:59")
    assert open_at("mon 18:00-24:00", "2026-06-01T23:59")
    assert not open_at("mon 18:00-24:00", "2026-06-02T00:00")
    assert next_change(windows_of(("00:00-24:00",)), at("2026-06-01T12:00")) is None


@pytest.mark.parametrize(
    ("window", "now", "change"),
    [
        ("01:00-05:00", "2026-06-01T12:00", "2026-06-02T01:00"),
        ("01:00-05:00", "2026-06-01T03:00", "2026-06-01T05:00"),
        ("sat 01:00-05:00", "2026-06-06T05:00", "2026-06-13T01:00"),
        ("22:00-06:00", "2026-06-01T01:00", "2026-06-01T06:00"),
        # On 2026-03-29 the clock jumps from 02:00 to 03:00, on 2026-10-25 it falls back from 03:00 to 02:00.
        ("02:30-05:00", "2026-03-29T01:30", "2026-03-29T03:00"),
        ("02:00-02:30", "2026-03-29T01:30", "2026-03-30T02:00"),
    ],
)
def test_the_next_change_is_when_a_window_opens_or_closes(window: str, now: str, change: str) -> None:
    assert next_change(windows_of((window,)), at(now)) == at(change)


def test_an_hour_that_comes_twice_opens_twice() -> None:
    windows = windows_of(("02:15-02:30",))
    found = [at("2026-10-25T01:00")]
    for _ in range(5):
        change = next_change(windows, found[-1])
        assert change is not None
        found.append(change)
    assert [f"{moment:%d %H:%M %Z}" for moment in found[1:]] == [
        "25 02:15 CEST",
        "25 02:30 CEST",
        "25 02:15 CET",
        "25 02:30 CET",
        "26 02:15 CET",
    ]


@given(st.lists(TEXTS, min_size=1, max_size=3), ZONES, MOMENTS)
def test_nothing_changes_before_the_next_change_and_there_it_does(
    texts: list[str], zone: str, moment: datetime
) -> None:
    windows, local = windows_of(tuple(texts)), moment.astimezone(ZoneInfo(zone))
    change = next_change(windows, local)
    until = (change or local + timedelta(days=7)).astimezone(UTC)
    step = (until - moment) / 40
    before = is_open(windows, local)
    for index in range(40):
        assert is_open(windows, (moment + index * step).astimezone(ZoneInfo(zone))) == before
    if change is not None:
        assert until > moment
        assert is_open(windows, change) != before


@given(ZONES, MOMENTS)
def test_the_next_midnight_is_the_first_moment_of_the_day_after(zone: str, moment: datetime) -> None:
    local = moment.astimezone(ZoneInfo(zone))
    midnight = next_midnight(local)
    assert midnight.astimezone(UTC) > moment
    assert midnight.date() == local.date() + timedelta(days=1)
    assert (midnight.astimezone(UTC) - timedelta(seconds=1)).astimezone(ZoneInfo(zone)).date() == local.date()


@given(st.text(max_size=20))
def test_whatever_is_written_is_a_window_or_one_sentence(text: str) -> None:
    for parse in (parse_window, parse_weekly_time):
        try:
            parsed = parse(text)
        except ValueError as error:
            assert str(error)
            assert "\n" not in str(error) or "\n" in text
        else:
            assert parsed.days <= set(range(len(DAYS)))
