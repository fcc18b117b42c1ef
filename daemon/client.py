"""A small client of the local API: standard library only, one keep-alive connection, typed answers.

    with PatchdClient() as patchd:
        answer = patchd.infer("imagenet", Path("cat.jpg").read_bytes())
        print(answer.predictions[0].label, answer.timing.total_ms)

Every method returns a model of `daemon.api.schemas` or raises an error of `policies.errors`. The models are imported
at the first use: pydantic costs about 0.1 s of start-up, which a caller that only wants `request` need not pay.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote

from ..policies.errors import PatchdError
from .client_examples import ExampleClient
from .media_types import media_type
from .unix_http import READ_TIMEOUT_S, Query, UnixHttp


class _LazyModule:
    """A module of this package that is imported when one of its names is used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name, __package__), attribute)


if TYPE_CHECKING:
    from types import TracebackType

    from pydantic import BaseModel

    from ..policies import decision as decisions
    from ..policies import snapshot as snapshots
    from ..policies.task import ExportFormat, TrainSpec
    from .api import history_schemas, schemas, training_schemas

    Model = TypeVar("Model", bound=BaseModel)
else:
    decisions = _LazyModule("..policies.decision")
    snapshots = _LazyModule("..policies.snapshot")
    history_schemas = _LazyModule(".api.history_schemas")
    schemas = _LazyModule(".api.schemas")
    training_schemas = _LazyModule(".api.training_schemas")

JobAction = Literal["pause", "resume", "cancel"]

EXPORT_TIMEOUT_S = 310.0
INFER_TIMEOUT_S = 120.0  # the first prediction starts the worker and loads the base
WORK_TIMEOUT_S = 600.0  # profiling, and uploads over a slow disk


