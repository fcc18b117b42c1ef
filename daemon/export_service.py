"""Models for use elsewhere: written by a process of its own, kept until they are fetched."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from pydantic import ValidationError

from ..policies.errors import NotFoundError, StateError, UnavailableError, WorkerCrashedError
from ..policies.task import ExportFormat
from .api.schemas import ExportView
from .error_codes import error_from_code
from .events import EventLog
from .store import Store
from .task_service import TaskService
from .workers.protocol import MESSAGE, Exported, WorkerError

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
        self._process: asyncio.subprocess.Process | None = None

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
            said = await self._run(view.metadata.base, self._store.patch_file(view.id), form, path)
        if isinstance(said, WorkerError):
            raise error_from_code(said.code, said.message, said.hint)
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
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _files(self) -> tuple[Path, ...]:
        return tuple(self._folder.iterdir()) if self._folder.is_dir() else ()

    async def _run(self, base: str, patch_file: Path, form: ExportFormat, path: Path) -> Exported | WorkerError:
        arguments = ("--base", base, "--patch", str(patch_file), "--format", form, "--output", str(path))
        module = f"{__package__}.workers.exporting"
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", module, "--parent", str(os.getpid()), *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
        except TimeoutError as error:
            process.kill()
            await process.wait()
            raise UnavailableError(f"The export took more than {TIMEOUT_S:.0f} s and was ended.") from error
        try:
            said = MESSAGE.validate_json(output)
        except ValidationError as error:
            raise WorkerCrashedError(
                f"The exporting worker died (exit status {process.returncode}); the journal holds its last words."
            ) from error
        assert isinstance(said, Exported | WorkerError)
        return said
