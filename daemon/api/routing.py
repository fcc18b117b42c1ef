"""The route table: what a route reads and sends, who may use it, and how errors become answers.

One declaration serves the handler, the permission check and the OpenAPI document.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ...policies.errors import BadInputError, ForbiddenError, PatchdError, TooLargeError
from ..sockets import Caller
from .schemas import Error

STATUS = {
    "bad_input": 400,
    "bad_policy": 400,
    "bad_trace": 400,
    "bad_data_set": 400,
    "patch_mismatch": 409,
    "forbidden": 403,
    "not_found": 404,
    "conflict": 409,
    "too_large": 413,
    "busy": 503,
    "deadline": 504,
    "worker_crashed": 503,
    "unavailable": 503,
    "bad_state": 507,
}

REQUEST_ID = "X-Request-Id"  # of an answered prediction, for `patchctl explain --request`

Handler = Callable[["Context"], Awaitable[BaseModel | Response]]


@dataclass(frozen=True)
class Route:
    """One operation of the API."""

    method: str
    path: str
    summary: str
    handler: Handler
    answer: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    raw_bodies: tuple[str, ...] = ()
    reads: type[BaseModel] | None = None  # the JSON among the raw bodies, which the handler checks itself
    query: tuple[tuple[str, str, str], ...] = ()
    changes: bool = False
    answer_type: str = "application/json"


@dataclass
class Context:
    """What a handler gets: the request, the checked body, and who asks."""

    request: Request
    caller: Caller
    max_body_bytes: int
    administers: bool = False  # whether the caller may change things, its own or not
    body: Any = None

    def path(self, name: str) -> str:
        """A path parameter."""
        return str(self.request.path_params[name])

    def text(self, name: str) -> str | None:
        """A query parameter, or None."""
        return self.request.query_params.get(name)

    def number(self, name: str, default: int | None, low: int, high: int) -> int | None:
        """A whole number from the query. Raises BadInputError outside [low, high]."""
        text = self.text(name)
        if text is None:
            return default
        if not text.lstrip("-").isdigit() or not low <= int(text) <= high:
            raise BadInputError(f"Query parameter '{name}' must be a whole number from {low} to {high}, not '{text}'.")
        return int(text)

    def real(self, name: str) -> float | None:
        """A finite number from the query. Raises BadInputError."""
        text = self.text(name)
        if text is None:
            return None
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if value != value or value in (float("inf"), float("-inf")):
            raise BadInputError(f"Query parameter '{name}' must be a number, not '{text}'.")
        return value

    def switch(self, name: str, default: bool) -> bool:
        """true or false from the query. Raises BadInputError for anything else."""
        text = self.text(name)
        if text not in (None, "true", "false"):
            raise BadInputError(f"Query parameter '{name}' is true or false, not '{text}'.")
        return default if text is None else text == "true"

    def share(self, name: str) -> float | None:
        """A number from 0 to 1 from the query. Raises BadInputError."""
        value = self.real(name)
        if value is not None and not 0 <= value <= 1:
            raise BadInputError(f"Query parameter '{name}' is a share from 0 to 1, not {value:g}.")
        return value

    def positive(self, name: str) -> float | None:
        """A number above 0 from the query. Raises BadInputError."""
        value = self.real(name)
        if value is not None and value <= 0:
            raise BadInputError(f"Query parameter '{name}' must be above 0, not {value:g}.")
        return value

    async def raw(self) -> bytes:
        """The body, read no further than the limit. Raises TooLargeError, before reading where it is announced."""
        return await read_body(self.request, self.max_body_bytes)


async def read_body(request: Request, limit: int) -> bytes:
    """The body of a request, refused as soon as it is known to be over `limit` bytes."""
    announced = request.headers.get("content-length", "0")
    size = int(announced) if announced.isdigit() else 0
    hint = f"The limit is {limit} bytes (max_body_bytes in the daemon's configuration)."
    if size > limit:
        raise TooLargeError(f"The request body is {size} bytes.", hint=hint)
    chunks: list[bytes] = []
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit:
            raise TooLargeError(f"The request body is over {limit} bytes.", hint=hint)
        chunks.append(chunk)
    return b"".join(chunks)


def error_response(error: PatchdError, path: str) -> Response:
    """The answer for an error of the hierarchy. Clients of /v2 read `error` and nothing else, so it holds the hint."""
    open_protocol = path == "/v2" or path.startswith("/v2/")
    text, hint = (str(error), None) if open_protocol else (error.message, error.hint)
    body = Error(error=text, code=error.code, hint=hint, retry_after_s=error.retry_after_s)
    # The rest of a body that is too large is not read: without this it would be, to find the next request behind it.
    headers = {"Connection": "close"} if error.code == "too_large" else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return Response(body.model_dump_json(), STATUS.get(error.code, 500), headers=headers, media_type="application/json")


def explain_validation(error: ValidationError, what: str) -> BadInputError:
    """The first complaint of pydantic as one sentence that names the key."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return BadInputError(f"{what} is not JSON: {first['msg']}.")
    if first["type"] == "extra_forbidden":
        return BadInputError(f"{what} has the unknown key '{where}'.", hint="See /v1/openapi.json.")
    if first["type"] == "missing":
        return BadInputError(f"{what} lacks the key '{where}'.", hint="See /v1/openapi.json.")
    if first["type"] == "value_error":  # of a check of ours: a whole sentence
        return BadInputError(first["msg"].removeprefix("Value error, "))
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return BadInputError(f"{what}: '{where}' is {shown}: {first['msg']}.")


