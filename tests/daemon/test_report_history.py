"""The history: what a minute's row holds, what survives, what is trimmed, and how a period is told."""

from __future__ import annotations

import math
import re
import shutil
import sqlite3
import time
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from lived import decision as decided
from lived import device, live
from patchd.daemon.api.history_schemas import History, TrainingSlice
from patchd.daemon.api.schemas import StageCount
from patchd.daemon.cli.main import cli
from patchd.daemon.history import parts
from patchd.daemon.history_latency import class_of, quantile
from patchd.daemon.history_reader import Period, read_history
from patchd.daemon.history_row import MOST_STEPS, Row, Span, TaskRow, contiguous, decoded, encoded, thinned
from patchd.daemon.history_store import COARSE_S, DAY_S, FINE_DAYS, KEPT_DAYS, HistoryStore, joined
from patchd.daemon.report.panels import data
from patchd.daemon.store import Store
from patchd.daemon.training_records import PlanReport
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import BadInputError, StateError
from patchd.policies.training_times import Bar
from running import RunningDaemon

NOON = 1_780_000_800.0 - 1_780_000_800.0 % 3600  # the start of some hour


def told(state: Path, from_s: float, to_s: float, points: int = 5000, now_s: float | None = None) -> History:
    period = Period(from_s, to_s, points)
    return History.model_validate_json(read_history(state, period, to_s if now_s is None else now_s))


# rows


@given(st.lists(st.floats(0.01, 60_000), min_size=1, max_size=60), st.sampled_from([0.5, 0.95, 1.0]))
def test_quantiles_of_counted_times_are_within_five_percent(times: list[float], share: float) -> None:
    classes: dict[int, int] = {}
    for each in times:
        classes[class_of(each)] = classes.get(class_of(each), 0) + 1
    true = sorted(times)[math.ceil(share * len(times)) - 1]
    assert quantile(classes, share, max(times)) == pytest.approx(true, rel=0.05)
    assert quantile({}, share, 0.0) is None


ROWS = st.builds(
    lambda first, seconds, value, count: Row(
        first,
        first + seconds,
        signals={"cpu.busy": Span(value, value, value * seconds, seconds)},
        tasks={"t": TaskRow(pixels={96: seconds}, steps=[[first, 96.0]], classes={8: count}, most_ms=value)},
        policies={"balanced": seconds},
    ),
    st.integers(0, 10_000).map(float),
    st.integers(1, 60).map(float),
    st.integers(0, 8).map(lambda eighths: eighths / 8),
    st.integers(1, 9),
)


