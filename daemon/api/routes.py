"""The `/v1` routes, and the table of all: each hands the checked request to the service that owns the matter."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
import time
from collections.abc import AsyncIterator
from dataclasses import replace

from pydantic import ValidationError
from starlette.responses import FileResponse, Response, StreamingResponse

from ... import __version__
from ...policies.batching import PATIENT, URGENT, USUAL
from ...policies.errors import BadInputError, ConflictError, NotFoundError, PatchMismatchError
from ...policies.snapshot import Snapshot
from ...policies.task import PatchMetadata, TrainSpec
from ..durable import write_durably
from ..inference_service import Input, Wish
from ..media_types import IMAGE_TYPES
from ..services import Services
from ..training_jobs import FINAL
from . import schemas as s
from .added_signal_routes import AddedSignalRoutes
from .base_routes import BaseRoutes
from .cascade_routes import CascadeRoutes
from .example_routes import ExampleRoutes
from .explain_routes import ExplainRoutes
from .history_routes import HistoryRoutes
from .metrics_routes import MetricsRoutes
from .oip_routes import OipRoutes
from .policy_routes import PolicyRoutes
from .routing import REQUEST_ID, Context, Route, dumps, explain_validation, openapi
from .signal_routes import SignalRoutes
from .training_routes import TrainingRoutes

KEEPALIVE_S = 15.0  # a comment line on idle event streams, so that dead listeners are noticed


class Routes:
    """The handlers, bound to one daemon's services."""

    def __init__(self, services: Services) -> None:
        self._s = services
        self._open = OipRoutes(services)
        self._policies = PolicyRoutes(services)
        self._cascades = CascadeRoutes(services)
        self._examples = ExampleRoutes(services)
        self._explain = ExplainRoutes(services)
        self._bases = BaseRoutes(services)
        self._training = TrainingRoutes(services)
        self._metrics = MetricsRoutes(services)
        self._signals = SignalRoutes(services)
        self._added_signals = AddedSignalRoutes(services)
        self._history = HistoryRoutes(services)

    # the daemon

    async def status(self, _: Context) -> s.Status:
        d = self._s
        return s.Status(
            version=__version__,
            pid=os.getpid(),
            started_s=d.started_s,
            now_s=time.time(),
            state_dir=str(d.state_dir),
            socket=str(d.socket_path),
            listen=d.listen,
            policy=d.policies.state,
            decision=d.deciding.current,
            snapshot=d.deciding.snapshot,
            workers=(d.inference.worker.status(), d.training.status()),
            tasks=len(d.tasks.tasks),
            jobs_active=sum(job.state in ("queued", "running") for job in d.training.jobs()),
            requests_total=d.inference.total,
            serving=d.serving(),
            trace=d.deciding.trace_state().name,
            examples=d.examples.summary(),
            sampling=d.sampling(),
        )

    async def health(self, _: Context) -> Response:
        self._s.deciding.check_health()
        return Response('{"healthy":true}', media_type="application/json")

    async def snapshot(self, _: Context) -> Snapshot:
        if self._s.deciding.snapshot is None:
            raise NotFoundError("The device has not been sampled yet.", hint="Ask again in a second.")
        return self._s.deciding.snapshot

    async def openapi(self, _: Context) -> Response:
        return Response(dumps(openapi(self.table(), __version__)), media_type="application/json")

    # tasks

    async def tasks(self, _: Context) -> s.TaskList:
        return s.TaskList(tasks=tuple(self._s.task_view(name) for name in self._s.tasks.tasks))

    async def task(self, c: Context) -> s.TaskView:
        return self._s.task_view(c.path("name"))

    async def add_task(self, c: Context) -> s.TaskView:
        labels = await asyncio.to_thread(self._s.tasks.find_labels, c.body)
        spec = self._s.tasks.create(c.body, labels)
        self._s.deciding.refresh()
        return self._s.task_view(spec.name)

    async def remove_task(self, c: Context) -> s.Deleted:
        name = c.path("name")
        open_jobs = self._s.training.records.of_task(name)
        if open_jobs:
            raise ConflictError(
                f"Job {open_jobs[0].id} still trains task '{name}'.",
                hint=f"Cancel it first: patchctl train cancel {open_jobs[0].id}",
            )
        self._s.tasks.remove(name)
        await self._s.calibration.forget(name)
        await self._s.examples.forget(name)
        self._s.deciding.refresh()
        return s.Deleted(deleted=name)

    # predictions

    async def infer(self, c: Context) -> Response:
        self._s.tasks.task(c.path("name"))  # an unknown task is refused before its body is read
        wish = Wish(
            top_k=c.number("top_k", 5, 1, 1000) or 5,
            base=c.text("base"),
            resolution=c.number("resolution", None, 1, 4096),
            min_accuracy=c.share("min_accuracy"),
            cascade=c.switch("cascade", True),
            deadline_ms=c.positive("deadline_ms"),
            priority=c.number("priority", USUAL, URGENT, PATIENT) or USUAL,
            client=c.caller.client,
            uid=c.caller.uid,
            pid=c.caller.pid,
            restricted=self._s.permissions.of(c.caller),
        )
        media = c.request.headers.get("content-type", "").split(";")[0].strip().lower()
        body = await c.raw()
        if media == "application/json":
            given, wish = _from_json(body, wish)
        elif media == "application/octet-stream":
            given = Input(*_raw_tensor(c.text("shape"), c.text("datatype")), payload=body)
        elif media.startswith("image/") or not media:
            given = Input("image", (), payload=body)
        else:
            raise BadInputError(
                f"Content-Type '{media}' is not understood.",
                hint=f"Send one of {', '.join(IMAGE_TYPES)}, application/octet-stream or application/json.",
            )
        if not body:
            raise BadInputError("The request body is empty.", hint="Send an image or a tensor.")
        answer = await self._s.inference.infer(c.path("name"), given, wish)
        headers = {REQUEST_ID: answer.request_id}
        return Response(answer.model_dump_json(), headers=headers, media_type="application/json")

    # patches

    async def patches(self, c: Context) -> s.PatchList:
        return s.PatchList(patches=self._s.tasks.patches(c.text("task")))

    async def patch(self, c: Context) -> s.PatchView:
        return self._s.tasks.patch(c.path("id"))

    async def patch_file(self, c: Context) -> Response:
        patch = self._s.tasks.patch(c.path("id"))
        path = self._s.store.patch_file(patch.id)
        if not path.exists():
            raise NotFoundError(f"The file of patch {patch.id[:12]} is missing from {path.parent}.")
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    async def export(self, c: Context) -> s.ExportView:
        return await self._s.exports.export(c.path("id"), c.body.format)

    async def export_file(self, c: Context) -> Response:
        path = self._s.exports.file(c.path("name"))
        return FileResponse(path, media_type="application/octet-stream", filename=path.name)

    async def import_patch(self, c: Context) -> s.PatchView:
        data = await c.raw()
        metadata = _patch_metadata(data)
        patch_id = hashlib.sha256(data).hexdigest()
        target = self._s.store.patch_file(patch_id)
        fresh = not target.exists()
        if fresh:
            await asyncio.to_thread(write_durably, target, data)
        try:
            self._s.tasks.check_fits(metadata)
            await self._s.inference.worker.check_patch(metadata.base, target)
            self._s.tasks.add_patch(patch_id, len(data), metadata)
        except Exception:
            if fresh:
                target.unlink(missing_ok=True)
            raise
        self._s.deciding.refresh()
        return self._s.tasks.patch(patch_id)

    async def roll_back(self, c: Context) -> s.Rollback:
        rungs = self._s.tasks.roll_back(c.path("name"), c.body.base, c.body.resolution)
        self._s.deciding.refresh()
        return s.Rollback(task=c.path("name"), rungs=rungs)

    async def remove_patch(self, c: Context) -> s.Deleted:
        deleted = self._s.tasks.remove_patch(c.path("id"))
        self._s.deciding.refresh()
        return s.Deleted(deleted=deleted)

    # training

    async def submit(self, c: Context) -> s.JobView:
        self._s.permissions.check_training(c.caller)
        return self._s.training.submit(c.body)

    async def jobs(self, c: Context) -> s.JobList:
        open_only = c.switch("open", False)
        jobs = self._s.training.jobs()
        return s.JobList(jobs=tuple(job for job in jobs if not (open_only and job.state in FINAL)))

    async def job(self, c: Context) -> s.JobView:
        return self._s.training.job(c.path("id"))

    async def pause(self, c: Context) -> s.JobView:
        return self._s.training.pause(c.path("id"))

    async def resume(self, c: Context) -> s.JobView:
        return self._s.training.resume(c.path("id"))

    async def cancel(self, c: Context) -> s.JobView:
        return self._s.training.cancel(c.path("id"))

    # profile and events

    async def profile(self, _: Context) -> s.Profile:
        return s.Profile(costs=self._s.tasks.costs, requests=self._s.inference.latencies())

    async def run_profile(self, c: Context) -> s.Profile:
        await self._s.inference.worker.profile(c.body.base, c.body.resolutions, c.body.repeats)
        return await self.profile(c)

    async def training_profile(self, _: Context) -> s.TrainingProfile:
        return self._s.training.costs()

    async def run_training_profile(self, c: Context) -> s.TrainingProfile:
        await self._s.training.measure(c.body.base, c.body.resolutions)
        return self._s.training.costs()

    async def events(self, c: Context) -> s.EventList:
        since = c.number("since", 0, 0, 2**53) or 0
        limit = c.number("limit", 100, 1, 10_000) or 100
        level = c.text("level")
        if level not in (None, "info", "warning", "error"):
            raise BadInputError(f"There is no level '{level}'.", hint="Levels: info, warning, error.")
        return s.EventList(events=tuple(self._s.store.events(since, limit, level, c.text("kind"))))

    async def event_stream(self, c: Context) -> Response:
        since = c.number("since", None, 0, 2**53)
        start = self._s.store.last_event_id() if since is None else since
        return StreamingResponse(self._server_sent(start), media_type="text/event-stream")

    async def _server_sent(self, since: int) -> AsyncIterator[str]:
        follow = self._s.events.follow(since)
        yield ": patchd events\n\n"
        pending: asyncio.Future[s.Event] = asyncio.ensure_future(anext(follow))
        try:
            while True:
                done, _ = await asyncio.wait({pending}, timeout=KEEPALIVE_S)
                if not done:
                    yield ": still here\n\n"
                    continue
                try:
                    event = pending.result()
                except StopAsyncIteration:
                    return
                yield f"id: {event.id}\nevent: {event.kind}\ndata: {event.model_dump_json()}\n\n"
                pending = asyncio.ensure_future(anext(follow))
        finally:
            pending.cancel()

    # traces

    async def trace(self, _: Context) -> s.TraceState:
        return self._s.deciding.trace_state()

    async def play(self, c: Context) -> s.TraceState:
        return self._s.deciding.play(c.body)

    async def stop_trace(self, _: Context) -> s.TraceState:
        return self._s.deciding.stop_trace()

    def table(self) -> tuple[Route, ...]:
        """Every route of the API."""
        since = ("since", "integer", "only what came after this event id")
        return (
            Route("GET", "/v1/status", "The daemon at a glance", self.status, s.Status),
            Route("GET", "/v1/health", "200 while the decision loop turns, else 503", self.health),
            Route("GET", "/v1/snapshot", "What the monitor saw last", self.snapshot, Snapshot),
            Route("GET", "/v1/openapi.json", "This document", self.openapi),
            *self._explain.table(),
            *self._policies.table(),
            Route("GET", "/v1/tasks", "All tasks with their ladders", self.tasks, s.TaskList),
            Route("POST", "/v1/tasks", "Add a task", self.add_task, s.TaskView, s.TaskCreate, changes=True),
            Route("GET", "/v1/tasks/{name}", "One task with its ladder", self.task, s.TaskView),
            Route("DELETE", "/v1/tasks/{name}", "Remove a task", self.remove_task, s.Deleted, changes=True),
            Route(
                "POST",
                "/v1/tasks/{name}/infer",
                "Predict",
                self.infer,
                s.InferAnswer,
                raw_bodies=(*IMAGE_TYPES, "application/octet-stream", "application/json"),
                query=(
                    ("top_k", "integer", "how many labels, 1 to 1000; default 5"),
                    ("base", "string", "a rung of this base instead of the task's own"),
                    ("resolution", "integer", "a named rung instead of the decision's"),
                    ("min_accuracy", "number", "the cheapest rung that is at least this accurate, a share"),
                    ("cascade", "boolean", "false: one rung answers, as if the task had no cascade"),
                    ("deadline_ms", "number", "give up after this many milliseconds"),
                    ("priority", "integer", "1 goes before 2, the default, and 2 before 3"),
                    ("shape", "string", "raw tensors: comma-separated, e.g. 480,640,3"),
                    ("datatype", "string", "raw tensors: UINT8 [H,W,3] pixels or FP32 [3,R,R] input"),
                ),
            ),
            *self._cascades.table(),
            *self._examples.table(),
            *self._bases.table(),
            Route(
                "GET",
                "/v1/patches",
                "Stored patches",
                self.patches,
                s.PatchList,
                query=(("task", "string", "only this task's"),),
            ),
            Route(
                "POST",
                "/v1/patches",
                "Import a patch file",
                self.import_patch,
                s.PatchView,
                raw_bodies=("application/octet-stream",),
                changes=True,
            ),
            Route("GET", "/v1/patches/{id}", "One patch, by id or unique prefix", self.patch, s.PatchView),
            Route(
                "GET",
                "/v1/patches/{id}/file",
                "The patch file (safetensors)",
                self.patch_file,
                answer_type="application/octet-stream",
            ),
            Route(
                "POST",
                "/v1/patches/{id}/exports",
                "Write the patched model for use elsewhere",
                self.export,
                s.ExportView,
                s.ExportCreate,
            ),
            Route(
                "GET",
                "/v1/exports/{name}",
                "A model that was written",
                self.export_file,
                answer_type="application/octet-stream",
            ),
            Route("DELETE", "/v1/patches/{id}", "Remove a patch", self.remove_patch, s.Deleted, changes=True),
            Route(
                "POST",
                "/v1/tasks/{name}/rollback",
                "Put the patches that were in force before in force again",
                self.roll_back,
                s.Rollback,
                s.RollbackCreate,
                changes=True,
            ),
            Route("POST", "/v1/jobs", "Submit a training job", self.submit, s.JobView, TrainSpec, changes=True),
            Route(
                "GET",
                "/v1/jobs",
                "All training jobs",
                self.jobs,
                s.JobList,
                query=(("open", "boolean", "true: only those that have not ended"),),
            ),
            Route("GET", "/v1/jobs/{id}", "One training job", self.job, s.JobView),
            Route("POST", "/v1/jobs/{id}/pause", "Pause a job", self.pause, s.JobView, changes=True),
            Route("POST", "/v1/jobs/{id}/resume", "Resume a job", self.resume, s.JobView, changes=True),
            Route("POST", "/v1/jobs/{id}/cancel", "Cancel a job", self.cancel, s.JobView, changes=True),
            *self._training.table(),
            *self._metrics.table(),
            *self._signals.table(),
            *self._added_signals.table(),
            *self._history.table(),
            Route("GET", "/v1/profile", "Measured costs and latencies", self.profile, s.Profile),
            Route(
                "POST", "/v1/profile", "Measure the costs now", self.run_profile, s.Profile, s.ProfileRun, changes=True
            ),
            Route("GET", "/v1/profile/training", "What training costs", self.training_profile, s.TrainingProfile),
            Route(
                "POST",
                "/v1/profile/training",
                "Measure what training costs now",
                self.run_training_profile,
                s.TrainingProfile,
                s.TrainingProfileRun,
                changes=True,
            ),
            Route(
                "GET",
                "/v1/events",
                "The newest events, oldest first",
                self.events,
                s.EventList,
                query=(
                    since,
                    ("limit", "integer", "at most this many; default 100"),
                    ("level", "string", "info, warning or error"),
                    ("kind", "string", "only this kind"),
                ),
            ),
            Route(
                "GET",
                "/v1/events/stream",
                "Events as they happen (server-sent events)",
                self.event_stream,
                query=(since,),
                answer_type="text/event-stream",
            ),
            Route("GET", "/v1/monitor/trace", "Whether a trace is replayed", self.trace, s.TraceState),
            Route(
                "POST",
                "/v1/monitor/trace",
                "Replay a trace into the monitor",
                self.play,
                s.TraceState,
                s.TraceReplay,
                changes=True,
            ),
            Route(
                "DELETE",
                "/v1/monitor/trace",
                "Return to the device's own signals",
                self.stop_trace,
                s.TraceState,
                changes=True,
            ),
            *self._open.table(),
        )


