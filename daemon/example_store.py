"""Examples on the disk: a file of mode 0600 for each image, and a row that says what it shows.

An example exists exactly if its row does. A file is written before its row and removed after it, so whenever the daemon
dies, what is left over is a file without a row; `mend` removes it at the next start.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..policies.errors import StateError
from ..policies.examples import ExamplePart
from ..policies.snapshot import Frozen
from .api.example_schemas import Source
from .durable import sync_folder, write_durably
from .store import Store

SUFFIX = ".bin"
FEATURES = "features-*"  # in a job's directory; made again when the job goes on


class Example(Frozen):
    """The row of an example."""

    id: str
    task: str
    label: str
    digest: str
    bytes: int
    source: Source
    part: ExamplePart
    uid: int
    added_s: float
    expires_s: float


class ExampleStore:
    """The table of examples and the folder `examples/TASK/ID.bin` of the state directory."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.state_dir / "examples"

    def path(self, example: Example) -> Path:
        """Where an example's image lies."""
        return self.folder / example.task / f"{example.id}{SUFFIX}"

    def _found(self, where: str, *parameters: Any) -> tuple[Example, ...]:
        rows = self._store.database.query(f"select * from examples where {where} order by added_s, id", parameters)
        return tuple(Example.model_validate(row) for row in rows)

    def all(self) -> tuple[Example, ...]:
        """Every example, oldest first."""
        return self._found("1")

    def of_task(self, task: str) -> tuple[Example, ...]:
        """The examples of a task, oldest first."""
        return self._found("task = ?", task)

    def same_image(self, task: str, uid: int, digest: str) -> Example | None:
        """The example of a user that has this very image."""
        return next(iter(self._found("task = ? and uid = ? and digest = ?", task, uid, digest)), None)

    def usage(self, task: str | None = None) -> tuple[int, int]:
        """How many examples there are, of a task or in all, and their bytes."""
        sql = "select count(*), coalesce(sum(bytes), 0) from examples where ?1 is null or task = ?1"
        count, size = self._store.database.execute(sql, [task]).fetchone()
        return int(count), int(size)

    def write_image(self, example: Example, image: bytes) -> None:
        """Write the file, before the row. Touches files only, so it may run in a thread. Raises StateError."""
        path = self.path(example)
        try:
            for folder in (self.folder, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StateError(f"{path.parent} cannot be made: {error.strerror}.") from error
        write_durably(path, image)

    def put(self, example: Example) -> None:
        """Write the row, in place of that with the same id where there is one. Raises StateError."""
        with self._store.transaction():
            self._store.database.table("examples").insert(example.model_dump(), replace=True)

    def remove(self, examples: Collection[Example]) -> None:
        """Delete examples: all rows in one transaction, then the files. Raises StateError.

        What jobs keep of their images on the disk, features that a network's frozen part made of them, goes with them.
        The rows are overwritten in the database (secure_delete) and the write-ahead log is emptied.
        """
        if not examples:
            return
        jobs = {job for example in examples for job in self._jobs_of(example)}
        with self._store.transaction():
            for example in examples:
                for table, key in (("examples", "id"), ("job_examples", "example_id")):
                    self._store.database.execute(f"delete from {table} where {key} = ?", [example.id])
        kept = (path for job in jobs for path in (self._store.jobs_dir / job).rglob(FEATURES))
        self._unlink((*(self.path(example) for example in examples), *kept))
        self._store.checkpoint()

    def _jobs_of(self, example: Example) -> tuple[str, ...]:
        rows = self._store.database.query("select job_id from job_examples where example_id = ?", [example.id])
        return tuple(row["job_id"] for row in rows)

    def _unlink(self, paths: Iterable[Path]) -> None:
        try:
            folders = set()
            for path in paths:
                path.unlink(missing_ok=True)
                folders.add(path.parent)
            for folder in folders:
                if folder.is_dir():
                    sync_folder(folder)
                if folder.parent == self.folder:
                    with suppress(OSError):  # others are left in it
                        folder.rmdir()
        except OSError as error:
            raise StateError(f"A file in {self.folder} cannot be removed: {error.strerror}.") from error

    def mend(self, tasks: Collection[str]) -> int:
        """Finish what a crash left half done: rows of tasks that are gone, files without a row, rows without a file.

        Only while nothing is being added. Returns how many files were removed. Raises StateError.
        """
        self.remove([known for known in self.all() if known.task not in tasks or not self.path(known).exists()])
        known = {self.path(example) for example in self.all()}
        strays = [Path(folder, name) for folder, _, names in os.walk(self.folder) for name in names]
        strays = [path for path in strays if path not in known]
        self._unlink(strays)
        return len(strays)

    # of jobs

    def chosen(self, job_id: str) -> frozenset[str]:
        """The ids of the examples that a job was started with and that have not been deleted since."""
        sql = "select example_id from job_examples where job_id = ?"
        return frozenset(row["example_id"] for row in self._store.database.query(sql, [job_id]))

    def choose(self, job_id: str, example_ids: Iterable[str]) -> None:
        """Keep which examples a job is started with. Raises StateError."""
        rows = [{"job_id": job_id, "example_id": example_id} for example_id in example_ids]
        with self._store.transaction():
            self._store.database.execute("delete from job_examples where job_id = ?", [job_id])
            self._store.database.table("job_examples").insert_all(rows)

    def forget_jobs(self, but: Collection[str]) -> None:
        """Forget the choices of all jobs but these. Raises StateError."""
        with self._store.transaction():
            for row in list(self._store.database.query("select distinct job_id from job_examples")):
                if row["job_id"] not in but:
                    self._store.database.execute("delete from job_examples where job_id = ?", [row["job_id"]])
