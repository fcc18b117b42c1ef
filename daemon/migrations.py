"""The state database's schema as named steps; a step once released is never edited, only followed by another."""

from __future__ import annotations

import json
import zlib

from .sqlite import Database, Migrations

MIGRATIONS = Migrations("patchd")


@MIGRATIONS()
def m001_spine(db: Database) -> None:
    """Tasks, patches, rungs in force, jobs, costs, decisions, events, settings."""
    db.table("settings").create({"key": str, "value": str}, pk="key")
    db.table("tasks").create({"name": str, "spec": str, "created_s": float}, pk="name")
    db.table("patches").create(
        {"id": str, "task": str, "resolution": int, "bytes": int, "metadata": str, "created_s": float}, pk="id"
    )
    db.table("patches").create_index(["task", "resolution"])
    db.table("rungs").create(
        {
            "task": str,
            "resolution": int,
            "patch_id": str,
            "accuracy": float,
            "accuracy_samples": int,
            "validation": float,
            "since_s": float,
        },
        pk=("task", "resolution"),
    )
    db.table("jobs").create(
        {
            "id": str,
            "state": str,
            "spec": str,
            "progress": str,
            "error": str,
            "created_s": float,
            "updated_s": float,
            "seconds": float,
            "cpu_seconds": float,
            "slices": int,
        },
        pk="id",
    )
    db.table("job_results").create({"job_id": str, "resolution": int, "result": str}, pk=("job_id", "resolution"))
    db.table("costs").create(
        {
            "base": str,
            "resolution": int,
            "median_ms": float,
            "p90_ms": float,
            "samples": int,
            "engine": str,
            "measured_s": float,
        },
        pk=("base", "resolution"),
    )
    db.table("decisions").create({"id": str, "time_s": float, "decision": str, "snapshot": str, "policy": str}, pk="id")
    db.table("decisions").create_index(["time_s"])
    db.table("events").create(
        {"id": int, "time_s": float, "level": str, "kind": str, "message": str, "data": str}, pk="id"
    )


@MIGRATIONS()
def m002_rungs_of_several_bases(db: Database) -> None:
    """A task has rungs of several bases; those in force until now are of its own."""
    bases = {row["name"]: json.loads(row["spec"])["base"] for row in db.query("select name, spec from tasks")}
    db.table("rungs").add_column("base", str)
    for task, base in bases.items():
        db.execute("update rungs set base = ? where task = ?", (base, task))
    db.execute("delete from rungs where base is null")  # of tasks that are gone
    db.table("rungs").transform(pk=("task", "base", "resolution"))


@MIGRATIONS()
def m003_cascades(db: Database) -> None:
    """Cascades with their candidates, audited inputs as numbers, and what of a cost is the preparation's."""
    db.table("cascades").create({"task": str, "state": str}, pk="task")
    db.table("cascade_points").create({"task": str, "points": str}, pk="task")
    db.table("audits").create({"id": int, "task": str, "rungs": str, "time_s": float, "row": str}, pk="id")
    db.table("audits").create_index(["task", "time_s"])
    db.table("costs").add_column("prepare_ms", float)
    db.execute("delete from costs")  # measured again at the first use


@MIGRATIONS()
def m004_compressed_decisions(db: Database) -> None:
    """Decisions as zlib of their JSON: each tells of every task."""
    for row in list(db.query("select id from decisions")):
        (text,) = db.execute("select decision from decisions where id = ?", [row["id"]]).fetchone()
        db.execute("update decisions set decision = ? where id = ?", [zlib.compress(text.encode(), 1), row["id"]])


@MIGRATIONS()
def m005_training_costs(db: Database) -> None:
    """What training costs, measured here; what slices showed of it; and what a job's worker told of the job."""
    db.table("training_costs").create(
        {
            "base": str,
            "threads": int,
            "precision": str,
            "torch": str,
            "processor": str,
            "measured_s": float,
            "costs": str,
        },
        pk=("base", "threads", "precision"),
    )
    db.table("training_observed").create(
        {
            "base": str,
            "threads": int,
            "resolution": int,
            "lean": int,
            "keep_features": int,
            "observed": str,
        },
        pk=("base", "threads", "resolution", "lean", "keep_features"),
    )
    db.table("job_facts").create({"job_id": str, "facts": str}, pk="job_id")


