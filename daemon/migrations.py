"""The state database's schema as named steps; a step once released is never edited, only followed by another."""

from __future__ import annotations

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