def socket_path(given: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The socket to talk to: `given`, else `PATCHD_SOCKET`, else the user's own daemon, else the machine's."""
    environ = os.environ if environ is None else environ
    if given is not None:
        return Path(given)
    if named := environ.get("PATCHD_SOCKET"):
        return Path(named)
    from .sockets import MACHINE_SOCKET, default_socket_path

    own = default_socket_path(environ)
    return MACHINE_SOCKET if not own.exists() and MACHINE_SOCKET.exists() else own


def image_type(data: bytes) -> str:
    """The content type by the first bytes; patchd itself looks closer, so what is none of them is called JPEG."""
    return media_type(data) or "image/jpeg"


class PatchdClient:
    """A synchronous client; one connection, so one thread at a time. Errors: `PatchdError` and its subclasses."""

    def __init__(self, socket: str | os.PathLike[str] | None = None, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        self.path = socket_path(socket)
        self._http = UnixHttp(self.path, timeout_s)
        self.examples = ExampleClient(self, _parse)

    def __enter__(self) -> PatchdClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        timeout_s: float | None = None,
    ) -> bytes:
        """Any request; the body of the 2xx answer as it came. Raises the error that another answer stands for."""
        return self._http.request(method, path, query=query, body=body, content_type=content_type, timeout_s=timeout_s)

    def _get(self, kind: type[Model], path: str, query: Query | None = None) -> Model:
        return _parse(kind, self.request("GET", path, query=query))

    def _post(
        self, kind: type[Model], path: str, body: BaseModel | None = None, timeout_s: float | None = None
    ) -> Model:
        sent = None if body is None else body.model_dump_json().encode()
        return _parse(kind, self.request("POST", path, body=sent, timeout_s=timeout_s))

    # -- the daemon, its decisions and policies ----------------------------------------------------------------------

    def status(self) -> schemas.Status:
        """The daemon at a glance."""
        return self._get(schemas.Status, "/v1/status")

    def snapshot(self) -> snapshots.Snapshot:
        """What the monitor saw last."""
        return self._get(snapshots.Snapshot, "/v1/snapshot")

    def recent_decisions(self, limit: int | None = None) -> schemas.DecisionList:
        """The latest decisions, newest first."""
        return self._get(schemas.DecisionList, "/v1/decisions", {"limit": limit})

    def decision(self, decision_id: str) -> decisions.Decision:
        """One decision."""
        return self._get(decisions.Decision, f"/v1/decisions/{quote(decision_id, safe='')}")

    def explain(
        self, *, decision: str | None = None, request: str | None = None, at_s: float | None = None
    ) -> schemas.Explain:
        """The decision in force: now, of `decision`, for the prediction `request`, or at the Unix time `at_s`."""
        return self._get(schemas.Explain, "/v1/explain", {"decision": decision, "request": request, "at": at_s})

    def policies(self) -> schemas.PolicyList:
        """The presets and the policy files the daemon knows."""
        return self._get(schemas.PolicyList, "/v1/policies")

    def policy(self, name: str, *, effective: bool = False) -> schemas.PolicyText:
        """The text of a policy; `effective` is that of all its files together."""
        query = "?effective=true" if effective else ""
        return self._get(schemas.PolicyText, f"/v1/policies/{quote(name, safe='')}{query}")

    def use_policy(self, *, name: str | None = None, path: Path | None = None) -> schemas.PolicyState:
        """Put a policy in force, by name or by the absolute path of a file that the daemon can read."""
        body = schemas.PolicyUse(name=name, path=None if path is None else os.fspath(path))
        return self._post(schemas.PolicyState, "/v1/policies/use", body)

    # -- tasks and patches -------------------------------------------------------------------------------------------

    def tasks(self) -> schemas.TaskList:
        """All tasks with their ladders."""
        return self._get(schemas.TaskList, "/v1/tasks")

    def task(self, name: str) -> schemas.TaskView:
        """One task with its ladder."""
        return self._get(schemas.TaskView, f"/v1/tasks/{quote(name, safe='')}")

    def add_task(self, task: schemas.TaskCreate) -> schemas.TaskView:
        """Add a task; the data set is read, so this takes a moment."""
        return self._post(schemas.TaskView, "/v1/tasks", task, timeout_s=WORK_TIMEOUT_S)

    def remove_task(self, name: str) -> schemas.Deleted:
        """Remove a task with its patches and jobs."""
        return _parse(schemas.Deleted, self.request("DELETE", f"/v1/tasks/{quote(name, safe='')}"))

    def move_task(self, name: str, to: str) -> schemas.TaskView:
        """Have a task answer on another version of its base."""
        return self._post(schemas.TaskView, f"/v1/tasks/{quote(name, safe='')}/move", schemas.TaskMove(to=to))

    def bases(self) -> schemas.BaseList:
        """The packaged bases and their versions, with the tasks that use them."""
        return self._get(schemas.BaseList, "/v1/bases")

    def base(self, name: str) -> schemas.BaseView:
        """One base."""
        return self._get(schemas.BaseView, f"/v1/bases/{quote(name, safe='')}")

    def remove_base(self, name: str) -> schemas.Deleted:
        """Delete a base version that nobody uses, with the patches made for it."""
        return _parse(schemas.Deleted, self.request("DELETE", f"/v1/bases/{quote(name, safe='')}"))

    def patches(self, task: str | None = None) -> schemas.PatchList:
        """The stored patches, of all tasks or of one."""
        return self._get(schemas.PatchList, "/v1/patches", {"task": task})

    def patch(self, patch_id: str) -> schemas.PatchView:
        """One patch, by its id or a unique beginning of it."""
        return self._get(schemas.PatchView, f"/v1/patches/{quote(patch_id, safe='')}")

    def patch_file(self, patch_id: str) -> bytes:
        """The safetensors file of a patch."""
        return self.request("GET", f"/v1/patches/{quote(patch_id, safe='')}/file", timeout_s=WORK_TIMEOUT_S)

    def export_patch(self, patch_id: str, form: ExportFormat) -> schemas.ExportView:
        """Have the patched model written for use elsewhere; `export_file` fetches it."""
        create = schemas.ExportCreate(format=form)
        return self._post(
            schemas.ExportView, f"/v1/patches/{quote(patch_id, safe='')}/exports", create, EXPORT_TIMEOUT_S
        )

    def export_file(self, name: str) -> bytes:
        """The file of an export."""
        return self.request("GET", f"/v1/exports/{quote(name, safe='')}", timeout_s=INFER_TIMEOUT_S)

    def import_patch(self, data: bytes) -> schemas.PatchView:
        """Store a patch file; refused unless it fits the base and the task named in it."""
        return _parse(schemas.PatchView, self.import_patch_body(data))

    def import_patch_body(self, data: bytes) -> bytes:
        """Like `import_patch`, but the answer is the body as it came."""
        return self.request(
            "POST", "/v1/patches", body=data, content_type="application/octet-stream", timeout_s=WORK_TIMEOUT_S
        )

    def roll_back(self, task: str, base: str | None = None, resolution: int | None = None) -> schemas.Rollback:
        """Put what was in force before at a task's rungs in force again: at one, or at all of a base."""
        create = schemas.RollbackCreate(base=base, resolution=resolution)
        return self._post(schemas.Rollback, f"/v1/tasks/{quote(task, safe='')}/rollback", create)

    def remove_patch(self, patch_id: str) -> schemas.Deleted:
        """Delete a patch."""
        return _parse(schemas.Deleted, self.request("DELETE", f"/v1/patches/{quote(patch_id, safe='')}"))

    # -- training ----------------------------------------------------------------------------------------------------

    def submit(self, spec: TrainSpec) -> schemas.JobView:
        """Queue a training job."""
        return self._post(schemas.JobView, "/v1/jobs", spec)

    def jobs(self) -> schemas.JobList:
        """All training jobs."""
        return self._get(schemas.JobList, "/v1/jobs")

    def job(self, job_id: str) -> schemas.JobView:
        """One training job."""
        return self._get(schemas.JobView, f"/v1/jobs/{quote(job_id, safe='')}")

    def change_job(self, job_id: str, action: JobAction) -> schemas.JobView:
        """Pause, resume or cancel a job."""
        return self._post(schemas.JobView, f"/v1/jobs/{quote(job_id, safe='')}/{action}")

    # -- inference ---------------------------------------------------------------------------------------------------

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
    ) -> schemas.InferAnswer:
        """Classify an encoded image (JPEG or PNG).

        `base` and `resolution` override the daemon's choice of rung; without `cascade` one rung answers.
        """
        body = self.infer_bytes(task, image, top_k, resolution, content_type, base, cascade)
        return _parse(schemas.InferAnswer, body)

    def infer_bytes(
        self,
        task: str,
        image: bytes,
        top_k: int = 5,
        resolution: int | None = None,
        content_type: str | None = None,
        base: str | None = None,
        cascade: bool = True,
    ) -> bytes:
        """Like `infer`, but the answer is the body as it came."""
        return self.request(
            "POST",
            f"/v1/tasks/{quote(task, safe='')}/infer",
            query={
                "top_k": top_k,
                "base": base,
                "resolution": resolution,
                "cascade": None if cascade else "false",
            },
            body=image,
            content_type=content_type or image_type(image),
            timeout_s=INFER_TIMEOUT_S,
        )

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
    ) -> schemas.InferAnswer:
        """Classify raw memory, row-major: UINT8 [H,W,3] RGB, or FP32 [3,R,R], a finished network input."""
        answer = self.request(
            "POST",
            f"/v1/tasks/{quote(task, safe='')}/infer",
            query={
                "shape": ",".join(map(str, shape)),
                "datatype": datatype,
                "top_k": top_k,
                "base": base,
                "resolution": resolution,
            },
            body=data,
            content_type="application/octet-stream",
            timeout_s=INFER_TIMEOUT_S,
        )
        return _parse(schemas.InferAnswer, answer)

    # -- cascades ----------------------------------------------------------------------------------------------------

    @staticmethod
    def cascade_path(task: str) -> str:
        """The path of a task's cascade."""
        return f"/v1/tasks/{quote(task, safe='')}/cascade"

    def cascade(self, task: str) -> schemas.CascadeView:
        """A task's cascade, what its stages have answered, and where its calibration stands."""
        return self._get(schemas.CascadeView, self.cascade_path(task))

    def cascade_points(self, task: str) -> schemas.CascadePoints:
        """What the search for a task's cascade weighed."""
        return self._get(schemas.CascadePoints, f"{self.cascade_path(task)}/points")

    def calibrate(self, task: str, create: schemas.CalibrateCreate) -> schemas.CascadeView:
        """Begin to make a cascade; `cascade` tells how far it is."""
        return self._post(schemas.CascadeView, f"{self.cascade_path(task)}/calibration", create)

    def cancel_calibration(self, task: str) -> schemas.CascadeView:
        """End the calibration that runs; the cascade that was there stays."""
        body = self.request("DELETE", f"{self.cascade_path(task)}/calibration")
        return _parse(schemas.CascadeView, body)

    # -- what training used ------------------------------------------------------------------------------------------

    def curve(self, job_id: str) -> training_schemas.JobCurve:
        """Loss and validation accuracy over a job's steps."""
        return self._get(training_schemas.JobCurve, f"/v1/jobs/{quote(job_id, safe='')}/curve")

    def history(
        self, from_s: float | None = None, to_s: float | None = None, points: int | None = None
    ) -> history_schemas.History:
        """What was in a period between two Unix times; without them, in the last 24 hours."""
        return _parse(history_schemas.History, self.request_history(from_s, to_s, points))

    def request_history(
        self, from_s: float | None = None, to_s: float | None = None, points: int | None = None
    ) -> bytes:
        """The same, as it comes."""
        query = {"from": from_s, "to": to_s, "points": points}
        return self.request("GET", "/v1/history", query=query, timeout_s=WORK_TIMEOUT_S)

    def training_usage(self, days: int | None = None) -> training_schemas.TrainingUsage:
        """What training used on the last days, today included."""
        return self._get(training_schemas.TrainingUsage, "/v1/training/usage", {"days": days})

    # -- measurements, events, traces --------------------------------------------------------------------------------

    def profile(self) -> schemas.Profile:
        """The measured costs."""
        return self._get(schemas.Profile, "/v1/profile")

    def run_profile(self, run: schemas.ProfileRun) -> schemas.Profile:
        """Measure the costs now."""
        return self._post(schemas.Profile, "/v1/profile", run, timeout_s=WORK_TIMEOUT_S)

    def training_profile(self) -> schemas.TrainingProfile:
        """What training costs, as it was measured here."""
        return self._get(schemas.TrainingProfile, "/v1/profile/training")

    def run_training_profile(self, run: schemas.TrainingProfileRun) -> schemas.TrainingProfile:
        """Measure what training a base costs now."""
        return self._post(schemas.TrainingProfile, "/v1/profile/training", run, timeout_s=WORK_TIMEOUT_S)

    def events(self, since: int | None = None, limit: int | None = None, level: str | None = None) -> schemas.EventList:
        """The newest `limit` events with an id above `since`, oldest first; `level` is that level only."""
        return self._get(schemas.EventList, "/v1/events", {"since": since, "limit": limit, "level": level})

    def follow_events(self, since: int | None = None) -> Iterator[schemas.Event]:
        """Every new event, until the daemon ends the stream."""
        for body in self._http.stream("/v1/events/stream", {"since": since}):
            yield _parse(schemas.Event, body.encode())

    def trace(self) -> schemas.TraceState:
        """Whether a trace is being replayed into the monitor, and where it stands."""
        return self._get(schemas.TraceState, "/v1/monitor/trace")

    def start_trace(self, replay: schemas.TraceReplay) -> schemas.TraceState:
        """Feed a trace to the monitor in place of the device."""
        return self._post(schemas.TraceState, "/v1/monitor/trace", replay)

    def stop_trace(self) -> schemas.TraceState:
        """Give the monitor back to the device."""
        return _parse(schemas.TraceState, self.request("DELETE", "/v1/monitor/trace"))


def _parse(kind: type[Model], body: bytes) -> Model:
    from pydantic import ValidationError

    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise PatchdError(
            f"patchd's answer is no {kind.__name__} as this client knows it: {where}: {first['msg']}.",
            hint="Are patchd and this client of the same version?",
        ) from error
