"""The tables of the history: rows of minutes, of quarters of an hour when they are older, and training slices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .api.history_schemas import TrainingSlice
from .history_row import Row, contiguous, decoded, encoded
from .store import Store

FINE_DAYS = 2.0  # told by the minute
KEPT_DAYS = 30.0
COARSE_S = 900.0
GAP_S = 10.0  # silence from which on a gap is told: a restart takes less
MOST_BYTES = 32 * 1024 * 1024  # of rows, however many tasks and signals there are
DAY_S = 86400.0


class HistoryStore:
    """Writes and trims. Reading is `history_reader`'s, over a connection of its own."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, row: Row, slices: Sequence[TrainingSlice]) -> None:
        """Append what was seen, in one transaction. Raises StateError."""
        with self._store.transaction():
            self._insert((row,), fine=True)
            self._insert_slices(slices)

    def trim(self, now_s: float) -> None:
        """Tell old minutes by the quarter of an hour, and forget what is over the bounds. Raises StateError."""
        database, old_s = self._store.database, (now_s - FINE_DAYS * DAY_S) // COARSE_S * COARSE_S
        with self._store.transaction():
            database.execute("delete from history where first_s < ?", [now_s - KEPT_DAYS * DAY_S])
            database.execute("delete from training_slices where end_s < ?", [now_s - KEPT_DAYS * DAY_S])
            rows = [
                decoded(stored)
                for (stored,) in database.execute(
                    "select row from history where fine and first_s < ? order by first_s", [old_s]
                )
            ]
            database.execute("delete from history where fine and first_s < ?", [old_s])
            self._insert(contiguous(rows, GAP_S, COARSE_S), fine=False)
            slices = [
                TrainingSlice.model_validate_json(stored)
                for (stored,) in database.execute(
                    "select slice from training_slices where fine and start_s < ? order by start_s", [old_s]
                )
            ]
            database.execute("delete from training_slices where fine and start_s < ?", [old_s])
            self._insert_slices(joined(slices, COARSE_S), fine=False)
            database.execute(
                "delete from history where rowid in (select rowid from (select rowid,"
                " sum(length(row)) over (order by first_s desc, rowid desc) as total from history) where total > ?)",
                [MOST_BYTES],
            )

    def _insert(self, rows: Iterable[Row], *, fine: bool) -> None:
        self._store.database.table("history").insert_all(
            {"first_s": row.first_s, "last_s": row.last_s, "fine": int(fine), "row": encoded(row)} for row in rows
        )

    def _insert_slices(self, slices: Iterable[TrainingSlice], *, fine: bool = True) -> None:
        self._store.database.table("training_slices").insert_all(
            {
                "start_s": each.start_s,
                "end_s": each.end_s,
                "fine": int(fine),
                "slice": each.model_dump_json(exclude_defaults=True),
            }
            for each in slices
        )


def joined(slices: Iterable[TrainingSlice], within_s: float) -> Iterator[TrainingSlice]:
    """Slices in order of time, those of one job and plan that follow each other as one of at most `within_s`."""
    held: TrainingSlice | None = None
    for each in slices:
        if held is None:
            held = each
            continue
        same = (held.job, held.plan, held.resolution) == (each.job, each.plan, each.resolution)
        if same and abs(each.start_s - held.end_s) <= GAP_S and each.end_s - held.start_s <= within_s:
            held = _together(held, each)
        else:
            yield held
            held = each
    if held is not None:
        yield held


def _together(one: TrainingSlice, other: TrainingSlice) -> TrainingSlice:
    steps = one.steps + other.steps
    known = [each for each in (one, other) if each.measured_cost is not None and each.steps]
    weight = sum(each.steps for each in known)
    return other.model_copy(
        update={
            "start_s": one.start_s,
            "slices": one.slices + other.slices,
            "steps": steps,
            "samples": one.samples + other.samples,
            "cpu_seconds": one.cpu_seconds + other.cpu_seconds,
            "measured_cost": sum((each.measured_cost or 0.0) * each.steps for each in known) / weight
            if weight
            else None,
        }
    )
