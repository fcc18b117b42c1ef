"""The state directory: one SQLite database (WAL) through sqlite-utils, and the patch files beside it.

Every write is one transaction, committed before the call returns; a daemon killed at any moment finds at its next
start either all of a write or nothing of it. The database is opened by one daemon at a time: `StateLock` sees to it.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter

from ..policies.base_version import VersionMetadata, VersionOutcome
from ..policies.cascade import Row
from ..policies.decision import Decision
from ..policies.errors import StateError
from ..policies.snapshot import Snapshot
from ..policies.task import JobProgress, JobState, PatchMetadata, RungResult, TaskSpec, TrainSpec
from ..policies.training_corrections import Observed
from ..policies.training_costs import TrainingCosts
from ..policies.training_curve import CurvePoint
from ..policies.training_use import TrainingUse, UseRow
from ..policies.verdicts import RuleVerdict
from .api.schemas import CascadePoints, CascadeState, CostView, Event, JobView, PolicyState
from .migrations import MIGRATIONS
from .sqlite import Database
from .training_records import JobNotes, MeasuredTraining

DECISION_BYTES = 64 * 1024 * 1024  # of stored decisions: each tells of every task, and there may be a thousand

DEFERRED = ConfigDict(defer_build=True)  # what is built when it is first used costs an idle daemon nothing
_CURVE: TypeAdapter[tuple[CurvePoint, ...]] = TypeAdapter(tuple[CurvePoint, ...], config=DEFERRED)
_RULES: TypeAdapter[tuple[RuleVerdict, ...]] = TypeAdapter(tuple[RuleVerdict, ...], config=DEFERRED)


class Stored(NamedTuple):
    """A decision with all that it rests on; no `rules` where an older patchd stored it."""

    decision: Decision
    snapshot: Snapshot
    policy: PolicyState
    rules: tuple[RuleVerdict, ...] | None = None


class StateLock:
    """An advisory lock on the state directory, held as long as the daemon lives and freed by the kernel."""

    def __init__(self, state_dir: Path) -> None:
        """Create the directory (mode 0700) and take the lock. Raises StateError when another daemon holds it."""
        try:
            state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = (state_dir / "lock").open("a+")
        except OSError as error:
            raise StateError(
                f"The state directory {state_dir} cannot be used: {error.strerror}.",
                hint="Give another with --state DIR, or mend its owner and mode.",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise StateError(
                f"Another patchd (process {holder}) already uses the state directory {state_dir}.",
                hint="Stop it first, or give this one another directory with --state DIR.",
            ) from error
        self._file.seek(0)
        self._file.truncate()
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Give the lock back."""
        self._file.close()