def endpoint(route: Route, max_body_bytes: int, admins: frozenset[str]) -> Callable[[Request], Awaitable[Response]]:
    """The ASGI endpoint of a route: permission, body, handler, answer."""

    async def serve(request: Request) -> Response:
        caller: Caller = getattr(request.state, "caller", None) or Caller.unknown()
        try:
            administers = may_change(caller, admins)
            if route.changes and not administers:
                raise ForbiddenError(
                    f"{caller.user} may not do this.",
                    hint="Root, the daemon's own user and its admin_users may change things.",
                )
            context = Context(request, caller, max_body_bytes, administers)
            if route.body is not None:
                try:
                    context.body = route.body.model_validate_json(await context.raw() or b"{}")
                except ValidationError as error:
                    raise explain_validation(error, "The request body") from error
            answer = await route.handler(context)
        except PatchdError as error:
            return error_response(error, request.url.path)
        except ClientDisconnect:
            return Response(status_code=400)
        if isinstance(answer, Response):
            return answer
        return Response(answer.model_dump_json(), media_type="application/json")

    return serve


def may_change(caller: Caller, admins: frozenset[str]) -> bool:
    """Root, the daemon's own user, and the users that its configuration names."""
    return caller.may_administer(os.geteuid()) or caller.user in admins


def openapi(routes: tuple[Route, ...], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a route table."""
    from pydantic.json_schema import models_json_schema

    models: set[type[BaseModel]] = {Error}
    for route in routes:
        models |= {model for model in (route.answer, route.body, route.reads) if model is not None}
    ordered = sorted(models, key=lambda model: model.__name__)
    template = "#/components/schemas/{model}"
    _, document = models_json_schema([(model, "serialization") for model in ordered], ref_template=template)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "patchd", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "servers": [{"url": "http://localhost", "description": "over the Unix socket"}],
        "paths": paths,
        "components": {"schemas": document.get("$defs", {})},
    }


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}


def _operation(route: Route) -> dict[str, Any]:
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": kind}}
        for name, kind, text in route.query
    ]
    content: dict[str, Any]
    if route.answer is not None:
        content = _ref(route.answer)
    else:
        content = {route.answer_type: {"schema": {"type": "string", "format": "binary"}}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "operationId": f"{route.method.lower()}{route.path.replace('/', '_').replace('{', '').replace('}', '')}",
        "responses": {
            "200": {"description": "the answer", "content": content},
            "default": {"description": "one clear error", "content": _ref(Error)},
        },
    }
    if parameters:
        operation["parameters"] = parameters
    described = route.body or route.reads
    bodies = {} if described is None else dict(_ref(described))
    bodies |= {media: {"schema": {"type": "string", "format": "binary"}} for media in route.raw_bodies}
    if bodies:
        operation["requestBody"] = {"required": True, "content": bodies}
    if route.changes:
        operation["description"] = "Only for root, the daemon's own user and its admin_users."
    return operation


def dumps(document: dict[str, Any]) -> str:
    """A JSON document with stable order, for people and diffs."""
    return json.dumps(document, indent=2)
