"""The part of the client that hands over examples and takes them back: `PatchdClient.examples`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import quote

from .media_types import media_type

if TYPE_CHECKING:
    from pydantic import BaseModel

    from .api.example_schemas import ExampleList, ExamplesDeleted, ExampleView
    from .client import PatchdClient

    Model = TypeVar("Model", bound=BaseModel)

    class Parse(Protocol):
        """Makes a model of an answer's body, or says what does not fit."""

        def __call__(self, kind: type[Model], body: bytes) -> Model: ...


TAKE_TIMEOUT_S = 120.0  # the first image starts the worker that decodes it


class ExampleClient:
    """Labelled images of this device's user; needs `consent = true` in the table `[examples]` of the policy."""

    def __init__(self, client: PatchdClient, parse: Parse) -> None:
        self._client, self._parse = client, parse

    @staticmethod
    def path(task: str, example_id: str | None = None) -> str:
        """The path of a task's examples, or of one."""
        one = "" if example_id is None else f"/{quote(example_id, safe='')}"
        return f"/v1/tasks/{quote(task, safe='')}/examples{one}"

    def add(self, task: str, label: str, image: bytes) -> ExampleView:
        """Hand over an encoded image (JPEG, PNG, WebP or BMP) and what it shows."""
        from .api.example_schemas import ExampleView

        return self._parse(ExampleView, self.add_body(task, label, image))

    def add_body(self, task: str, label: str, image: bytes) -> bytes:
        """Like `add`, but the answer is the body as it came."""
        return self._send(self.path(task), label, image)

    def correct(self, task: str, label: str, *, request: str | None = None, image: bytes | None = None) -> ExampleView:
        """Say what was to be seen in the image of an earlier prediction, by its request id, or in `image`."""
        from .api.example_schemas import ExampleView

        return self._parse(ExampleView, self.correct_body(task, label, request=request, image=image))

    def correct_body(self, task: str, label: str, *, request: str | None = None, image: bytes | None = None) -> bytes:
        """Like `correct`, but the answer is the body as it came."""
        path = f"/v1/tasks/{quote(task, safe='')}/corrections"
        if image is not None:
            return self._send(path, label, image)
        body = json.dumps({"label": label, "request": request}).encode()
        return self._client.request("POST", path, body=body, timeout_s=TAKE_TIMEOUT_S)

    def _send(self, path: str, label: str, image: bytes) -> bytes:
        return self._client.request(
            "POST",
            path,
            query={"label": label},
            body=image,
            content_type=media_type(image) or "image/jpeg",
            timeout_s=TAKE_TIMEOUT_S,
        )

    def list(self, task: str) -> ExampleList:
        """One's own examples of a task; those of all users for whoever administers the daemon."""
        from .api.example_schemas import ExampleList

        return self._parse(ExampleList, self._client.request("GET", self.path(task)))

    def image(self, task: str, example_id: str) -> bytes:
        """The image of an example."""
        return self._client.request("GET", self.path(task, example_id))

    def remove(self, task: str, example_id: str) -> ExamplesDeleted:
        """Delete an example."""
        from .api.example_schemas import ExamplesDeleted

        return self._parse(ExamplesDeleted, self._client.request("DELETE", self.path(task, example_id)))

    def remove_all(self, task: str) -> ExamplesDeleted:
        """Delete all examples of a task that one may see."""
        from .api.example_schemas import ExamplesDeleted

        return self._parse(ExamplesDeleted, self._client.request("DELETE", self.path(task)))
