"""What the synchronous and the asynchronous client share beside the methods: the socket, retries, parsing of events."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ..policies.errors import BusyError, PatchdError, UnavailableError, WorkerCrashedError
from .call import Call, LazyModule, encoded, parsed
from .daemon_methods import DaemonMethods
from .task_methods import TaskMethods
from .training_methods import TrainingMethods

if TYPE_CHECKING:
    from ..daemon.api import schemas
else:
    schemas = LazyModule("..daemon.api.schemas")

RETRIES = 2
FIRST_WAIT_S = 0.2  # doubled at each retry, where the daemon does not say how long to wait
LONGEST_WAIT_S = 10.0  # a daemon that asks for more is not waited for: the error is raised at once
PARALLEL = 4  # images of `infer_many` in flight: enough to fill a batch without crowding out others


class Methods(DaemonMethods, TaskMethods, TrainingMethods):
    """Every method of the API that is one request and one answer."""


def socket_path(given: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """The socket to talk to: `given`, else `PATCHD_SOCKET`, else the user's own daemon, else the machine's."""
    environ = os.environ if environ is None else environ
    if given is not None:
        return Path(given)
    if named := environ.get("PATCHD_SOCKET"):
        return Path(named)
    from ..daemon.sockets import MACHINE_SOCKET, default_socket_path

    own = default_socket_path(environ)
    return MACHINE_SOCKET if not own.exists() and MACHINE_SOCKET.exists() else own


def wait_before_retry_s(error: PatchdError, attempt: int, retries: int) -> float | None:
    """How long to wait before the same request is sent again, seconds; None when the error is to be raised.

    Sent again is only what the daemon has refused or lost by its own account: the queue was full, a worker died, or it
    is stopping and says when to come back. `attempt` counts from 0.
    """
    if attempt >= retries:
        return None
    told = error.retry_after_s
    if isinstance(error, UnavailableError) and told is None:
        return None
    if not isinstance(error, (BusyError, WorkerCrashedError, UnavailableError)):
        return None
    wait_s = FIRST_WAIT_S * 2**attempt if told is None else told
    return wait_s if wait_s <= LONGEST_WAIT_S else None


def stream_call(since: int | None) -> Call[bytes]:
    """Follows events."""
    return Call("GET", "/v1/events/stream" + encoded({"since": since}), bytes)


def event_of(data: str) -> schemas.Event:
    """An event from the `data` of a server-sent one."""
    return parsed(schemas.Event, data.encode())
