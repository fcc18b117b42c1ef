"""The routes of examples and corrections: what applications hand over to learn from, and how they take it back."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.responses import Response

from ...policies.errors import BadInputError
from ..media_types import IMAGE_TYPES
from ..services import Services
from . import example_schemas as s
from .routing import Context, Route, explain_validation

EXAMPLES, EXAMPLE = "/v1/tasks/{name}/examples", "/v1/tasks/{name}/examples/{id}"
LABEL = ("label", "string", "with an image as the body: what it shows")

Body = TypeVar("Body", bound=BaseModel)


class ExampleRoutes:
    """The handlers, bound to one daemon's services. Who may do what is the service's matter."""

    def __init__(self, services: Services) -> None:
        self._s = services

    async def add(self, c: Context) -> s.ExampleView:
        task = self._s.tasks.task(c.path("name")).name  # an unknown task is refused before its body is read
        if _is_json(c):
            asked = _parse(s.ExampleCreate, await c.raw())
            return await self._s.examples.add(task, asked.label, asked.image, c.caller)
        return await self._s.examples.add(task, _label(c), await c.raw(), c.caller)

    async def correct(self, c: Context) -> s.ExampleView:
        task = self._s.tasks.task(c.path("name")).name
        examples = self._s.examples
        if not _is_json(c):
            return await examples.correct_image(task, _label(c), await c.raw(), c.caller)
        asked = _parse(s.CorrectionCreate, await c.raw())
        if asked.image is not None:
            return await examples.correct_image(task, asked.label, asked.image, c.caller)
        return await examples.correct(task, asked.label, asked.request or "", c.caller, c.administers)

    async def list(self, c: Context) -> s.ExampleList:
        return self._s.examples.list(c.path("name"), c.caller, c.administers)

    async def image(self, c: Context) -> Response:
        image, media = await self._s.examples.image(c.path("name"), c.path("id"), c.caller, c.administers)
        return Response(image, media_type=media)

    async def remove(self, c: Context) -> s.ExamplesDeleted:
        return await self._s.examples.remove(c.path("name"), c.path("id"), c.caller, c.administers)

    async def remove_all(self, c: Context) -> s.ExamplesDeleted:
        return await self._s.examples.remove_all(c.path("name"), c.caller, c.administers)

    def table(self) -> tuple[Route, ...]:
        """Every route of examples."""
        return (
            Route(
                "GET", EXAMPLES, "The caller's examples of a task; its images are not told", self.list, s.ExampleList
            ),
            Route(
                "POST",
                EXAMPLES,
                "Hand over an example, where the policy gives consent",
                self.add,
                s.ExampleView,
                raw_bodies=IMAGE_TYPES,
                reads=s.ExampleCreate,
                query=(LABEL,),
            ),
            Route("DELETE", EXAMPLES, "Delete the caller's examples of a task", self.remove_all, s.ExamplesDeleted),
            Route("GET", EXAMPLE, "An example's image", self.image, answer_type="image/*"),
            Route("DELETE", EXAMPLE, "Delete an example", self.remove, s.ExamplesDeleted),
            Route(
                "POST",
                "/v1/tasks/{name}/corrections",
                "Say what an image really shows: that of an earlier prediction, or one sent along",
                self.correct,
                s.ExampleView,
                raw_bodies=IMAGE_TYPES,
                reads=s.CorrectionCreate,
                query=(LABEL,),
            ),
        )


def _is_json(c: Context) -> bool:
    media = c.request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media == "application/json":
        return True
    if media and not media.startswith("image/"):
        raise BadInputError(
            f"Content-Type '{media}' is not understood.",
            hint=f"Send one of {', '.join(IMAGE_TYPES)} or application/json.",
        )
    return False


def _label(c: Context) -> str:
    label = c.text("label")
    if label is None:
        raise BadInputError("The label is missing.", hint="Give it as ?label=NAME.")
    return label


def _parse(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise explain_validation(error, "The request body") from error
