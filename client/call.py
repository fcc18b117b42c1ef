"""One request of the API as a value, and the table entry that turns it into a method of every client.

A method of the API is written once, as a function that gives a `Call`: what to send and how to read the answer.
`Client` sends it and returns the answer, `AsyncClient` returns an awaitable of it, `Client.raw` the body as it came.
Type checkers see all three.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, overload
from urllib.parse import quote, urlencode

from ..policies.errors import PatchdError

if TYPE_CHECKING:
    from pydantic import BaseModel

    Model = TypeVar("Model", bound=BaseModel)

Answer = TypeVar("Answer")
Asked = ParamSpec("Asked")
Query = Mapping[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """A request: `target` is path and query, `read` makes the answer of a 2xx body."""

    method: str
    target: str
    read: Callable[[bytes], Answer]
    body: bytes | None = None
    content_type: str = "application/json"
    timeout_s: float | None = None  # absent: the client's own

    @property
    def reads_only(self) -> bool:
        """Whether sending it twice changes nothing."""
        return self.method == "GET"


class LazyModule:
    """A module of this package that is imported when one of its names is used: pydantic costs 0.1 s of start-up."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name, __package__), attribute)


def call(
    kind: Callable[[], type[Model]],
    method: str,
    path: str,
    query: Query | None = None,
    body: bytes | None = None,
    content_type: str = "application/json",
    timeout_s: float | None = None,
) -> Call[Model]:
    """A call whose answer is a model; `kind` gives its class when the answer is there."""
    target = path + encoded(query)
    return Call(method, target, lambda answer: parsed(kind(), answer), body, content_type, timeout_s)


def get(kind: Callable[[], type[Model]], path: str, query: Query | None = None) -> Call[Model]:
    """Read something."""
    return call(kind, "GET", path, query)


def post(
    kind: Callable[[], type[Model]], path: str, body: BaseModel | None = None, timeout_s: float | None = None
) -> Call[Model]:
    """Change something."""
    sent = None if body is None else body.model_dump_json().encode()
    return call(kind, "POST", path, body=sent, timeout_s=timeout_s)


def delete(kind: Callable[[], type[Model]], path: str) -> Call[Model]:
    """Remove something."""
    return call(kind, "DELETE", path)


def fetch(path: str, timeout_s: float | None = None) -> Call[bytes]:
    """Read a file."""
    return Call("GET", path, bytes, timeout_s=timeout_s)


def place(*names: str) -> str:
    """A path of the API; names of users' things in it are escaped."""
    return "/v1/" + "/".join(quote(name, safe="") for name in names)


def encoded(query: Query | None) -> str:
    """`?name=value&...`; what is None is left out."""
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return "?" + urlencode(given, safe=",") if given else ""


def parsed(kind: type[Model], body: bytes) -> Model:
    """A model from an answer's body. Raises PatchdError that says what does not fit."""
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


class Sender(ABC):
    """Sends a call and returns its answer."""

    @abstractmethod
    def send(self, call: Call[Answer]) -> Answer:
        """Raises the error that another answer than 2xx stands for."""


class AsyncSender(ABC):
    """Sends a call and returns its answer, awaited."""

    @abstractmethod
    async def send(self, call: Call[Answer]) -> Answer:
        """Raises the error that another answer than 2xx stands for."""


class RawSender(ABC):
    """Sends a call and returns the body of its answer."""

    @abstractmethod
    def send(self, call: Call[Any]) -> bytes:
        """Raises the error that another answer than 2xx stands for."""


class Method(Generic[Asked, Answer]):
    """Decorates a function that gives a `Call`: read from a client, it is a method that sends it."""

    def __init__(self, make: Callable[Concatenate[Any, Asked], Call[Answer]]) -> None:
        self._make = make
        functools.update_wrapper(self, make)
        self.__signature__ = inspect.signature(make)

    def __call__(self, *args: Asked.args, **kwargs: Asked.kwargs) -> Call[Answer]:
        """The call itself, unsent."""
        return self._make(None, *args, **kwargs)

    @overload
    def __get__(self, instance: None, owner: type) -> Method[Asked, Answer]: ...
    @overload
    def __get__(self, instance: Sender, owner: type) -> Callable[Asked, Answer]: ...
    @overload
    def __get__(self, instance: AsyncSender, owner: type) -> Callable[Asked, Awaitable[Answer]]: ...
    @overload
    def __get__(self, instance: RawSender, owner: type) -> Callable[Asked, bytes]: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self

        @functools.wraps(self._make)
        def send(*args: Asked.args, **kwargs: Asked.kwargs) -> Any:
            return instance.send(self._make(instance, *args, **kwargs))

        return send