@MIGRATIONS()
def m006_examples(db: Database) -> None:
    """What is known of handed-over examples beside their files, and which of them a job was started with."""
    db.table("examples").create(
        {
            "id": str,
            "task": str,
            "label": str,
            "digest": str,
            "bytes": int,
            "source": str,
            "part": str,
            "uid": int,
            "added_s": float,
            "expires_s": float,
        },
        pk="id",
    )
    db.table("examples").create_index(["task", "uid", "digest"], unique=True)
    db.table("job_examples").create({"job_id": str, "example_id": str}, pk=("job_id", "example_id"))
    db.table("jobs").add_column("examples", int)


@MIGRATIONS()
def m007_base_versions(db: Database) -> None:
    """Base versions; what a job of several tasks gave task by task, and the version it made."""
    db.table("base_versions").create(
        {"name": str, "sha256": str, "bytes": int, "metadata": str, "created_s": float}, pk="name"
    )
    db.table("jobs").add_column("version", str)
    db.table("job_results").add_column("task", str, not_null_default="")
    db.table("job_results").transform(pk=("job_id", "task", "resolution"))


@MIGRATIONS()
def m008_training_account(db: Database) -> None:
    """What training used, by local day and job."""
    db.table("training_use").create(
        {
            "day": str,
            "job": str,
            "cpu_seconds": float,
            "seconds": float,
            "slices": int,
            "samples": int,
            "rapl_joules": float,
            "battery_joules": float,
        },
        pk=("day", "job"),
    )


@MIGRATIONS()
def m009_training_curves(db: Database) -> None:
    """Loss and validation accuracy of each job over its steps, as JSON."""
    db.table("job_curves").create({"job": str, "points": str}, pk="job")


@MIGRATIONS()
def m010_rung_history(db: Database) -> None:
    """Which patches were in force at each rung, so that the one before can be put back."""
    columns = {
        "task": str,
        "resolution": int,
        "patch_id": str,
        "accuracy": float,
        "accuracy_samples": int,
        "validation": float,
        "since_s": float,
        "base": str,
    }
    db.table("rung_history").create({"id": int, **columns}, pk="id")
    db.table("rung_history").create_index(["task", "base", "resolution"])
    names = ", ".join(columns)
    db.execute(f"insert into rung_history ({names}) select {names} from rungs order by since_s")


@MIGRATIONS()
def m011_requests(db: Database) -> None:
    """Predictions that were answered, by number; and with each decision the verdict on every rule."""
    db.table("requests").create({"n": int, "id": str, "time_s": float, "task": str, "record": str}, pk="n")
    db.table("requests").create_index(["id"], unique=True)
    db.table("decisions").add_column("rules", bytes)


@MIGRATIONS()
def m012_history(db: Database) -> None:
    """What was seen, decided and served, minute by minute (compressed rows), and every training slice."""
    db.table("history").create({"first_s": float, "last_s": float, "fine": int, "row": bytes})
    db.table("history").create_index(["first_s"])
    db.table("training_slices").create({"start_s": float, "end_s": float, "fine": int, "slice": str})
    db.table("training_slices").create_index(["end_s"])


@MIGRATIONS()
def m013_facts_without_a_switch(db: Database) -> None:
    """Every job can run in the lean way: what is known of one no longer says so."""
    db.execute("update job_facts set facts = json_remove(facts, '$.facts.unlean')")


@MIGRATIONS()
def m014_ways_of_running(db: Database) -> None:
    """What slices showed, by the way they ran in one column: floats count too. What is known was shown in float32."""
    rows = list(db.query("select * from training_observed"))
    db.table("training_observed").drop()
    table = db.table("training_observed")
    table.create({"base": str, "threads": int, "way": str, "observed": str}, pk=("base", "threads", "way"))
    for row in rows:
        way = [row["resolution"], bool(row["lean"]), bool(row["keep_features"]), False]
        known = {name: row[name] for name in ("base", "threads", "observed")}
        table.insert({**known, "way": json.dumps(way)})
