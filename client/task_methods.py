"""Methods of the API about tasks: predictions, examples and corrections, patches, cascades."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, TypedDict

from ..daemon.media_types import media_type
from .call import Call, LazyModule, Method, Query, call, delete, fetch, get, place, post
from .daemon_methods import WORK_TIMEOUT_S

if TYPE_CHECKING:
    from ..daemon.api import example_schemas, schemas
    from ..policies.task import ExportFormat
else:
    schemas = LazyModule("..daemon.api.schemas")
    example_schemas = LazyModule("..daemon.api.example_schemas")

EXPORT_TIMEOUT_S = 310.0
INFER_TIMEOUT_S = 120.0  # the first image starts the worker, which loads the base


class InferOptions(TypedDict, total=False):
    """What a caller may ask of a prediction; the defaults and meanings are those of `infer`."""

    top_k: int
    resolution: int | None
    content_type: str | None
    base: str | None
    cascade: bool
    min_accuracy: float | None
    deadline_ms: float | None
    priority: int


class TaskMethods:
    """Tasks, and everything that belongs to one."""

    @Method
    def tasks(self) -> Call[schemas.TaskList]:
        """All tasks with their ladders."""
        return get(lambda: schemas.TaskList, "/v1/tasks")

    @Method
    def task(self, name: str) -> Call[schemas.TaskView]:
        """One task with its ladder."""
        return get(lambda: schemas.TaskView, place("tasks", name))

    @Method
    def add_task(self, task: schemas.TaskCreate) -> Call[schemas.TaskView]:
        """Add a task; the data set is read, so this takes a moment."""
        return post(lambda: schemas.TaskView, "/v1/tasks", task, WORK_TIMEOUT_S)

    @Method
    def remove_task(self, name: str) -> Call[schemas.Deleted]:
        """Remove a task with its patches and jobs."""
        return delete(lambda: schemas.Deleted, place("tasks", name))

    @Method
    def move_task(self, name: str, to: str) -> Call[schemas.TaskView]:
        """Have a task answer on another version of its base."""
        return post(lambda: schemas.TaskView, place("tasks", name, "move"), schemas.TaskMove(to=to))

    # -- predictions -------------------------------------------------------------------------------------------------

    @Method
    def infer(
        self,
        task: str,
        image: bytes,
        *,
        top_k: int = 5,
        resolution: int | None = None,
        content_type: str | None = None,
        base: str | None = None,
        cascade: bool = True,
        min_accuracy: float | None = None,
        deadline_ms: float | None = None,
        priority: int = 2,
    ) -> Call[schemas.InferAnswer]:
        """Classify an encoded image (JPEG, PNG, WebP or BMP).

        `base` and `resolution` override the daemon's choice of rung, `min_accuracy` (a share) asks for the cheapest one
        that is so accurate; without `cascade` one rung answers; after `deadline_ms` it is given up. Of
        what waits, `priority` 1 goes before 2, and 2 before 3.
        """
        query: Query = {
            "top_k": top_k,
            "base": base,
            "resolution": resolution,
            "cascade": None if cascade else "false",
            "min_accuracy": min_accuracy,
            "deadline_ms": deadline_ms,
            "priority": None if priority == 2 else priority,
        }
        return _predict(task, query, image, content_type or image_type(image))

    @Method
    def infer_tensor(
        self,
        task: str,
        data: bytes,
        shape: tuple[int, ...],
        datatype: Literal["UINT8", "FP32"] = "UINT8",
        *,
        top_k: int = 5,
        resolution: int | None = None,
        base: str | None = None,
    ) -> Call[schemas.InferAnswer]:
        """Classify raw memory, row-major: UINT8 [H,W,3] RGB, or FP32 [3,R,R], a finished network input."""
        query: Query = {
            "shape": ",".join(map(str, shape)),
            "datatype": datatype,
            "top_k": top_k,
            "base": base,
            "resolution": resolution,
        }
        return _predict(task, query, data, "application/octet-stream")

    # -- examples and corrections ------------------------------------------------------------------------------------

    @Method
    def add_example(self, task: str, label: str, image: bytes) -> Call[example_schemas.ExampleView]:
        """Hand over an encoded image and what it shows; needs `consent = true` in the policy's `[examples]`."""
        return _labelled(place("tasks", task, "examples"), label, image)

    @Method
    def correct(
        self, task: str, label: str, *, request: str | None = None, image: bytes | None = None
    ) -> Call[example_schemas.ExampleView]:
        """Say what was to be seen in the image of an earlier prediction, by its request id, or in `image`."""
        path = place("tasks", task, "corrections")
        if image is not None:
            return _labelled(path, label, image)
        body = json.dumps({"label": label, "request": request}).encode()
        return call(lambda: example_schemas.ExampleView, "POST", path, body=body, timeout_s=INFER_TIMEOUT_S)

    @Method
    def examples(self, task: str) -> Call[example_schemas.ExampleList]:
        """One's own examples of a task; those of all users for whoever administers the daemon."""
        return get(lambda: example_schemas.ExampleList, place("tasks", task, "examples"))

    @Method
    def example_image(self, task: str, example_id: str) -> Call[bytes]:
        """The image of an example."""
        return fetch(place("tasks", task, "examples", example_id))

    @Method
    def remove_example(self, task: str, example_id: str) -> Call[example_schemas.ExamplesDeleted]:
        """Delete an example."""
        return delete(lambda: example_schemas.ExamplesDeleted, place("tasks", task, "examples", example_id))

    @Method
    def remove_examples(self, task: str) -> Call[example_schemas.ExamplesDeleted]:
        """Delete all examples of a task that one may see."""
        return delete(lambda: example_schemas.ExamplesDeleted, place("tasks", task, "examples"))

    # -- patches -----------------------------------------------------------------------------------------------------

    @Method
    def patches(self, task: str | None = None) -> Call[schemas.PatchList]:
        """The stored patches, of all tasks or of one."""
        return get(lambda: schemas.PatchList, "/v1/patches", {"task": task})

    @Method
    def patch(self, patch_id: str) -> Call[schemas.PatchView]:
        """One patch, by its id or a unique beginning of it."""
        return get(lambda: schemas.PatchView, place("patches", patch_id))

    @Method
    def patch_file(self, patch_id: str) -> Call[bytes]:
        """The safetensors file of a patch."""
        return fetch(place("patches", patch_id, "file"), WORK_TIMEOUT_S)

    @Method
    def import_patch(self, data: bytes) -> Call[schemas.PatchView]:
        """Store a patch file; refused unless it fits the base and the task named in it."""
        return call(
            lambda: schemas.PatchView,
            "POST",
            "/v1/patches",
            body=data,
            content_type="application/octet-stream",
            timeout_s=WORK_TIMEOUT_S,
        )

    @Method
    def export_patch(self, patch_id: str, form: ExportFormat) -> Call[schemas.ExportView]:
        """Have the patched model written for use elsewhere; `export_file` fetches it."""
        create = schemas.ExportCreate(format=form)
        return post(lambda: schemas.ExportView, place("patches", patch_id, "exports"), create, EXPORT_TIMEOUT_S)

    @Method
    def export_file(self, name: str) -> Call[bytes]:
        """The file of an export."""
        return fetch(place("exports", name), INFER_TIMEOUT_S)

    @Method
    def remove_patch(self, patch_id: str) -> Call[schemas.Deleted]:
        """Delete a patch."""
        return delete(lambda: schemas.Deleted, place("patches", patch_id))

    @Method
    def roll_back(self, task: str, base: str | None = None, resolution: int | None = None) -> Call[schemas.Rollback]:
        """Put what was in force before at a task's rungs in force again: at one, or at all of a base."""
        create = schemas.RollbackCreate(base=base, resolution=resolution)
        return post(lambda: schemas.Rollback, place("tasks", task, "rollback"), create)

    # -- cascades ----------------------------------------------------------------------------------------------------

    @Method
    def cascade(self, task: str) -> Call[schemas.CascadeView]:
        """A task's cascade, what its stages have answered, and where its calibration stands."""
        return get(lambda: schemas.CascadeView, place("tasks", task, "cascade"))

    @Method
    def cascade_points(self, task: str) -> Call[schemas.CascadePoints]:
        """What the search for a task's cascade weighed."""
        return get(lambda: schemas.CascadePoints, place("tasks", task, "cascade", "points"))

    @Method
    def calibrate(self, task: str, create: schemas.CalibrateCreate) -> Call[schemas.CascadeView]:
        """Begin to make a cascade; `cascade` tells how far it is."""
        return post(lambda: schemas.CascadeView, place("tasks", task, "cascade", "calibration"), create)

    @Method
    def cancel_calibration(self, task: str) -> Call[schemas.CascadeView]:
        """End the calibration that runs; the cascade that was there stays."""
        return delete(lambda: schemas.CascadeView, place("tasks", task, "cascade", "calibration"))


def image_type(data: bytes) -> str:
    """The content type by the first bytes; patchd itself looks closer, so what is none of them is called JPEG."""
    return media_type(data) or "image/jpeg"


def _predict(task: str, query: Query, body: bytes, content_type: str) -> Call[schemas.InferAnswer]:
    path = place("tasks", task, "infer")
    return call(lambda: schemas.InferAnswer, "POST", path, query, body, content_type, INFER_TIMEOUT_S)


def _labelled(path: str, label: str, image: bytes) -> Call[example_schemas.ExampleView]:
    query = {"label": label}
    media = image_type(image)
    return call(lambda: example_schemas.ExampleView, "POST", path, query, image, media, INFER_TIMEOUT_S)