def _shape(text: str | None) -> tuple[int, ...]:
    parts = (text or "").split(",")
    if not all(part.strip().isdigit() for part in parts) or not 1 <= len(parts) <= 4:
        raise BadInputError(
            f"Query parameter 'shape' is '{text or ''}'.", hint="Give whole numbers, e.g. shape=480,640,3"
        )
    return tuple(int(part) for part in parts)


def _raw_tensor(shape: str | None, datatype: str | None) -> tuple[s.Form, tuple[int, ...]]:
    return _form(datatype), _shape(shape)


def _form(datatype: str | None) -> s.Form:
    if datatype not in ("UINT8", "FP32"):
        raise BadInputError(
            f"The datatype '{datatype or ''}' is not understood.",
            hint="UINT8 for [H,W,3] pixels, FP32 for a [3,R,R] input.",
        )
    return "pixels" if datatype == "UINT8" else "input"


def _from_json(body: bytes, wish: Wish) -> tuple[Input, Wish]:
    """The tensor in a JSON body, and `wish` with what the body says of it."""
    try:
        request = s.InferJson.model_validate_json(body)
    except ValidationError as error:
        raise explain_validation(error, "The request body") from error
    tensor = request.tensor
    try:
        if tensor.datatype == "UINT8":
            payload = bytes(int(value) for value in tensor.data)
        else:
            payload = struct.pack(f"<{len(tensor.data)}f", *tensor.data)
    except (ValueError, OverflowError, struct.error) as error:
        raise BadInputError(f"The tensor's data do not fit {tensor.datatype}: {error}.") from error
    asked = {name: getattr(request, name) for name in request.model_fields_set - {"tensor"}}
    return Input(_form(tensor.datatype), tensor.shape, payload=payload), replace(wish, **asked)


def _patch_metadata(data: bytes) -> PatchMetadata:
    """The metadata in a safetensors header: 8 bytes of length, then JSON. Raises PatchMismatchError."""
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > len(data) - 8:
            raise ValueError("its header is longer than the file")
        header = s.SafetensorsHeader.model_validate_json(data[8 : 8 + length])
        return PatchMetadata.model_validate_json(header.metadata["patchd"])
    except KeyError as error:
        raise PatchMismatchError(
            "The file is safetensors, but its header carries no patchd metadata.", hint="Only patches can be imported."
        ) from error
    except (struct.error, ValueError) as error:
        raise PatchMismatchError("The file is not a patch: it has no readable safetensors header.") from error
