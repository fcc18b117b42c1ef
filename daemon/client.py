"""A small client of the local API: standard library only, one keep-alive connection, typed answers.

    with PatchdClient() as patchd:
        answer = patchd.infer("imagenet", Path("cat.jpg").read_bytes())
        print(answer.predictions[0].label, answer.timing.total_ms)

Every method returns a model of `daemon.api.schemas` or raises an error of `policies.errors`. The models are imported
at the first use: pydantic costs about 0.1 s of start-up, which a caller that only wants `request` need not pay.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote, urlencode

from ..policies.errors import ForbiddenError, PatchdError, UnavailableError
from .error_codes import error_from_code

if TYPE_CHECKING:
    from types import TracebackType

    from pydantic import BaseModel

    from ..policies.decision import Decision
    from ..policies.snapshot import Snapshot
    from ..policies.task import TrainSpec
    from .api import schemas

    Model = TypeVar("Model", bound=BaseModel)

Query = Mapping[str, str | int | float | None]
JobAction = Literal["pause", "resume", "cancel"]

READ_TIMEOUT_S = 10.0  # every reading route answers from memory or SQLite
INFER_TIMEOUT_S = 120.0  # the first prediction starts the worker and loads the base
WORK_TIMEOUT_S = 600.0  # profiling, and uploads over a slow disk
SEND_BYTES = 256 * 1024  # one send; between two of them an early answer is noticed

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"


def socket_path(given: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The socket to talk to: `given`, else `PATCHD_SOCKET`, else the daemon's default place."""
    environ = os.environ if environ is None else environ
    if given is not None:
        return Path(given)
    if named := environ.get("PATCHD_SOCKET"):
        return Path(named)
    from .sockets import default_socket_path

    return default_socket_path(environ)


def image_type(data: bytes) -> str:
    """The content type by the first bytes; what is neither JPEG nor PNG is sent as JPEG, and patchd says what is wrong."""
    return "image/png" if data.startswith(_PNG) else "image/jpeg"


def error_from_body(status: int, body: bytes) -> PatchdError:
    """The error of `policies.errors` that a non-2xx answer stands for."""
    try:
        fields = json.loads(body)
        message, code = str(fields["error"]), str(fields["code"])
    except (ValueError, KeyError, TypeError):
        return PatchdError(f"patchd answered with status {status} and no readable error.")
    return error_from_code(code, message, fields.get("hint"), fields.get("retry_after_s"))


