"""Reads the history of a period from the state directory, while a daemon runs or while none does.

Rows are read, joined and written out one after the other, in a connection that can only read: the daemon answers in a
thread beside its loop and holds little more than the answer.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .. import __version__
from ..policies.errors import StateError
from ..policies.signals import SIGNALS
from .api.history_schemas import (
    AllocationView,
    Gap,
    History,
    HistoryRow,
    SpanView,
    TaskHistory,
    TaskTotal,
    TrainedTotal,
    TrainingSlice,
)
from .history import Pending
from .history_latency import quantile
from .history_row import DIGITS, Allocated, Row, Span, TaskRow, contiguous, decoded
from .history_store import COARSE_S, GAP_S, joined
from .store import event_of

MOST_EVENTS = 1000
MOST_SLICES = 1000
STEPS_S = (60, 120, 180, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)


@dataclass(frozen=True)
class Period:
    """What is asked for: Unix times, and about how many rows at most."""

    from_s: float
    to_s: float
    points: int

    @property
    def step_s(self) -> float:
        """The length of a row: a round one, a minute at least."""
        wanted = (self.to_s - self.from_s) / self.points
        return float(next((step for step in STEPS_S if step >= wanted), STEPS_S[-1]))


def read_history(state_dir: Path, period: Period, now_s: float, pending: Pending | None = None) -> bytes:
    """The history of a period as the JSON of `History`. Raises StateError."""
    path, more = state_dir / "patchd.db", pending or Pending()
    try:
        with closing(_opened(path)) as connection:
            return _read(connection, period, now_s, more)
    except sqlite3.OperationalError as error:
        hint = "It is of an older patchd; start this one once." if "no such table" in str(error) else None
        raise StateError(f"The history in {path} cannot be read: {error}.", hint=hint) from error
    except sqlite3.DatabaseError as error:
        raise StateError(f"The history in {path} cannot be read: {error}.") from error


def _opened(path: Path) -> sqlite3.Connection:
    """A connection that only reads. Raises StateError when there is nothing to read."""
    if not path.is_file():
        raise StateError(f"There is no state of patchd in {path.parent}: it has no {path.name}.")
    where = f"file:{quote(str(path.absolute()))}?mode=ro"
    log = path.with_name(f"{path.name}-wal")
    connection = sqlite3.connect(where, uri=True)
    try:
        connection.execute("select count(*) from sqlite_master")
    except sqlite3.OperationalError:
        connection.close()
        if log.exists() and log.stat().st_size:
            raise
        # A folder that may not be written takes no lock; without a log nobody is writing either.
        connection = sqlite3.connect(f"{where}&immutable=1", uri=True)
    connection.row_factory = sqlite3.Row
    return connection


def _read(connection: sqlite3.Connection, period: Period, now_s: float, more: Pending) -> bytes:
    to_s = min(period.to_s, now_s)
    told = _Told(period.from_s, to_s)
    rows = bytearray()
    for row in contiguous(told.heeded(_rows(connection, period, more.row)), GAP_S, period.step_s):
        rows += _view(row).model_dump_json(exclude_none=True).encode() + b","
    slices, trained = _few(lambda: _slices(connection, period, more.slices), period)
    names = {name: spec.unit for name, spec in SIGNALS.items()} | dict(more.units)
    counts = connection.execute(
        "select kind, count(*) from events where time_s between ? and ? group by kind order by 2 desc, 1",
        [period.from_s, to_s],
    )
    events = connection.execute(
        "select * from events where time_s between ? and ? order by level = 'info', id desc limit ?",
        [period.from_s, to_s, MOST_EVENTS],
    )
    rest = History(
        from_s=period.from_s,
        to_s=to_s,
        now_s=now_s,
        version=__version__,
        step_s=period.step_s,
        rows=(),
        gaps=tuple(told.gaps_to_the_end()),
        tasks={name: _total(task) for name, task in sorted(told.tasks.items())},
        slices=slices,
        trained=trained,
        events_by_kind=dict(map(tuple, counts)),
        events=tuple(sorted((event_of(dict(row)) for row in events), key=lambda event: event.id)),
        units={name: names.get(name, "") for name in sorted(told.signals)},
    ).model_dump_json(exclude={"rows"})
    return b"".join((rest[:-1].encode(), b',"rows":[', rows[:-1], b"]}"))


class _Told:
    """What rows that pass by tell of the period as a whole: totals of tasks, names of signals, gaps."""

    def __init__(self, from_s: float, to_s: float) -> None:
        self._until_s, self._to_s = from_s, to_s
        self.gaps: list[Gap] = []
        self.tasks: dict[str, TaskRow] = {}
        self.signals: set[str] = set()

    def heeded(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The same rows, looked at before they are joined."""
        for row in rows:
            self._gap(row.first_s)
            self._until_s = max(self._until_s, row.last_s)
            self.signals.update(row.signals)
            for name, task in row.tasks.items():
                self.tasks.setdefault(name, TaskRow()).join(task)
            yield row

    def gaps_to_the_end(self) -> list[Gap]:
        """All gaps, with one at the end where the rows end before the period does."""
        self._gap(self._to_s)
        return self.gaps

    def _gap(self, at_s: float) -> None:
        if at_s - self._until_s > GAP_S:
            self.gaps.append(Gap(from_s=round(self._until_s, 1), to_s=round(at_s, 1)))


