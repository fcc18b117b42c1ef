"""The state database's schema as named steps; a step once released is never edited, only followed by another."""

from __future__ import annotations

from .sqlite import Database, Migrations

MIGRATIONS = Migrations("patchd")


@MIGRATIONS()
def m001_spine(db: Database) -> None:
    """Tasks, patches, rungs in force, jobs, costs, decisions, events, settings."""
    db["settings"].create({"key": str, "value": str}, pk="key")
    db["tasks"].create({"name": str, "spec": str, "created_s": float}, pk="name")
    db["patches"].create(
        {"id": str, "task": str, "resolution": int, "bytes": int, "metadata": str, "created_s": float}, pk="id"
    )
    db["patches"].create_index(["task", "resolution"])
    db["rungs"].create(
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
    db["jobs"].create(
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
    db["job_results"].create({"job_id": str, "resolution": int, "result": str}, pk=("job_id", "resolution"))
    db["costs"].create(
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
    db["decisions"].create({"id": str, "time_s": float, "decision": str, "snapshot": str, "policy": str}, pk="id")
    db["decisions"].create_index(["time_s"])
    db["events"].create({"id": int, "time_s": float, "level": str, "kind": str, "message": str, "data": str}, pk="id")
