"""The disk and what lies on it: free space, the database, the files of patches, and what nobody needs any more."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..migrations import MIGRATIONS
from ..sqlite import Database
from .check import Check, Found, failure, note, ok, warning
from .subject import Subject

LITTLE_FREE, LITTLE_SHARE = 1_000_000_000, 0.05  # bytes; of the file system
FEW_INODES = 1000
MOST_TOLD = 5  # parts of the state, the largest
LARGE_WAL = 64_000_000  # bytes of a write-ahead log that nobody empties
# Bytes 18 and 19 of the file: https://www.sqlite.org/fileformat.html#file_format_version_numbers
WAL_VERSIONS = b"\2\2"
STRAY_AGE_S = 3600.0  # younger files may be those of work in hand
MOST_HASHED = 200  # patches in force whose files are read in full


def _disk(subject: Subject) -> Iterator[Found]:
    here = next(path for path in (subject.state_dir, *subject.state_dir.parents) if path.exists())
    seen = os.statvfs(here)
    free, total = seen.f_bavail * seen.f_frsize, seen.f_blocks * seen.f_frsize
    used = _size(subject.state_dir)
    if used:
        largest = sorted(used.items(), key=lambda each: -each[1])[:MOST_TOLD]
        parts = ", ".join(f"{name} {_bytes(size)}" for name, size in largest if size)
        yield ok(f"The state takes {_bytes(sum(used.values()))}: {parts}.")
    if free < LITTLE_FREE or free < LITTLE_SHARE * total:
        yield warning(
            f"{_bytes(free)} of {_bytes(total)} are free on the file system of {here}.",
            "Free some: when it is full, training stops and nothing is kept.",
        )
    else:
        yield ok(f"{_bytes(free)} of {_bytes(total)} are free on the file system of {here}.")
    if seen.f_files and seen.f_favail < FEW_INODES:
        yield warning(
            f"The file system of {here} has room for {seen.f_favail} files only.", "Remove small files there."
        )


def _size(state_dir: Path) -> dict[str, int]:
    """Bytes of each entry of the state directory; empty where it cannot be looked at."""
    found = {}
    for entry in state_dir.iterdir() if os.access(state_dir, os.R_OK | os.X_OK) else ():
        files = (each for each in entry.rglob("*")) if entry.is_dir() else (entry,)
        found[entry.name] = sum(each.lstat().st_size for each in files if not each.is_dir())
    return found


def _database(subject: Subject) -> Iterator[Found]:
    path = subject.state_dir / "patchd.db"
    if not path.exists():
        yield note(f"There is no database {path} yet.")
        return
    try:
        with closing(connect(path)) as connection:
            said = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
            applied = {row[0] for row in connection.execute("select name from _sqlite_migrations")}
    except sqlite3.DatabaseError as error:
        yield failure(f"The database {path} cannot be read: {error}.", _salvage(path))
        return
    if said != ["ok"]:
        yield failure(f"The database {path} is damaged: {'; '.join(said)}.", _salvage(path))
        return
    size = path.stat().st_size
    yield ok(f"The database {path} is whole, {_bytes(size)}.")
    with path.open("rb") as file:
        versions = file.read(20)[18:]
    if versions != WAL_VERSIONS:
        yield warning(f"The database {path} has no write-ahead log.", "Restart the daemon, which gives it one.")
    log = path.with_name(f"{path.name}-wal")
    if log.exists() and log.stat().st_size > LARGE_WAL:
        yield warning(
            f"The database's write-ahead log holds {_bytes(log.stat().st_size)}.",
            "End programs that keep the database open for reading, then restart the daemon.",
        )
    newer = applied - {migration.name for migration in MIGRATIONS.pending(Database(memory=True))}
    if newer:
        yield failure(
            f"The database was made by a newer patchd: this one does not know {', '.join(sorted(newer))}.",
            "Install that version again, or give this one another state directory.",
        )


def connect(path: Path) -> sqlite3.Connection:
    """A connection that changes nothing. Without a write-ahead log nobody has the file open, and it is read alone."""
    unused = not path.with_name(f"{path.name}-wal").exists()
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if unused else ''}", uri=True)


def _salvage(path: Path) -> str:
    return (
        f"Stop the daemon and put a backup of the directory back; without one, move {path} away: patches beside it "
        "can be imported again."
    )


def _patches(subject: Subject) -> Iterator[Found]:
    path, folder = subject.state_dir / "patchd.db", subject.state_dir / "patches"
    if not path.exists():
        yield note("There are no patches yet.")
        return
    with closing(connect(path)) as connection:
        in_force = {row[0] for row in connection.execute("select patch_id from rungs where patch_id is not null")}
        known = {row[0] for row in connection.execute("select id from patches")}
        versions = {row[0] for row in connection.execute("select sha256 from base_versions")}
    missing = sorted(each for each in known if not (folder / f"{each}.safetensors").exists())
    damaged = [each for each in sorted(in_force - set(missing))[:MOST_HASHED] if not _whole(folder, each)]
    for what, wrong in (("missing", missing), ("damaged", damaged)):
        if wrong:
            used = sum(each in in_force for each in wrong)
            yield failure(
                f"The files of {len(wrong)} patches are {what}, {used} of them in force; the first is {wrong[0][:12]}.",
                "Put them back from a backup, roll their tasks back (patchctl patch rollback TASK), or train again.",
            )
    if not missing and not damaged:
        told = f"The files of all {len(known)} patches are there, and those of the {len(in_force)} in force whole."
        yield ok(told if known else "No task has a patch yet.")
    strays = _strays(subject.state_dir, known | versions)
    if strays:
        size = sum(each.stat().st_size for each in strays)
        yield note(
            f"{len(strays)} files that nothing refers to take {_bytes(size)}; the first is {strays[0]}.",
            "A running daemon removes those of patches and bases within an hour; what ends in .tmp may be deleted.",
        )


def _whole(folder: Path, patch_id: str) -> bool:
    with (folder / f"{patch_id}.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == patch_id


def _strays(state_dir: Path, known: set[str]) -> list[Path]:
    """Files older than an hour that no patch and no base version is in, and what a crash left half-written."""
    before = time.time() - STRAY_AGE_S
    found = [each for name in ("patches", "bases") for each in _files(state_dir / name) if each.stem not in known]
    found += [each for each in state_dir.rglob("*.tmp") if each.parent.name not in ("patches", "bases")]
    return sorted(each for each in found if each.stat().st_mtime < before)


def _files(folder: Path) -> Iterator[Path]:
    return (each for each in folder.iterdir() if each.is_file()) if folder.is_dir() else iter(())


def _bytes(size: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"


DISK, DATABASE, PATCHES = Check("disk", _disk), Check("database", _database), Check("patches", _patches)
