"""The `/v2` routes: the Open Inference Protocol, as KServe's and Triton's clients speak it. Each task is a model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import Response

from ... import __version__
from ...policies.errors import BadInputError, PatchdError, TooLargeError, UnavailableError
from ...policies.task import TaskSpec
from ..inference_service import Input, Wish
from ..services import Services
from ..sockets import Caller
from . import oip_model as m
from .oip_codec import HEADER_LENGTH, InferenceRequest, InferenceResponse, Request, Wire, compress, decode, decompress
from .oip_codec import encode as encode_answer
from .routing import REQUEST_ID, Context, Handler, Route
from .schemas import InferAnswer

EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics")
IN_PLACE_BYTES = 256 * 1024  # larger bodies are decoded in a thread, for decisions are not to wait for them


class IndexRequest(Wire):
    """Which models to list."""

    ready: bool = Field(False, description="only those that can answer")


class LoadRequest(Wire):
    """How to load a model."""

    parameters: dict[str, Any] = Field(default_factory=dict)


class OipRoutes:
    """The handlers, bound to one daemon's services, and the statistics of what came in here."""

    def __init__(self, services: Services) -> None:
        self._s = services
        self._stats: dict[str, m.ModelStats] = {}

    # the server

    async def server(self, _: Context) -> m.ServerMetadata:
        return m.ServerMetadata(name="patchd", version=__version__, extensions=EXTENSIONS)

    def _health(self) -> m.ServerHealth:
        try:
            self._s.deciding.check_health()
            if self._s.inference.stopping:
                raise UnavailableError("patchd is stopping.")
        except UnavailableError as error:
            return m.ServerHealth(live=True, ready=False, error=str(error))
        return m.ServerHealth(live=True, ready=True)

    async def live(self, _: Context) -> Response:
        return _json(self._health())

    async def ready(self, _: Context) -> Response:
        health = self._health()
        return _json(health, 200 if health.ready else 503)

    # models

    def _task(self, c: Context) -> TaskSpec:
        """The task that a path names. Raises NotFoundError for an unknown one or another version than the only one."""
        spec = self._s.tasks.task(c.path("model"))
        m.check_version(c.request.path_params.get("version"))
        return spec

    async def models(self, _: Context) -> m.ModelNames:
        return m.ModelNames(models=tuple(self._s.tasks.tasks))

    async def metadata(self, c: Context) -> m.ModelMetadata:
        return m.metadata(self._task(c))

    async def config(self, c: Context) -> m.ModelConfig:
        return m.config(self._task(c))

    async def model_ready(self, c: Context) -> Response:
        state = self._state(self._task(c).name)
        if state.state == "READY":
            return _json(m.ModelReady(name=state.name, ready=True))
        return _json(m.ModelReady(name=state.name, ready=False, error=state.reason), 503)

    async def statistics(self, c: Context) -> m.Statistics:
        return m.Statistics(model_stats=(self._stats_of(self._task(c).name),))

    async def all_statistics(self, _: Context) -> m.Statistics:
        return m.Statistics(model_stats=tuple(self._stats_of(name) for name in self._s.tasks.tasks))

    def _stats_of(self, task: str) -> m.ModelStats:
        return self._stats.get(task, m.ModelStats(name=task))

    # the repository

    async def index(self, c: Context) -> m.RepositoryIndex:
        states = [self._state(name) for name in self._s.tasks.tasks]
        return m.RepositoryIndex(tuple(state for state in states if state.state == "READY" or not c.body.ready))

    def _state(self, task: str) -> m.RepositoryModel:
        """Whether a task can answer, and what stands behind that."""
        if task in self._s.tasks.ladders:
            if self._s.inference.worker.status().state != "stopped":
                return m.RepositoryModel(name=task, state="READY", reason="its worker runs")
            keep_s = self._s.policies.policy.inference.keep_alive_s
            why = self._s.inference.worker.unloaded
            ended = "no worker runs" if why is None else f"its worker was unloaded ({why})"
            reason = f"{ended}; the next request starts it, and {keep_s:g} s without one end it"
            return m.RepositoryModel(name=task, state="READY", reason=reason)
        reason = f"it has no patch yet; patchctl train submit --task {task} trains one"
        if jobs := self._s.training.records.of_task(task):
            waiting = f", {jobs[0].waiting}" if jobs[0].waiting else ""
            reason = f"it has no patch yet; training job {jobs[0].id} is {jobs[0].state}{waiting}"
        return m.RepositoryModel(name=task, state="UNAVAILABLE", reason=reason)

    async def load(self, c: Context) -> Response:
        task = self._task(c).name
        override = next((key for key in c.body.parameters if key == "config" or key.startswith("file:")), None)
        if override is not None:
            raise BadInputError(
                f"The parameter '{override}' is not offered: a model's files are its task's patches.",
                hint="`patchctl patch import FILE` adds one.",
            )
        state = self._state(task)
        if state.state != "READY":
            raise BadInputError(f"The model '{task}' cannot be loaded: {state.reason}.")
        await self._s.inference.load(task)
        return Response()

    async def unload(self, c: Context) -> Response:
        task = self._task(c).name
        raise BadInputError(
            f"The model '{task}' cannot be unloaded: all tasks share one worker, which ends by itself when it is idle.",
            hint=f"`patchctl task remove {task}` removes the task.",
        )

    # inference

    async def infer(self, c: Context) -> Response:
        spec = self._task(c)  # an unknown model is refused before the body is read
        began = time.perf_counter()
        try:
            request = await _request(c)
            answers = await self._answers(spec, request, c.caller)
        except PatchdError:
            self._account(spec.name, began, ())
            raise
        self._account(spec.name, began, answers)
        return _answer(spec, request, answers, c.request.headers.get("accept-encoding", ""))

    async def _answers(self, spec: TaskSpec, request: Request, caller: Caller) -> tuple[InferAnswer, ...]:
        """The answers of all samples, or the error of the first that has none; the others are cancelled then."""
        wish = replace(
            m.wish(request, len(spec.labels), caller.client),
            uid=caller.uid,
            pid=caller.pid,
            restricted=self._s.permissions.of(caller),
        )
        given = m.samples(request.inputs)
        try:
            async with asyncio.TaskGroup() as group:
                running = [group.create_task(self._sample(spec.name, given, i, wish)) for i in range(len(given))]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return tuple(task.result() for task in running)

    async def _sample(self, task: str, given: Sequence[Input], number: int, wish: Wish) -> InferAnswer:
        """One sample's answer. An error that lies in the sample says which of several it is."""
        try:
            return await self._s.inference.infer(task, given[number], wish)
        except (BadInputError, TooLargeError) as error:
            if len(given) == 1:
                raise
            raise type(error)(f"Sample {number + 1} of {len(given)}: {error.message}", hint=error.hint) from error

    def _account(self, task: str, began: float, answers: Sequence[InferAnswer]) -> None:
        """Count a request, failed where it has no answers."""
        took_ms = (time.perf_counter() - began) * 1e3
        self._stats[task] = self._stats_of(task).after(answers, took_ms, time.time())

    # the table

    def table(self) -> tuple[Route, ...]:
        """Every route of the protocol; those of a model exist with its version and without."""
        return (
            Route("GET", "/v2", "What serves here", self.server, m.ServerMetadata),
            Route("GET", "/v2/", "The same", self.server, m.ServerMetadata),
            Route("GET", "/v2/health/live", "200 while the server answers at all", self.live, m.ServerHealth),
            Route("GET", "/v2/health/ready", "200 while it takes requests, else 503", self.ready, m.ServerHealth),
            Route("GET", "/v2/models", "The names of all models", self.models, m.ModelNames),
            Route("GET", "/v2/models/stats", "Statistics of all models", self.all_statistics, m.Statistics),
            *_of_model("GET", "", "A model's tensors", self.metadata, m.ModelMetadata),
            *_of_model("GET", "/ready", "200 while the model can answer, else 503", self.model_ready, m.ModelReady),
            *_of_model("GET", "/config", "The model in Triton's words", self.config, m.ModelConfig),
            *_of_model("GET", "/stats", "The model's statistics", self.statistics, m.Statistics),
            *_of_model("POST", "/infer", "Predict", self.infer, InferenceResponse, reads=InferenceRequest),
            Route(
                "POST", "/v2/repository/index", "Models and their states", self.index, m.RepositoryIndex, IndexRequest
            ),
            Route(
                "POST",
                "/v2/repository/models/{model}/load",
                "Start the worker",
                self.load,
                body=LoadRequest,
                changes=True,
            ),
            Route("POST", "/v2/repository/models/{model}/unload", "Refused", self.unload, changes=True),
        )