@given(st.lists(ROWS, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_rows_add_up_in_any_order_and_are_read_as_they_were_written(rows: list[Row], random) -> None:
    def summed(given_rows: list[Row]) -> Row:
        total = Row(given_rows[0].first_s, given_rows[0].last_s)
        for row in given_rows:
            total.join(decoded(encoded(row)))
        return total

    one = summed(rows)
    shuffled = [*rows]
    random.shuffle(shuffled)
    other = summed(shuffled)
    assert (one.first_s, one.last_s, one.policies) == (other.first_s, other.last_s, other.policies)
    assert one.tasks["t"].classes == {8: sum(row.tasks["t"].classes[8] for row in rows)}
    assert one.tasks["t"].pixels == other.tasks["t"].pixels
    span = one.signals["cpu.busy"]
    assert span.mean == pytest.approx(other.signals["cpu.busy"].mean)
    assert span.low <= span.mean <= span.high


@given(st.lists(st.tuples(st.floats(0, 60), st.integers(0, 4)), max_size=200))
def test_steps_keep_the_first_and_the_last_change_and_never_more_than_a_row_holds(points) -> None:
    steps = [[at, float(value)] for at, value in sorted(points)]
    kept = thinned(steps, 0.0, 60.0)
    assert len(kept) <= MOST_STEPS + 1
    if steps:
        assert kept[0] == steps[0]
        assert kept[-1][1] == steps[-1][1]
    assert all(one[1] != other[1] and one[0] <= other[0] for one, other in pairwise(kept))


def test_rows_are_joined_within_a_slot_and_never_across_a_gap() -> None:
    rows = [Row(0.0, 60.0), Row(60.0, 120.0), Row(150.0, 180.0), Row(900.0, 960.0)]
    assert [(row.first_s, row.last_s) for row in contiguous(rows, 10.0, 900.0)] == [
        (0.0, 120.0),
        (150.0, 180.0),
        (900.0, 960.0),
    ]


# what is recorded


def test_means_are_over_time_and_changes_of_allocation_are_told_to_the_second(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        made.see(decided(NOON, 1.0, pixels={"t": 224}), busy=0.0)
        made.wait(15)
        made.see(decided(made.now_s, 0.25, target=1.0, pixels={"t": 96}), busy=1.0)
        made.wait(45)
        made.see(decided(made.now_s, 1.0, rule="hot", bar=Bar.WINDOWS, pixels={"t": 96}), busy=1.0)
        made.wait(30)
        made.recorder.close()
    history = told(tmp_path, NOON, NOON + 90)
    first, second = history.rows
    assert (first.first_s, first.last_s, second.last_s) == (NOON, NOON + 60, NOON + 90)
    assert first.signals["cpu.busy"].mean == 0.75
    assert (first.signals["cpu.busy"].low, first.signals["cpu.busy"].high) == (0.0, 1.0)
    assert first.inference.steps == ((NOON, 1.0, 1.0), (NOON + 15, 0.25, 1.0))
    assert first.inference.value.mean == pytest.approx(0.25 * 1.0 + 0.75 * 0.25)
    assert first.inference.held_by == {"hold": 45.0}
    assert second.inference.held_by == {"rule hot": 30.0}
    assert second.training.held_by == {"training.windows": 30.0}
    assert first.tasks["t"].pixels == {96: 45.0, 224: 15.0}
    assert first.tasks["t"].steps == ((NOON, 224.0), (NOON + 15, 96.0))
    assert history.gaps == ()


def test_a_sample_that_comes_rarely_counts_for_every_minute_it_stands_for(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        for _ in range(4):
            made.see(busy=0.5)
            made.wait(45)
        made.recorder.close()
    rows = told(tmp_path, NOON, NOON + 180).rows
    assert [row.last_s - row.first_s for row in rows] == [60.0, 60.0, 60.0]
    assert all(row.signals["cpu.busy"].mean == 0.5 and row.inference.value.mean == 1.0 for row in rows)


def test_requests_refusals_and_stages_are_counted_in_the_minute_they_fell_into(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        made.counts["t"] = [("1 lite0 at 96 px", StageCount(answers=3)), ("2 lite0 at 224 px", StageCount(answers=1))]
        made.served.answered("t", 10.0)
        made.served.answered("t", 100.0)
        made.served.refused("t", "busy")
        made.see()
        made.wait(61)
        made.see()
        made.counts["t"] = [("1 lite0 at 96 px", StageCount(answers=2))]  # of a new cascade
        made.served.answered("t", 20.0)
        made.wait(10)
        made.see()
        assert decoded(made.recorder.pending({}).row or b"").tasks["t"].stages == {"1 lite0 at 96 px": 2}
        made.recorder.close()
    first, second = told(tmp_path, NOON, NOON + 71).rows
    assert (first.tasks["t"].requests, first.tasks["t"].most_ms, first.tasks["t"].refused) == (2, 100.0, {"busy": 1})
    assert first.tasks["t"].stages == {"1 lite0 at 96 px": 3, "2 lite0 at 224 px": 1}
    assert second.tasks["t"].requests == 1
    assert second.tasks["t"].p50_ms == pytest.approx(20.0, rel=0.05)
    total = told(tmp_path, NOON, NOON + 71).tasks["t"]
    assert (total.requests, total.most_ms, total.refused) == (3, 100.0, {"busy": 1})
    assert total.stages == {"1 lite0 at 96 px": 5, "2 lite0 at 224 px": 1}


def test_a_kill_loses_the_minute_in_hand_and_a_gap_is_told(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        for _ in range(16):
            made.see()
            made.wait(10)
        # no close: the process was killed at 150 s
    with device(tmp_path, NOON + 420) as made:
        made.see()
        made.wait(30)
        made.recorder.close()
    history = told(tmp_path, NOON, NOON + 450)
    assert [(row.first_s, row.last_s) for row in history.rows] == [
        (NOON, NOON + 60),
        (NOON + 60, NOON + 120),
        (NOON + 420, NOON + 450),
    ]
    assert [(gap.from_s, gap.to_s) for gap in history.gaps] == [(NOON + 120, NOON + 420)]
    assert [(gap.from_s, gap.to_s) for gap in told(tmp_path, NOON - 60, NOON + 450, now_s=NOON + 600).gaps] == [
        (NOON - 60, NOON),
        (NOON + 120, NOON + 420),
    ]


@pytest.mark.parametrize("jump_s", [3600.0, -1800.0])
def test_a_clock_that_is_set_leaves_a_gap_and_no_time_is_counted_twice(tmp_path: Path, jump_s: float) -> None:
    with device(tmp_path, NOON) as made:
        for _ in range(6):
            made.see()
            made.wait(10)
        made.now_s += jump_s
        for _ in range(6):
            made.see()
            made.wait(10)
        made.recorder.close()
    history = told(tmp_path, NOON - 7200, NOON + 7200)
    assert sum(row.policies["balanced"] for row in history.rows) == 120.0
    first = min(NOON, NOON + 60 + jump_s)
    assert history.rows[0].first_s == first
    assert len(history.gaps) == 3


def test_silence_is_no_value_held(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        made.see()
        made.wait(10)
        made.see()
        made.wait(500)  # the device slept with its clocks running
        made.see()
        made.wait(10)
        made.recorder.close()
    history = told(tmp_path, NOON, NOON + 520)
    assert sum(row.policies["balanced"] for row in history.rows) == 20.0
    assert [(gap.from_s, gap.to_s) for gap in history.gaps] == [(NOON + 10, NOON + 510)]


def test_a_state_that_cannot_be_written_loses_no_minute(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        made.store.database.execute("PRAGMA query_only=ON")
        for _ in range(13):
            made.see()
            made.wait(10)
        assert told(tmp_path, NOON, NOON + 130).rows == ()
        made.store.database.execute("PRAGMA query_only=OFF")
        for _ in range(6):
            made.see()
            made.wait(10)
        made.recorder.close()
    assert told(tmp_path, NOON, NOON + 190).gaps == ()


def test_a_slice_is_told_apart_by_the_plans_that_ran_in_it() -> None:
    whole = TrainingSlice(start_s=100.0, end_s=120.0, job="j", task="t", plan="", cpu_seconds=16.0)
    report = PlanReport(
        plan=TrainingPlan(paused=False, cost=0.5, resolution=96), resolution=96, threads=1, steps=6, samples=192,
        cpu_seconds=3.0, measured_step_ms=50.0, full_step_ms=200.0,
    )  # fmt: skip
    head = report.model_copy(update={"plan": TrainingPlan(paused=False, reach=0.0, cost=0.1), "cpu_seconds": 1.0})
    one, other = parts(whole, [report, head])
    assert (one.start_s, one.end_s, other.start_s, other.end_s) == (100.0, 115.0, 115.0, 120.0)
    assert (one.cost, one.measured_cost, one.cpu_seconds, one.plan) == (
        0.5,
        0.25,
        12.0,
        "patch everywhere, base frozen",
    )
    assert other.plan == "head only, base frozen"


# how long it is kept


def test_old_minutes_become_quarters_and_what_is_over_the_bounds_goes(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        live(made, 1.0)
        before = told(tmp_path, NOON, NOON + 3600)
        HistoryStore(made.store).trim(NOON + FINE_DAYS * DAY_S + 3600)
        after = told(tmp_path, NOON, NOON + 3600)
        assert len(after.rows) < len(before.rows) / 5
        assert all(row.last_s - row.first_s <= COARSE_S for row in after.rows)
        assert after.gaps == before.gaps
        assert after.tasks == before.tasks
        assert sum(each.cpu_seconds for each in after.slices) == pytest.approx(
            sum(each.cpu_seconds for each in before.slices)
        )
        assert len(after.slices) < len(before.slices)
        assert after.trained.model_copy(update={"cpu_seconds": 0.0}) == before.trained.model_copy(
            update={"cpu_seconds": 0.0}
        )
        assert after.trained.cpu_seconds == pytest.approx(before.trained.cpu_seconds)
        HistoryStore(made.store).trim(NOON + KEPT_DAYS * DAY_S + 3700)
        gone = told(tmp_path, NOON, NOON + 3700)
        assert (gone.rows, gone.slices) == ((), ())


def test_history_is_bounded_in_bytes_whatever_its_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with device(tmp_path, NOON) as made:
        live(made, 1.0)
        monkeypatch.setattr("patchd.daemon.history_store.MOST_BYTES", 4000)
        HistoryStore(made.store).trim(made.now_s)
        (size,) = made.store.database.execute("select sum(length(row)) from history").fetchone()
        assert 0 < size <= 4000
        rows = told(tmp_path, NOON, made.now_s).rows
        assert rows[-1].last_s == pytest.approx(made.now_s, abs=1)  # the newest stay


@settings(max_examples=25)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=30), st.floats(30, 300))
def test_joined_slices_keep_every_second_and_every_image(jobs: list[str], within_s: float) -> None:
    slices = [
        TrainingSlice(
            start_s=20.0 * i, end_s=20.0 * i + 20, job=job, task="t", plan="p", cpu_seconds=1.0, steps=2, samples=64
        )
        for i, job in enumerate(jobs)
    ]
    told_together = list(joined(slices, within_s))
    assert sum(each.slices for each in told_together) == len(slices)
    assert sum(each.samples for each in told_together) == 64 * len(slices)
    assert sum(each.end_s - each.start_s for each in told_together) == pytest.approx(20.0 * len(slices))
    assert all(each.end_s - each.start_s <= max(20.0, within_s) for each in told_together)


# how it is read


def test_a_period_is_told_in_about_so_many_rows(tmp_path: Path) -> None:
    with device(tmp_path, NOON) as made:
        live(made, 3.0)
    fine, coarse = told(tmp_path, NOON, NOON + 10_800), told(tmp_path, NOON, NOON + 10_800, points=40)
    assert (fine.step_s, coarse.step_s) == (60.0, 300.0)
    assert len(coarse.rows) <= 40 < len(fine.rows)
    assert coarse.tasks == fine.tasks
    assert coarse.gaps == fine.gaps
    assert fine.units["temperature.max"] == "degrees Celsius"


def test_of_too_many_slices_the_newest_are_told_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchd.daemon.history_reader.MOST_SLICES", 5)
    with device(tmp_path, NOON) as made:
        for number in range(40):
            made.see()
            made.recorder.keep(
                TrainingSlice(
                    start_s=made.now_s, end_s=made.now_s + 15, job=f"job-{number % 2}", task="t", plan="p", samples=32
                )
            )
            made.wait(20)
        made.recorder.close()
    history = told(tmp_path, NOON, NOON + 800)
    assert (history.trained.slices, history.trained.seconds, history.trained.jobs) == (40, 600.0, 2)
    assert history.trained.samples == 40 * 32
    assert len(history.slices) == 5
    assert history.slices[-1].end_s == NOON + 39 * 20 + 15
    (drawn,) = (panel for panel in data(history)["panels"] if panel["id"] == "slices")
    assert drawn["untold"] == history.slices[0].start_s - NOON


def test_what_cannot_be_read_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"There is no state of patchd in .*: it has no patchd\.db\."):
        told(tmp_path, NOON, NOON + 60)
    (tmp_path / "patchd.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StateError, match=r"The history in .*patchd\.db cannot be read: file is not a database\."):
        told(tmp_path, NOON, NOON + 60)
    (tmp_path / "patchd.db").unlink()
    sqlite3.connect(tmp_path / "patchd.db").execute("create table other (a)").connection.close()
    with pytest.raises(StateError, match="start this one once"):
        told(tmp_path, NOON, NOON + 60)


def test_a_copy_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    with device(tmp_path / "state", NOON) as made:
        live(made, 0.2)
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(tmp_path / "state" / "patchd.db", copy)
    (copy / "patchd.db").chmod(0o400)
    copy.chmod(0o500)
    try:
        assert len(told(copy, NOON, NOON + 720).rows) > 5
    finally:
        copy.chmod(0o700)


# in a daemon


def test_a_daemon_tells_its_history_up_to_now(daemon: RunningDaemon, photographs: dict[str, Path]) -> None:
    for _ in range(3):
        daemon.client.infer("imagenet", photographs["china"].read_bytes())
    with pytest.raises(BadInputError):
        daemon.client.infer("imagenet", b"no image")
    history = daemon.client.history()
    assert history.tasks["imagenet"].requests == 3
    assert history.tasks["imagenet"].refused == {"bad_input": 1}
    imagenet = history.tasks["imagenet"]
    assert 0 < (imagenet.p50_ms or 0) <= (imagenet.p95_ms or 0) <= (imagenet.most_ms or 0)
    assert history.rows[-1].last_s == pytest.approx(time.time(), abs=30)
    assert history.rows[-1].policies.keys() == {"steady"}
    assert {"memory.available", "disk.free_bytes"} <= history.rows[-1].signals.keys()
    assert history.events_by_kind["daemon.started"] == 1
    assert daemon.client.history(to_s=history.from_s - 60).rows == ()


def test_the_command_reports_what_the_daemon_tells(
    daemon: RunningDaemon, photographs: dict[str, Path], tmp_path: Path
) -> None:
    daemon.client.infer("imagenet", photographs["china"].read_bytes())
    arguments, target = ["--socket", str(daemon.socket), "report", "--since", "10m"], tmp_path / "report.html"
    done = CliRunner().invoke(cli, [*arguments, "-o", str(target)])
    assert done.exit_code == 0, done.output
    history = History.model_validate_json(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)
    asked = history.tasks["imagenet"].requests
    assert asked >= 1
    text = target.read_text()
    assert "under the policy “steady”" in text
    assert re.search(rf">{asked} predictions? (was|were) answered for 1 task: half took no longer than", text)
    assert "patchd serves on" in text


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"from": "yesterday"}, "Query parameter 'from' must be a number, not 'yesterday'."),
        ({"from": "20", "to": "10"}, "The period is empty"),
        ({"from": "9e12"}, "The period is empty"),
        ({"points": "0"}, "Query parameter 'points' must be a whole number from 1 to 5000"),
    ],
    ids=["word", "backwards", "future", "points"],
)
def test_a_period_that_cannot_be_is_refused(daemon: RunningDaemon, query: dict[str, str], sentence: str) -> None:
    with pytest.raises(BadInputError, match=sentence):
        daemon.client.request("GET", "/v1/history", query=query)


def test_what_a_daemon_wrote_is_there_when_it_has_ended_and_after_a_restart(fresh: RunningDaemon) -> None:
    fresh.until(lambda: fresh.client.history().rows)
    fresh.stop()
    ended = told(fresh.state, time.time() - 600, time.time())
    assert ended.rows[-1].policies.keys() == {"steady"}
    fresh.start()
    again = fresh.until(
        lambda: next((h for h in [fresh.client.history()] if h.rows[-1].last_s > ended.rows[-1].last_s), None)
    )
    assert again.rows[0].first_s == ended.rows[0].first_s
    assert again.events_by_kind["daemon.started"] == 2


def test_the_migration_leaves_a_state_that_opens_again(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with device(tmp_path, NOON) as made:
        made.see()
        made.wait(5)
        made.recorder.close()
    assert len(told(tmp_path, NOON, NOON + 5).rows) == 1