class Store:
    """Typed access to `patchd.db`. Callers hand in and get back the records of `policies` and `api.schemas`."""

    def __init__(self, state_dir: Path) -> None:
        """Open the database and bring its schema up to date. Raises StateError when it is damaged."""
        self.state_dir = state_dir
        self.patches_dir = state_dir / "patches"
        self.bases_dir = state_dir / "bases"
        self.jobs_dir = state_dir / "jobs"
        self._grown = 0  # bytes of decisions written since they were last weighed
        path = state_dir / "patchd.db"
        try:
            for directory in (self.patches_dir, self.bases_dir, self.jobs_dir):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            connection = sqlite3.connect(path, isolation_level=None)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten in the file
            self._db = Database(connection)
            MIGRATIONS.apply(self._db)
        except sqlite3.DatabaseError as error:
            raise StateError(
                f"The state database {path} cannot be opened: {error}.",
                hint="Move the file away to start afresh; the patches beside it can be imported again.",
            ) from error
        except OSError as error:
            raise StateError(f"The state directory {state_dir} cannot be written: {error.strerror}.") from error

    @property
    def database(self) -> Database:
        """The one connection, for tables that a module of their own keeps; writes go within `transaction`."""
        return self._db

    def checkpoint(self) -> None:
        """Bring what was written into the database and empty the write-ahead log, which may hold what was deleted."""
        with self._told_plainly():
            self._db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Checkpoint the write-ahead log and close."""
        with suppress(StateError):  # a full disk: the next start reads the log
            self.checkpoint()
        self._db.conn.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several writes as one: all of them, or none. Raises StateError when they cannot be written."""
        with self._told_plainly(), self._db.atomic():
            yield

    @contextmanager
    def _told_plainly(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StateError(
                f"The state directory {self.state_dir} cannot be written: {error}.",
                hint="Nothing was changed. Free space on its file system and try again.",
                retry_after_s=30.0,
            ) from error

    def _put(self, table: str, row: dict[str, Any]) -> None:
        with self._told_plainly():
            self._db.table(table).insert(row, replace=True)

    def _execute(self, sql: str, *parameters: Any) -> None:
        with self._told_plainly():
            self._db.execute(sql, parameters)

    def _rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        return list(self._db.query(sql, parameters))

    # settings

    def setting(self, key: str) -> str | None:
        """A stored setting, or None."""
        rows = self._rows("select value from settings where key = ?", key)
        return rows[0]["value"] if rows else None

    def set_setting(self, key: str, value: str) -> None:
        """Store a setting."""
        self._put("settings", {"key": key, "value": value})

    # tasks

    def tasks(self) -> list[tuple[TaskSpec, float]]:
        """All tasks with the time they were added, oldest first."""
        rows = self._rows("select spec, created_s from tasks order by created_s, name")
        return [(TaskSpec.model_validate_json(row["spec"]), row["created_s"]) for row in rows]

    def put_task(self, spec: TaskSpec, created_s: float) -> None:
        """Add or replace a task."""
        self._put("tasks", {"name": spec.name, "spec": spec.model_dump_json(), "created_s": created_s})

    def delete_task(self, name: str) -> None:
        """Remove a task with its rungs, cascade, candidates and audits; patches and jobs stay as history."""
        with self.transaction():
            self._execute("delete from tasks where name = ?", name)
            for table in ("rungs", "rung_history", "cascades", "cascade_points", "audits"):
                self._execute(f"delete from {table} where task = ?", name)

    # patches and rungs

    def patches(self, task: str | None = None) -> list[dict[str, Any]]:
        """Patch rows (id, task, resolution, bytes, metadata as PatchMetadata), oldest first."""
        rows = self._rows("select * from patches where ?1 is null or task = ?1 order by created_s, id", task)
        return [{**row, "metadata": PatchMetadata.model_validate_json(row["metadata"])} for row in rows]

    def patches_starting(self, prefix: str) -> list[dict[str, Any]]:
        """Rows as of `patches`, of those whose id begins with `prefix`."""
        rows = self._rows("select * from patches where substr(id, 1, length(?1)) = ?1", prefix)
        return [{**row, "metadata": PatchMetadata.model_validate_json(row["metadata"])} for row in rows]

    def put_patch(self, patch_id: str, size: int, metadata: PatchMetadata) -> None:
        """Register a patch file that already lies in `patches_dir`."""
        self._put(
            "patches",
            {
                "id": patch_id,
                "task": metadata.task,
                "resolution": metadata.resolution,
                "bytes": size,
                "metadata": metadata.model_dump_json(),
                "created_s": metadata.created_s,
            },
        )

    def delete_patch(self, patch_id: str) -> None:
        """Forget a patch; its file is removed by the caller afterwards."""
        self._execute("delete from patches where id = ?", patch_id)

    def rungs(self, task: str | None = None) -> list[dict[str, Any]]:
        """The rungs in force: task, base, resolution, patch_id, accuracy, accuracy_samples, validation."""
        if task is None:
            return self._rows("select * from rungs order by task, base, resolution")
        return self._rows("select * from rungs where task = ? order by base, resolution", task)

    def put_rung(self, row: dict[str, Any]) -> None:
        """Put a patch in force as its task's rung for its base and resolution; its history tells of it from now on."""
        with self.transaction():
            self._put("rungs", row)
            self._db.table("rung_history").insert(row)

    def rung_history(self, task: str, base: str, resolution: int) -> list[dict[str, Any]]:
        """What was put in force at a rung and not taken back, oldest first: rows as of `rungs`, with `id`."""
        sql = "select * from rung_history where task = ? and base = ? and resolution = ? order by id"
        return self._rows(sql, task, base, resolution)

    def roll_back_rung(
        self, entry: int | None, row: dict[str, Any] | None, *, task: str, base: str, resolution: int
    ) -> None:
        """Take an `entry` of a rung's history back, and put `row`, one before it, in force; None: nothing."""
        with self.transaction():
            if entry is not None:
                self._execute("delete from rung_history where id = ?", entry)
            if row is None:
                sql = "delete from rungs where task = ? and base = ? and resolution = ?"
                self._execute(sql, task, base, resolution)
            else:
                self._put("rungs", {key: value for key, value in row.items() if key != "id"})

    def delete_rungs_of_patch(self, patch_id: str) -> None:
        """Take the rungs of a patch out of force."""
        with self.transaction():
            self._execute("delete from rungs where patch_id = ?", patch_id)
            self._execute("delete from rung_history where patch_id = ?", patch_id)

    def patch_file(self, patch_id: str) -> Path:
        """Where a patch's tensors lie."""
        return self.patches_dir / f"{patch_id}.safetensors"

    # base versions

    def base_versions(self) -> list[dict[str, Any]]:
        """The registered base versions (name, sha256, bytes, metadata as VersionMetadata), oldest first."""
        rows = self._rows("select * from base_versions order by created_s, name")
        return [{**row, "metadata": VersionMetadata.model_validate_json(row["metadata"])} for row in rows]

    def put_base_version(self, name: str, sha256: str, size: int, metadata: VersionMetadata) -> None:
        """Register a version whose file already lies in `bases_dir`."""
        row = {"name": name, "sha256": sha256, "bytes": size, "metadata": metadata.model_dump_json()}
        self._put("base_versions", {**row, "created_s": metadata.created_s})

    def delete_base_version(self, name: str) -> None:
        """Forget a version; its file is removed by the caller afterwards."""
        self._execute("delete from base_versions where name = ?", name)

    def base_file(self, sha256: str) -> Path:
        """Where a base version's tensors lie."""
        return self.bases_dir / f"{sha256}.safetensors"

    # jobs

    def jobs(self) -> list[JobView]:
        """All jobs, oldest first."""
        results: dict[str, list[RungResult]] = {}
        for row in self._rows("select * from job_results order by rowid"):
            results.setdefault(row["job_id"], []).append(RungResult.model_validate_json(row["result"]))
        return [
            JobView(
                id=row["id"],
                state=JobState(row["state"]),
                spec=TrainSpec.model_validate_json(row["spec"]),
                progress=JobProgress.model_validate_json(row["progress"]),
                error=row["error"],
                created_s=row["created_s"],
                updated_s=row["updated_s"],
                seconds=row["seconds"],
                cpu_seconds=row["cpu_seconds"],
                slices=row["slices"],
                examples=row["examples"],
                results=tuple(results.get(row["id"], ())),
                version=None if row["version"] is None else VersionOutcome.model_validate_json(row["version"]),
            )
            for row in self._rows("select * from jobs order by created_s, id")
        ]

    def put_job(self, job: JobView) -> None:
        """Store a job's present state (its results are stored one by one)."""
        self._put(
            "jobs",
            {
                "id": job.id,
                "state": job.state.value,
                "spec": job.spec.model_dump_json(),
                "progress": job.progress.model_dump_json(),
                "error": job.error,
                "created_s": job.created_s,
                "updated_s": job.updated_s,
                "seconds": job.seconds,
                "cpu_seconds": job.cpu_seconds,
                "slices": job.slices,
                "version": None if job.version is None else job.version.model_dump_json(),
                "examples": job.examples,
            },
        )

    def put_job_result(self, job_id: str, result: RungResult) -> None:
        """Store what one rung of a job gave."""
        row = {"job_id": job_id, "task": result.task, "resolution": result.resolution}
        self._put("job_results", {**row, "result": result.model_dump_json()})

    def curve(self, job_id: str) -> tuple[CurvePoint, ...]:
        """A job's curve; empty where none is stored."""
        rows = self._rows("select points from job_curves where job = ?", job_id)
        return _CURVE.validate_json(rows[0]["points"]) if rows else ()

    def put_curve(self, job_id: str, points: tuple[CurvePoint, ...]) -> None:
        """Store a job's curve in place of the one before it."""
        self._put("job_curves", {"job": job_id, "points": _CURVE.dump_json(points).decode()})

    # what training used

    def training_use(self) -> list[UseRow]:
        """What each job used on each day, oldest day first."""
        rows = self._rows("select * from training_use order by day, job")
        return [UseRow(day=row.pop("day"), job=row.pop("job"), use=TrainingUse.model_validate(row)) for row in rows]

    def put_training_use(self, row: UseRow) -> None:
        """Store what a job has used of a day in all."""
        self._put("training_use", {"day": row.day.isoformat(), "job": row.job, **row.use.model_dump()})

    def trim_training_use(self, first: date) -> None:
        """Forget the days before `first`."""
        self._execute("delete from training_use where day < ?", first.isoformat())

    # costs

    def costs(self) -> list[CostView]:
        """All measured costs."""
        return [CostView.model_validate(row) for row in self._rows("select * from costs order by base, resolution")]

    def put_cost(self, cost: CostView) -> None:
        """Store a measured cost in place of the one before it."""
        self._put("costs", cost.model_dump())

    # what training costs

    def training_costs_known(self) -> list[tuple[str, int, str, str]]:
        """Base, threads, version of torch and processor of each measurement of what training costs."""
        rows = self._rows("select base, threads, torch, processor from training_costs order by base, threads")
        return [(row["base"], row["threads"], row["torch"], row["processor"]) for row in rows]

    def training_costs(self, base: str, threads: int) -> MeasuredTraining:
        """One of them. Raises LookupError without it."""
        rows = self._rows("select * from training_costs where base = ? and threads = ?", base, threads)
        costs = TrainingCosts.model_validate_json(rows[0]["costs"])
        return MeasuredTraining(torch=rows[0]["torch"], processor=rows[0]["processor"], costs=costs)

    def put_training_costs(self, measured: MeasuredTraining) -> None:
        """Store a measurement in place of the one before it; what slices showed of its base until now is forgotten."""
        costs = measured.costs
        with self.transaction():
            self._execute("delete from training_observed where base = ?", costs.base)
            self._put(
                "training_costs",
                {
                    "base": costs.base,
                    "threads": costs.threads,
                    "precision": costs.precision,
                    "torch": measured.torch,
                    "processor": measured.processor,
                    "measured_s": costs.measured_s,
                    "costs": costs.model_dump_json(),
                },
            )

    def training_observed(self) -> list[tuple[str, int, Observed]]:
        """Base, threads and what slices showed, one for each way of running at each resolution."""
        rows = self._rows("select * from training_observed order by base, threads, way")
        return [(row["base"], row["threads"], Observed.model_validate_json(row["observed"])) for row in rows]

    def put_training_observed(self, base: str, threads: int, observed: Observed) -> None:
        """Store what slices showed of one way of running."""
        self._put(
            "training_observed",
            {
                "base": base,
                "threads": threads,
                "way": json.dumps(observed.correction.way),
                "observed": observed.model_dump_json(),
            },
        )

    def job_notes(self) -> dict[str, JobNotes]:
        """What workers told of their jobs and of the plans that ran, by job."""
        rows = self._rows("select * from job_facts")
        return {row["job_id"]: JobNotes.model_validate_json(row["facts"]) for row in rows}

    def put_job_notes(self, job_id: str, notes: JobNotes) -> None:
        """Store what a worker told of its job."""
        self._put("job_facts", {"job_id": job_id, "facts": notes.model_dump_json()})

    # cascades

    def cascades(self) -> list[CascadeState]:
        """The cascades of all tasks."""
        rows = self._rows("select state from cascades order by task")
        return [CascadeState.model_validate_json(row["state"]) for row in rows]

    def put_cascade(self, state: CascadeState) -> None:
        """Store a task's cascade in place of the one before it."""
        self._put("cascades", {"task": state.task, "state": state.model_dump_json()})

    def cascade_points(self, task: str) -> CascadePoints | None:
        """What the search for a task's cascade weighed; None without one."""
        rows = self._rows("select points from cascade_points where task = ?", task)
        return CascadePoints.model_validate_json(rows[0]["points"]) if rows else None

    def put_cascade_points(self, points: CascadePoints) -> None:
        """Store what the search for a task's cascade weighed."""
        self._put("cascade_points", {"task": points.task, "points": points.model_dump_json()})

    def put_audit(self, task: str, rungs: str, row: Row, time_s: float, keep: int) -> None:
        """Append what the rungs (named by `rungs`) said on an audited input; the newest `keep` of the task stay."""
        with self.transaction():
            self._db.table("audits").insert(
                {"task": task, "rungs": rungs, "time_s": time_s, "row": row.model_dump_json()}
            )
            self._execute(
                "delete from audits where task = ?1 and id <= (select id from audits where task = ?1"
                " order by id desc limit 1 offset ?2)",
                task,
                keep,
            )

    def audits(self, task: str, rungs: str, since_s: float) -> list[Row]:
        """What the rungs said on the inputs audited since `since_s`, oldest first."""
        sql = "select row from audits where task = ? and rungs = ? and time_s >= ? order by id"
        return [Row.model_validate_json(row["row"]) for row in self._rows(sql, task, rungs, since_s)]

    def count_audits(self, task: str, rungs: str, since_s: float) -> int:
        """How many such inputs there are."""
        sql = "select count(*) as n from audits where task = ? and rungs = ? and time_s >= ?"
        return int(self._rows(sql, task, rungs, since_s)[0]["n"])

    # decisions and events

    def put_decision(self, stored: Stored) -> None:
        """Store a decision with what it rests on, compressed: of many tasks it says the same in other numbers."""
        decision, snapshot, policy, rules = stored
        packed = zlib.compress(decision.model_dump_json().encode(), 1)
        self._put(
            "decisions",
            {
                "id": decision.id,
                "time_s": decision.time_s,
                "decision": packed,
                "snapshot": snapshot.model_dump_json(),
                "policy": policy.model_dump_json(),
                "rules": None if rules is None else zlib.compress(_RULES.dump_json(rules), 1),
            },
        )
        self._grown += len(packed)
        if self._grown > DECISION_BYTES // 8:
            self._drop_heavy_decisions()

    def decisions(self, limit: int) -> list[Decision]:
        """The last decisions, newest first."""
        rows = self._rows("select decision from decisions order by time_s desc limit ?", limit)
        return [Decision.model_validate_json(zlib.decompress(row["decision"])) for row in rows]

    def decision_at(self, *, decision_id: str | None = None, time_s: float | None = None) -> Stored | None:
        """What was decided, on what, under which policy: by id, or in force at `time_s`; None without one."""
        if decision_id is not None:
            rows = self._rows("select * from decisions where id = ?", decision_id)
        else:
            rows = self._rows("select * from decisions where time_s <= ? order by time_s desc limit 1", time_s)
        if not rows:
            return None
        row = rows[0]
        return Stored(
            Decision.model_validate_json(zlib.decompress(row["decision"])),
            Snapshot.model_validate_json(row["snapshot"]),
            PolicyState.model_validate_json(row["policy"]),
            None if row["rules"] is None else _RULES.validate_json(zlib.decompress(row["rules"])),
        )

    def decision_span(self, decision_id: str) -> tuple[float, float | None] | None:
        """When a stored decision was taken and when the one after it was; None without it."""
        sql = (
            "select time_s, (select min(time_s) from decisions as later where later.time_s > this.time_s) as until_s"
            " from decisions as this where id = ?"
        )
        rows = self._rows(sql, decision_id)
        return (rows[0]["time_s"], rows[0]["until_s"]) if rows else None

    def first_decision_s(self) -> float | None:
        """When the oldest stored decision was taken."""
        first: float | None = self._rows("select min(time_s) as first from decisions")[0]["first"]
        return first

    def stopped_at(self, time_s: float) -> float | None:
        """When the daemon had stopped that was not running at `time_s`, as its events tell; None where it ran."""
        sql = (
            "select kind, time_s from events where kind in ('daemon.started', 'daemon.stopped') and time_s <= ?"
            " order by id desc limit 1"
        )
        rows = self._rows(sql, time_s)
        return rows[0]["time_s"] if rows and rows[0]["kind"] == "daemon.stopped" else None

    def put_event(self, event: Event) -> None:
        """Append an event."""
        self._put("events", {**event.model_dump(exclude={"data"}), "data": event.model_dump_json(include={"data"})})

    def last_event_id(self) -> int:
        """The newest event's id; 0 when there is none."""
        return int(self._rows("select coalesce(max(id), 0) as id from events")[0]["id"])

    def events(self, since: int, limit: int, level: str | None, kind: str | None) -> list[Event]:
        """The newest `limit` events after `since`, oldest first."""
        rows = self._rows(
            "select * from (select * from events where id > ?1 and (?2 is null or level = ?2)"
            " and (?3 is null or kind = ?3) order by id desc limit ?4) order by id",
            since,
            level,
            kind,
            limit,
        )
        return [event_of(row) for row in rows]

    def trim(self, keep_decisions: int, keep_events: int) -> None:
        """Drop the oldest decisions and events over the given numbers, and decisions over `DECISION_BYTES`."""
        with self.transaction():
            self._execute(
                "delete from decisions where id not in (select id from decisions order by time_s desc limit ?)",
                keep_decisions,
            )
            self._execute("delete from events where id <= (select max(id) from events) - ?", keep_events)
            self._drop_heavy_decisions()

    def _drop_heavy_decisions(self) -> None:
        """Drop the oldest decisions beyond `DECISION_BYTES`, the newest staying however large it is."""
        self._execute(
            "delete from decisions where rowid in (select rowid from (select rowid,"
            " sum(length(decision)) over (order by time_s desc, rowid desc) as total,"
            " row_number() over (order by time_s desc, rowid desc) as place from decisions)"
            " where total > ? and place > 1)",
            DECISION_BYTES,
        )
        self._grown = 0


class _EventData(BaseModel):
    data: dict[str, Any]


def event_of(row: dict[str, Any]) -> Event:
    """The event that a row of the table holds."""
    data = _EventData.model_validate_json(row["data"]).data
    return Event(
        id=row["id"], time_s=row["time_s"], level=row["level"], kind=row["kind"], message=row["message"], data=data
    )