def _of_model(
    method: str,
    end: str,
    summary: str,
    handler: Handler,
    answer: type[BaseModel],
    *,
    reads: type[BaseModel] | None = None,
) -> tuple[Route, Route]:
    raw = () if reads is None else ("application/octet-stream",)
    paths = (f"/v2/models/{{model}}{end}", f"/v2/models/{{model}}/versions/{{version}}{end}")
    one, other = (Route(method, path, summary, handler, answer, raw_bodies=raw, reads=reads) for path in paths)
    return one, other


async def _request(c: Context) -> Request:
    """The request in a body, whatever its Content-Type says: clients send all kinds or none."""
    body = await c.raw()
    headers = c.request.headers

    def decoded() -> Request:
        plain = decompress(body, headers.get("content-encoding", ""), c.max_body_bytes)
        return decode(plain, headers.get(HEADER_LENGTH), raw_input="image")

    request = decoded() if len(body) <= IN_PLACE_BYTES else await asyncio.to_thread(decoded)
    m.wanted(request)
    return request


def _answer(spec: TaskSpec, request: Request, answers: Sequence[InferAnswer], accepted: str) -> Response:
    outputs = m.outputs(answers, m.wanted(request), len(spec.labels))
    answer = InferenceResponse(
        model_name=spec.name, model_version=m.VERSION, id=request.id, parameters=m.told(answers), outputs=()
    )
    body, json_length = encode_answer(answer, outputs, request)
    packed, encoding = compress(body, accepted)
    headers = {REQUEST_ID: ", ".join(each.request_id for each in answers)}
    if json_length is not None:
        headers[HEADER_LENGTH] = str(json_length)
    if encoding is not None:
        headers["Content-Encoding"] = encoding
    media = "application/json" if json_length is None else "application/octet-stream"
    return Response(packed, headers=headers, media_type=media)


def _json(body: BaseModel, status: int = 200) -> Response:
    return Response(body.model_dump_json(exclude_none=True), status, media_type="application/json")
