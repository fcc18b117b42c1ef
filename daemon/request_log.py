"""The record of answered predictions, which `explain` reads: bounded, written in batches, free of content.

A prediction pays for one entry in a dictionary. What has gathered is written a moment later between two other turns
of the loop, a few at a time, so that neither answers nor decisions wait for it. Of a power cut the last seconds are
lost; nothing but explanations rests on them.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import islice
from typing import Any, NamedTuple

from ..policies.errors import NotFoundError, StateError
from .api.explain_schemas import Reason, RequestList, RequestRecord
from .api.schemas import Form, InferAnswer
from .store import Store

FLUSH_AFTER_S = 2.0  # an entry waits at most so long, and no timer runs while there is none
CHUNK = 25  # written at a time: one or two milliseconds of the loop
MOST_PENDING = 2000  # while the state cannot be written; the oldest go first

_LOG = logging.getLogger("patchd")


class Answered(NamedTuple):
    """An answered prediction as it is handed over: made into a record only when it is written or asked for."""

    answer: InferAnswer
    time_s: float
    reason: Reason
    form: Form
    bytes: int
    image_size: tuple[int, int] | None
    slowed_by: float
    uid: int | None
    pid: int | None

    def record(self) -> RequestRecord:
        """What is kept of it: labels and probabilities are not."""
        answer = self.answer
        return RequestRecord(
            id=answer.request_id,
            time_s=self.time_s,
            task=answer.task,
            base=answer.base,
            resolution=answer.resolution,
            patch_id=answer.patch_id,
            reason=self.reason,
            why=answer.why,
            decision_id=answer.decision_id,
            allocation=answer.allocation,
            slowed_by=self.slowed_by,
            cascade=answer.cascade,
            form=self.form,
            bytes=self.bytes,
            image_size=self.image_size,
            engine=answer.engine,
            batch=answer.batch,
            timing=answer.timing,
            uid=self.uid,
            pid=self.pid,
        )


class RequestLog:
    """Owns the table of requests. `most` records are kept, of all tasks together."""

    def __init__(self, store: Store, most: int) -> None:
        self._store, self._most = store, most
        self._pending: dict[str, Answered] = {}
        self._timer: asyncio.Handle | None = None
        self._failing = False
        found = self._rows("select coalesce(max(n), 0) as n from requests")
        self._last = int(found[0]["n"])

    def put(self, answered: Answered) -> None:
        """Keep what is to be told of an answered prediction."""
        if len(self._pending) >= MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        self._pending[answered.answer.request_id] = answered
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_AFTER_S, self._turn)

    def find(self, request_id: str) -> RequestRecord:
        """The record of one prediction. Raises NotFoundError, saying how far back records go."""
        waiting = self._pending.get(request_id)
        if waiting is not None:
            return waiting.record()
        rows = self._rows("select record from requests where id = ?", request_id)
        if not rows:
            raise NotFoundError(
                f"There is no record of a request '{request_id}': {self._reach()}.",
                hint="`patchctl explain --at TIME` explains a past moment.",
            )
        return RequestRecord.model_validate_json(rows[0]["record"])

    def recent(self, limit: int, task: str | None) -> RequestList:
        """The last predictions, newest first, of one task where one is given."""
        newest = [each.record() for each in reversed(self._pending.values()) if task in (None, each.answer.task)]
        if len(newest) < limit:
            sql = "select record from requests where ?1 is null or task = ?1 order by n desc limit ?2"
            rows = self._rows(sql, task, limit - len(newest))
            newest += [RequestRecord.model_validate_json(row["record"]) for row in rows]
        kept, oldest_s = self._extent()
        return RequestList(requests=tuple(newest[:limit]), kept=kept, most=self._most, oldest_s=oldest_s)

    def flush(self) -> None:
        """Write all that has gathered, as at the daemon's end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._pending and self.write_some():
            pass

    @property
    def waiting(self) -> int:
        """Records that are not written yet."""
        return len(self._pending)

    def _turn(self) -> None:
        self._timer = None
        written = self.write_some()
        if self._pending:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_soon(self._turn) if written else loop.call_later(FLUSH_AFTER_S, self._turn)

    def write_some(self) -> bool:
        """Write the oldest entries; False where the state cannot be written now."""
        batch = list(islice(self._pending.values(), CHUNK))
        rows = [self._row(self._last + 1 + place, each.record()) for place, each in enumerate(batch)]
        connection = self._store.database.conn
        connection.execute("PRAGMA synchronous=NORMAL")  # no wait for the disk: see above
        try:
            with self._store.transaction():
                connection.executemany(
                    "insert into requests (n, id, time_s, task, record) values (?, ?, ?, ?, ?)", rows
                )
                connection.execute("delete from requests where n <= ?", [self._last + len(rows) - self._most])
        except StateError as error:
            if not self._failing:
                _LOG.error("records of requests wait until the state can be written again: %s", error)
            self._failing = True
            return False
        finally:
            connection.execute("PRAGMA synchronous=FULL")
        self._failing = False
        self._last += len(rows)
        for each in batch:
            self._pending.pop(each.answer.request_id, None)
        return True

    @staticmethod
    def _row(number: int, record: RequestRecord) -> tuple[int, str, float, str, str]:
        return number, record.id, record.time_s, record.task, record.model_dump_json(exclude_none=True)

    def _reach(self) -> str:
        from datetime import datetime

        kept, oldest_s = self._extent()
        if oldest_s is None:
            return "none has been answered yet"
        oldest = datetime.fromtimestamp(oldest_s).astimezone()
        return f"the last {self._most} are kept, and the {kept} there are go back to {oldest:%Y-%m-%d %H:%M:%S}"

    def _extent(self) -> tuple[int, float | None]:
        """How many records there are, and of when the oldest is."""
        row = self._rows("select count(*) as kept, min(time_s) as oldest_s from requests")[0]
        waiting = next(iter(self._pending.values()), None)
        oldest_s = row["oldest_s"] if row["oldest_s"] is not None or waiting is None else waiting.time_s
        return row["kept"] + len(self._pending), oldest_s

    def _rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        return list(self._store.database.query(sql, parameters))
