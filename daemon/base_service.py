"""The bases: which versions there are, who uses them, moving a task from one to another, and removing one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..policies.base_name import packaged
from ..policies.base_version import VersionMetadata, moved, related
from ..policies.errors import ConflictError, NotFoundError
from ..policies.task import TaskSpec
from .api.schemas import BaseUse, BaseView
from .events import EventLog
from .store import Store
from .task_service import BASES, TaskService


class BaseService:
    """Owns the table of base versions, and which of them each task answers on."""

    def __init__(
        self, store: Store, events: EventLog, tasks: TaskService, jobs_on: Callable[[str], tuple[str, ...]]
    ) -> None:
        """`jobs_on` tells the ids of the training jobs on a base that have not ended."""
        self._store, self._events, self._tasks, self._jobs_on = store, events, tasks, jobs_on

    def bases(self) -> tuple[BaseView, ...]:
        """The packaged bases, each followed by its versions, oldest first."""
        versions = self._store.base_versions()
        ordered: list[tuple[str, dict[str, Any] | None]] = []
        for base in BASES:
            ordered.append((base, None))
            ordered += [(row["name"], row) for row in versions if packaged(row["name"]) == base]
        rungs = self._store.rungs()
        return tuple(self._view(name, row, rungs) for name, row in ordered)

    def base(self, name: str) -> BaseView:
        """One base by name. Raises NotFoundError."""
        found = next((view for view in self.bases() if view.name == name), None)
        if found is None:
            raise NotFoundError(f"There is no base '{name}'.", hint="`patchctl base list` shows them.")
        return found

    def _view(self, name: str, row: dict[str, Any] | None, rungs: list[dict[str, Any]]) -> BaseView:
        specs = {task: spec for task, (spec, _) in self._tasks.tasks.items()}
        sides: dict[str, list[int]] = {task: [] for task, spec in specs.items() if name in spec.bases}
        for rung in rungs:
            if rung["base"] == name and rung["task"] in specs:
                sides.setdefault(rung["task"], []).append(rung["resolution"])
        uses = [BaseUse(task=task, resolutions=_descending(sides[task])) for task in sorted(sides)]
        version: VersionMetadata | None = None if row is None else row["metadata"]
        return BaseView(
            name=name,
            packaged=packaged(name),
            sha256=None if row is None else row["sha256"],
            bytes=None if row is None else row["bytes"],
            metadata=version,
            used_by=tuple(use for use in uses if name in specs[use.task].bases),
            ready=tuple(use for use in uses if name not in specs[use.task].bases),
            jobs=self._jobs_on(name),
        )

    def move(self, task: str, to: str) -> TaskSpec:
        """Have a task answer on `to`, another version of one of its bases, with the patches it has for it.

        Raises NotFoundError, BadInputError for a stranger, or ConflictError where it would lose rungs.
        """
        spec = self._tasks.task(task)
        if spec.builtin:
            raise ConflictError(f"The task '{task}' is built in and stays on the packaged bases.")
        self.base(to)
        after = moved(spec, to)
        if after == spec:
            return spec
        old = related(spec, to)
        rungs = self._store.rungs(task)
        ready = {rung["resolution"] for rung in rungs if rung["base"] == to}
        missing = {rung["resolution"] for rung in rungs if rung["base"] == old} - ready
        if missing or not ready:
            lacks = f" at {', '.join(map(str, _descending(missing)))} px" if missing else ""
            sides = f" --resolutions {','.join(map(str, _descending(missing)))}" if missing else ""
            raise ConflictError(
                f"Task '{task}' has no patch for {to}{lacks} and could not answer there.",
                hint=f"Train it first: patchctl train submit --task {task} --base {to}{sides}",
            )
        self._tasks.replace(after)
        self._events.emit("task.moved", f"Task {task} answers on {to} instead of {old}.", task=task, base=to)
        return after

    def remove(self, name: str) -> str:
        """Remove a version that nobody uses, with the patches made for it; its name comes back.

        Raises NotFoundError, or ConflictError for a packaged base or one in use.
        """
        view = self.base(name)
        if view.sha256 is None:
            raise ConflictError(f"The base '{name}' comes with a package and cannot be removed.")
        if view.used_by:
            task = view.used_by[0].task
            raise ConflictError(
                f"Task '{task}' answers on {name}.",
                hint=f"Move it first: patchctl task move {task} --to {view.packaged}",
            )
        if view.jobs:
            raise ConflictError(
                f"Job {view.jobs[0]} trains on {name}.", hint=f"Cancel it first: patchctl train cancel {view.jobs[0]}"
            )
        patches = [row["id"] for row in self._store.patches() if row["metadata"].base == name]
        with self._store.transaction():
            for patch in patches:
                self._store.delete_rungs_of_patch(patch)
                self._store.delete_patch(patch)
            self._store.delete_base_version(name)
        for path in (self._store.base_file(view.sha256), *map(self._store.patch_file, patches)):
            path.unlink(missing_ok=True)
        self._events.emit(
            "base.removed", f"Base version {name} was removed, and {len(patches)} patches for it.", base=name
        )
        return name


def _descending(sides: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(sides, reverse=True))
