"""Models for use elsewhere: written by a process of its own, kept until they are fetched."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from ..policies.error_codes import error_from_code
from ..policies.errors import NotFoundError, StateError
from ..policies.task import ExportFormat
from .api.schemas import ExportView
from .events import EventLog
from .one_shot import OneShot
from .store import Store
from .task_service import TaskService
from .workers.protocol import Export, Exported, WorkerError

TIMEOUT_S = 300.0
KEPT_S = 3600.0
SUFFIXES = {
    ExportFormat.SAFETENSORS: ".safetensors",
    ExportFormat.ONNX: ".onnx",
    ExportFormat.OPENVINO: ".openvino.zip",
    ExportFormat.ADAPTER: ".adapter.zip",
}


class ExportService:
    """One export at a time; the file of each lies in `folder` for an hour."""

    def __init__(self, tasks: TaskService, store: Store, events: EventLog, folder: Path) -> None:
        self._tasks, self._store, self._events, self._folder = tasks, store, events, folder
        self._lock = asyncio.Lock()
        self._worker = OneShot("exporting", TIMEOUT_S)

    async def export(self, patch: str, form: ExportFormat) -> ExportView:
        """Write the model of a patch, given by id or unique prefix.

        Raises NotFoundError, BadInputError, PatchMismatchError, UnavailableError, StateError or WorkerCrashedError.
        """
        view = self._tasks.patch(patch)
        name = f"{view.id}{SUFFIXES[form]}"
        path = self._folder / name
        try:
            self._folder.mkdir(exist_ok=True)
        except OSError as error:
            raise StateError(f"The folder {self._folder} cannot be made: {error.strerror}.") from error
        async with self._lock:
            began = time.monotonic()
            said = await self._worker.run(
                Export(
                    base=view.metadata.base,
                    patch_file=str(self._store.patch_file(view.id)),
                    format=form,
                    output=str(path),
                    versions=str(self._store.bases_dir),
                )
            )
        if isinstance(said, WorkerError):
            raise error_from_code(said.code, said.message, said.hint)
        assert isinstance(said, Exported)
        self._events.emit(
            "patch.exported",
            f"Patch {view.id[:12]} of task '{view.metadata.task}' was written as {form} in "
            f"{time.monotonic() - began:.1f} s.",
            patch=view.id,
        )
        return ExportView(name=name, bytes=path.stat().st_size, report=said.report)

    def file(self, name: str) -> Path:
        """The file of an export. Raises NotFoundError when it is not, or no longer, there."""
        known = {path.name: path for path in self._files()}
        if name not in known:
            raise NotFoundError(f"There is no export '{name}'.", hint="An export is kept for an hour; make it again.")
        return known[name]

    def clean(self) -> None:
        """Remove what nobody has fetched for an hour."""
        for path in self._files():
            if time.time() - path.stat().st_mtime > KEPT_S:
                path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End an export that runs."""
        self._worker.stop()

    def _files(self) -> tuple[Path, ...]:
        return tuple(self._folder.iterdir()) if self._folder.is_dir() else ()