def _rows(connection: sqlite3.Connection, period: Period, pending: bytes | None) -> Iterator[Row]:
    stored = connection.execute(
        "select row from history where first_s between ? and ? and last_s >= ? order by first_s",
        [period.from_s - COARSE_S, period.to_s, period.from_s],
    )
    for (packed,) in stored:
        yield decoded(packed)
    if pending is not None:
        row = decoded(pending)
        if row.last_s >= period.from_s and row.first_s <= period.to_s:
            yield row


def _slices(
    connection: sqlite3.Connection, period: Period, pending: Sequence[TrainingSlice]
) -> Iterator[TrainingSlice]:
    stored = connection.execute(
        "select slice from training_slices where end_s >= ? and start_s <= ? order by start_s",
        [period.from_s, period.to_s],
    )
    for (each,) in stored:
        yield TrainingSlice.model_validate_json(each)
    for each in pending:
        if each.end_s >= period.from_s and each.start_s <= period.to_s:
            yield each


def _few(read: Callable[[], Iterator[TrainingSlice]], period: Period) -> tuple[tuple[TrainingSlice, ...], TrainedTotal]:
    """At most so many slices as a picture can show, and what all of them come to.

    Neighbours of one plan are told together before any are left out.
    """
    count = in_all = samples = 0
    seconds = cpu_seconds = 0.0
    jobs = set()
    for each in read():
        count, in_all, samples = count + 1, in_all + each.slices, samples + each.samples
        seconds, cpu_seconds = seconds + each.end_s - each.start_s, cpu_seconds + each.cpu_seconds
        jobs.add(each.job)
    trained = TrainedTotal(slices=in_all, seconds=seconds, cpu_seconds=cpu_seconds, samples=samples, jobs=len(jobs))
    if count <= MOST_SLICES:
        return tuple(read()), trained
    kept, within_s = tuple(deque(joined(read(), period.step_s), 4 * MOST_SLICES)), 2 * period.step_s
    while len(kept) > MOST_SLICES and within_s < period.to_s - period.from_s:
        kept, within_s = tuple(joined(kept, within_s)), 2 * within_s
    return kept[-MOST_SLICES:], trained


def _view(row: Row) -> HistoryRow:
    return HistoryRow(
        first_s=round(row.first_s, 1),
        last_s=round(row.last_s, 1),
        signals={name: _span(span) for name, span in sorted(row.signals.items())},
        inference=_allocation(row.inference),
        training=_allocation(row.training),
        tasks={
            name: TaskHistory(steps=tuple((at, pixels) for at, pixels in task.steps), **_total(task).model_dump())
            for name, task in sorted(row.tasks.items())
        },
        policies={name: round(seconds, 1) for name, seconds in row.policies.items()},
    )


def _total(task: TaskRow) -> TaskTotal:
    return TaskTotal(
        pixels={side: round(seconds, 1) for side, seconds in sorted(task.pixels.items())},
        requests=sum(task.classes.values()),
        p50_ms=_rounded(quantile(task.classes, 0.5, task.most_ms)),
        p95_ms=_rounded(quantile(task.classes, 0.95, task.most_ms)),
        most_ms=_rounded(task.most_ms) if task.classes else None,
        refused=task.refused,
        stages=dict(sorted(task.stages.items())),
    )


def _allocation(seen: Allocated) -> AllocationView | None:
    if not seen.steps:
        return None
    return AllocationView(
        value=_span(seen.value),
        steps=tuple((at, value, target) for at, value, target in seen.steps),
        held_by={why: round(seconds, 1) for why, seconds in seen.held_by.items()},
    )


def _span(span: Span) -> SpanView:
    low, mean, high = (float(f"{value:.{DIGITS}g}") for value in (span.low, span.mean, span.high))
    return SpanView(low=low, mean=min(max(low, mean), high), high=high)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