class _Connection(http.client.HTTPConnection):
    """HTTP over one Unix socket."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(self.timeout)
            sock.connect(os.fspath(self._path))
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class PatchdClient:
    """A synchronous client; one connection, so one thread at a time. Errors: `PatchdError` and its subclasses."""

    def __init__(
        self, socket_path_: str | os.PathLike[str] | None = None, *, timeout_s: float = READ_TIMEOUT_S
    ) -> None:
        self.path = socket_path(socket_path_)
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None

    def __enter__(self) -> PatchdClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # -- transport ---------------------------------------------------------------------------------------------------

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
        """Send one request and return the body of the 2xx answer, unchanged. Raises the error the answer stands for."""
        target = path + _encode(query)
        limit = self._timeout_s if timeout_s is None else timeout_s
        status, answer = self._exchange(method, target, body, content_type, limit)
        if not 200 <= status < 300:
            raise error_from_body(status, answer)
        return answer

    def _exchange(
        self, method: str, target: str, body: bytes | None, content_type: str, timeout_s: float
    ) -> tuple[int, bytes]:
        reused = self._usable()
        try:
            return self._try_exchange(method, target, body, content_type, timeout_s)
        except TimeoutError as error:
            self.close()
            raise UnavailableError(
                f"patchd at {self.path} did not answer {method} {target} within {timeout_s:g} s."
            ) from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            # An idle connection may be closed while the request is on its way. Only what changes nothing is sent twice.
            if not (reused and method == "GET"):
                raise self._unreachable(error) from error
        try:
            return self._try_exchange(method, target, body, content_type, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._unreachable(error) from error

    def _usable(self) -> bool:
        """Whether there is a connection to use again; one that the daemon has closed meanwhile is dropped here."""
        if self._connection is None or self._connection.sock is None:
            return False
        if select.select([self._connection.sock], [], [], 0)[0]:
            self.close()
            return False
        return True

    def _try_exchange(
        self, method: str, target: str, body: bytes | None, content_type: str, timeout_s: float
    ) -> tuple[int, bytes]:
        connection = self._open(timeout_s)
        connection.putrequest(method, target, skip_accept_encoding=True)
        connection.putheader("Accept", "application/json")
        if body is not None:
            connection.putheader("Content-Type", content_type)
        if body is not None or method == "POST":
            connection.putheader("Content-Length", str(len(body or b"")))
        connection.endheaders()
        complete = _send(connection.sock, body or b"", timeout_s)
        response = connection.getresponse()
        answer = response.read()
        if not complete or response.will_close:
            self.close()
        return response.status, answer

    def _open(self, timeout_s: float | None) -> _Connection:
        if self._connection is None:
            self._connection = _Connection(self.path, timeout_s)
            self._connection.connect()
        else:
            self._connection.sock.settimeout(timeout_s)
        return self._connection

    def _unreachable(self, error: OSError | http.client.HTTPException) -> PatchdError:
        if isinstance(error, PermissionError):
            return ForbiddenError(
                f"This user may not open the socket {self.path}.",
                hint="Ask for membership of the socket's group, or give another one with --socket.",
            )
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError, NotADirectoryError)):
            return UnavailableError(
                f"patchd does not answer at {self.path}.",
                hint="Start it with `patchd`, or give its socket with --socket.",
            )
        if isinstance(error, (ConnectionError, http.client.HTTPException)):
            return UnavailableError(
                f"patchd at {self.path} closed the connection before it had answered.", hint="Try again."
            )
        return UnavailableError(f"patchd cannot be reached at {self.path}: {error.strerror or error}.")

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
        return self._get(_schemas().Status, "/v1/status")

    def snapshot(self) -> Snapshot:
        """What the monitor saw last."""
        from ..policies.snapshot import Snapshot

        return self._get(Snapshot, "/v1/snapshot")

    def decisions(self, limit: int | None = None) -> schemas.DecisionList:
        """The latest decisions, newest first."""
        return self._get(_schemas().DecisionList, "/v1/decisions", {"limit": limit})

    def decision(self, decision_id: str) -> Decision:
        """One decision."""
        from ..policies.decision import Decision

        return self._get(Decision, f"/v1/decisions/{quote(decision_id, safe='')}")

    def explain(
        self, *, decision: str | None = None, request: str | None = None, at_s: float | None = None
    ) -> schemas.Explain:
        """The decision in force: now, of `decision`, for the prediction `request`, or at the Unix time `at_s`."""
        return self._get(_schemas().Explain, "/v1/explain", {"decision": decision, "request": request, "at": at_s})

    def policies(self) -> schemas.PolicyList:
        """The presets and the policy files the daemon knows."""
        return self._get(_schemas().PolicyList, "/v1/policies")

    def policy(self, name: str) -> schemas.PolicyText:
        """The text of a policy."""
        return self._get(_schemas().PolicyText, f"/v1/policies/{quote(name, safe='')}")

    def use_policy(self, *, name: str | None = None, path: Path | None = None) -> schemas.PolicyState:
        """Put a policy in force, by name or by the absolute path of a file that the daemon can read."""
        body = _schemas().PolicyUse(name=name, path=None if path is None else os.fspath(path))
        return self._post(_schemas().PolicyState, "/v1/policies/use", body)

    # -- tasks and patches -------------------------------------------------------------------------------------------

    def tasks(self) -> schemas.TaskList:
        """All tasks with their ladders."""
        return self._get(_schemas().TaskList, "/v1/tasks")

    def task(self, name: str) -> schemas.TaskView:
        """One task with its ladder."""
        return self._get(_schemas().TaskView, f"/v1/tasks/{quote(name, safe='')}")

    def add_task(self, task: schemas.TaskCreate) -> schemas.TaskView:
        """Add a task; the data set is read, so this takes a moment."""
        return self._post(_schemas().TaskView, "/v1/tasks", task, timeout_s=WORK_TIMEOUT_S)

    def remove_task(self, name: str) -> schemas.Deleted:
        """Remove a task with its patches and jobs."""
        return _parse(_schemas().Deleted, self.request("DELETE", f"/v1/tasks/{quote(name, safe='')}"))

    def patches(self, task: str | None = None) -> schemas.PatchList:
        """The stored patches, of all tasks or of one."""
        return self._get(_schemas().PatchList, "/v1/patches", {"task": task})

    def patch(self, patch_id: str) -> schemas.PatchView:
        """One patch, by its id or a unique beginning of it."""
        return self._get(_schemas().PatchView, f"/v1/patches/{quote(patch_id, safe='')}")

    def patch_file(self, patch_id: str) -> bytes:
        """The safetensors file of a patch."""
        return self.request("GET", f"/v1/patches/{quote(patch_id, safe='')}/file", timeout_s=WORK_TIMEOUT_S)

    def import_patch(self, data: bytes) -> schemas.PatchView:
        """Store a patch file; refused unless it fits the base and the task named in it."""
        return _parse(_schemas().PatchView, self.import_patch_body(data))

    def import_patch_body(self, data: bytes) -> bytes:
        """Like `import_patch`, but the answer is the body as it came."""
        return self.request(
            "POST", "/v1/patches", body=data, content_type="application/octet-stream", timeout_s=WORK_TIMEOUT_S
        )

    def remove_patch(self, patch_id: str) -> schemas.Deleted:
        """Delete a patch."""
        return _parse(_schemas().Deleted, self.request("DELETE", f"/v1/patches/{quote(patch_id, safe='')}"))

    # -- training ----------------------------------------------------------------------------------------------------

    def submit(self, spec: TrainSpec) -> schemas.JobView:
        """Queue a training job."""
        return self._post(_schemas().JobView, "/v1/jobs", spec)

    def jobs(self) -> schemas.JobList:
        """All training jobs."""
        return self._get(_schemas().JobList, "/v1/jobs")

    def job(self, job_id: str) -> schemas.JobView:
        """One training job."""
        return self._get(_schemas().JobView, f"/v1/jobs/{quote(job_id, safe='')}")

    def change_job(self, job_id: str, action: JobAction) -> schemas.JobView:
        """Pause, resume or cancel a job."""
        return self._post(_schemas().JobView, f"/v1/jobs/{quote(job_id, safe='')}/{action}")

    # -- inference ---------------------------------------------------------------------------------------------------

    def infer(
        self, task: str, image: bytes, *, top_k: int = 5, resolution: int | None = None, content_type: str | None = None
    ) -> schemas.InferAnswer:
        """Classify an encoded image (JPEG or PNG); `resolution` overrides the daemon's choice of rung."""
        return _parse(_schemas().InferAnswer, self.infer_bytes(task, image, top_k, resolution, content_type))

    def infer_bytes(
        self,
        task: str,
        image: bytes,
        top_k: int = 5,
        resolution: int | None = None,
        content_type: str | None = None,
    ) -> bytes:
        """Like `infer`, but the answer is the body as it came."""
        return self.request(
            "POST",
            f"/v1/tasks/{quote(task, safe='')}/infer",
            query={"top_k": top_k, "resolution": resolution},
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
    ) -> schemas.InferAnswer:
        """Classify raw memory, row-major: UINT8 [H,W,3] RGB, or FP32 [3,R,R], a finished network input."""
        answer = self.request(
            "POST",
            f"/v1/tasks/{quote(task, safe='')}/infer",
            query={
                "shape": ",".join(map(str, shape)),
                "datatype": datatype,
                "top_k": top_k,
                "resolution": resolution,
            },
            body=data,
            content_type="application/octet-stream",
            timeout_s=INFER_TIMEOUT_S,
        )
        return _parse(_schemas().InferAnswer, answer)

    # -- measurements, events, traces --------------------------------------------------------------------------------

    def profile(self) -> schemas.Profile:
        """The measured costs."""
        return self._get(_schemas().Profile, "/v1/profile")

    def run_profile(self, run: schemas.ProfileRun) -> schemas.Profile:
        """Measure the costs now."""
        return self._post(_schemas().Profile, "/v1/profile", run, timeout_s=WORK_TIMEOUT_S)

    def events(self, since: int | None = None, limit: int | None = None, level: str | None = None) -> schemas.EventList:
        """Past events with an id above `since`."""
        return self._get(_schemas().EventList, "/v1/events", {"since": since, "limit": limit, "level": level})

    def event_bodies(self, since: int | None = None) -> Iterator[str]:
        """Every new event as the JSON text that the daemon sends, until the daemon ends the stream.

        Uses a connection of its own, so other requests may be made meanwhile.
        """
        connection = _Connection(self.path, READ_TIMEOUT_S)
        try:
            connection.connect()
            sock = connection.sock
            connection.request("GET", "/v1/events/stream" + _encode({"since": since}))
            response = connection.getresponse()
            if response.status != 200:
                raise error_from_body(response.status, response.read())
            sock.settimeout(None)  # a quiet device has no events for hours
            yield from _sse_data(response)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def follow_events(self, since: int | None = None) -> Iterator[schemas.Event]:
        """Every new event, until the daemon ends the stream."""
        kind = _schemas().Event
        for body in self.event_bodies(since):
            yield _parse(kind, body.encode())

    def trace(self) -> schemas.TraceState:
        """Whether a trace is being replayed into the monitor, and where it stands."""
        return self._get(_schemas().TraceState, "/v1/monitor/trace")

    def start_trace(self, replay: schemas.TraceReplay) -> schemas.TraceState:
        """Feed a trace to the monitor in place of the device."""
        return self._post(_schemas().TraceState, "/v1/monitor/trace", replay)

    def stop_trace(self) -> schemas.TraceState:
        """Give the monitor back to the device."""
        return _parse(_schemas().TraceState, self.request("DELETE", "/v1/monitor/trace"))


def _schemas() -> Any:
    """The module of the API's bodies, imported at the first use; `Any` because the annotations name its types."""
    from .api import schemas

    return schemas


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


def _encode(query: Query | None) -> str:
    given = {key: value for key, value in (query or {}).items() if value is not None}
    return "?" + urlencode(given, safe=",") if given else ""


def _send(sock: socket.socket, body: bytes, timeout_s: float) -> bool:
    """Send `body`; False when the daemon answered, or hung up, before all of it was sent (a body that is too large)."""
    view = memoryview(body)
    while view:
        started = time.monotonic()
        readable, writable, _ = select.select([sock], [sock], [], timeout_s)
        if readable:
            return False
        if not writable:
            raise TimeoutError(f"nothing could be sent for {time.monotonic() - started:.0f} s")
        try:
            view = view[sock.send(view[:SEND_BYTES]) :]
        except (BrokenPipeError, ConnectionResetError):
            return False
    return True


def _sse_data(response: http.client.HTTPResponse) -> Iterator[str]:
    """The `data` fields of a server-sent event stream, one string an event."""
    data: list[str] = []
    while line := response.readline():
        text = line.decode().rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
        elif not text and data:
            yield "\n".join(data)
            data = []
