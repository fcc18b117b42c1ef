"""Both clients against a real HTTP server on a Unix socket: every test runs for the one and for the other."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import bodies
import pytest
from awaited import Awaited
from patchd.client import AsyncClient, Client
from patchd.client.common import FIRST_WAIT_S, LONGEST_WAIT_S, Methods, socket_path, wait_before_retry_s
from patchd.client.http1 import error_from_body
from patchd.client.sync_client import RawClient
from patchd.client.task_methods import image_type
from patchd.daemon.api import schemas
from patchd.daemon.api.routes import Routes
from patchd.policies import errors
from patchd.policies.task import TrainSpec
from unix_server import FakeDaemon, Handler, Seen, fake_daemon

NOBODY = 65534


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


Made = Callable[..., Client]


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Made:
    """Makes a client; the asynchronous one is awaited by an adapter and looks the same from outside."""
    if request.param == "sync":
        return Client
    return lambda *args, **kwargs: cast(Client, Awaited(AsyncClient(*args, **kwargs)))


@pytest.fixture
def client(daemon: FakeDaemon, make: Made) -> Iterator[Client]:
    with make(daemon.path, timeout_s=5, retries=0) as connected:
        yield connected


def error_body(code: str, **more: object) -> bytes:
    return json.dumps({"error": "It went wrong.", "code": code, "request_id": "r1", **more}).encode()


def every_error() -> list[type[errors.PatchdError]]:
    found = [errors.PatchdError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
def test_an_error_answer_raises_the_error_of_its_code(kind, daemon, client) -> None:
    daemon.on("GET", "/v1/status", error_body(kind.code, hint="Do that.", retry_after_s=1.5), status=418)
    with pytest.raises(kind) as raised:
        client.status()
    assert type(raised.value) is kind
    assert (raised.value.message, raised.value.hint, raised.value.retry_after_s) == ("It went wrong.", "Do that.", 1.5)


def test_an_error_code_of_a_later_version_is_still_a_readable_error() -> None:
    error = error_from_body(500, error_body("of_tomorrow"))
    assert type(error) is errors.PatchdError
    assert str(error) == "It went wrong."


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"detail": "x"}', b"\xff\xfe"])
def test_an_error_answer_that_is_no_error_body_is_reported_with_its_status(body) -> None:
    assert "502" in str(error_from_body(502, body))


def test_no_daemon_is_unavailable_and_says_how_to_start_it(tmp_path: Path, make) -> None:
    with pytest.raises(errors.UnavailableError, match=r"does not answer at .*none\.sock.*[Ss]tart it with `patchd`"):
        make(tmp_path / "none.sock").status()


def test_a_stale_socket_file_is_unavailable(tmp_path: Path, make) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "old.sock"))
    with pytest.raises(errors.UnavailableError, match="does not answer"):
        make(tmp_path / "old.sock").status()


def test_a_socket_path_that_is_too_long_is_one_clear_error(tmp_path: Path, make) -> None:
    with pytest.raises(errors.UnavailableError, match="too long"):
        make(tmp_path / ("x" * 120)).status()


def test_a_socket_that_may_not_be_opened_is_forbidden(daemon, client) -> None:
    daemon.path.chmod(0)
    before = os.geteuid()
    if before == 0:  # root may open every socket
        os.seteuid(NOBODY)
    try:
        with pytest.raises(errors.ForbiddenError, match="may not open"):
            client.status()
    finally:
        os.seteuid(before)


def test_one_connection_serves_many_requests(daemon, client) -> None:
    daemon.on("GET", "/v1/tasks", schemas.TaskList(tasks=()))
    for _ in range(5):
        assert client.tasks() == schemas.TaskList(tasks=())
    assert daemon.connections == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_dropped_while_idle_is_opened_again(method, daemon, client) -> None:
    def answer_and_hang_up(handler: Handler, seen: Seen) -> None:
        handler.answer(200, b"{}")
        handler.close_connection = True

    daemon.on(method, "/v1/x", answer_and_hang_up)
    assert client.request(method, "/v1/x", body=b"{}" if method == "POST" else None) == b"{}"
    time.sleep(0.05)
    assert client.request(method, "/v1/x", body=b"{}" if method == "POST" else None) == b"{}"
    assert len(daemon.seen) == 2


def test_a_request_that_changes_something_is_never_sent_twice(daemon, client) -> None:
    def hang_up(handler: Handler, seen: Seen) -> None:
        handler.close_connection = True

    daemon.on("GET", "/v1/tasks", schemas.TaskList(tasks=()))
    daemon.on("POST", "/v1/jobs", hang_up)
    client.tasks()
    with pytest.raises(errors.UnavailableError, match="closed the connection"):
        client.submit(TrainSpec(task="digits"))
    assert [seen.method for seen in daemon.seen] == ["GET", "POST"]
    assert client.tasks() == schemas.TaskList(tasks=())


def test_a_silent_daemon_is_unavailable_after_the_time_limit(daemon, make) -> None:
    daemon.on("GET", "/v1/status", lambda handler, seen: time.sleep(1))
    with make(daemon.path, timeout_s=0.1) as client:
        with pytest.raises(errors.UnavailableError, match=r"within 0\.1 s"):
            client.status()
        daemon.on("GET", "/v1/tasks", schemas.TaskList(tasks=()))
        assert client.tasks() == schemas.TaskList(tasks=())


@pytest.mark.parametrize("hang_up", [True, False], ids=["and hangs up", "and reads no further"])
def test_an_answer_before_the_body_is_sent_is_read_and_raised(hang_up, daemon, client) -> None:
    def refuse(handler: Handler, seen: Seen) -> None:
        handler.answer(413, error_body("too_large"))
        handler.wfile.flush()
        handler.close_connection = True
        if not hang_up:
            handler.rfile.read(1)
            time.sleep(0.5)

    refuse.early = True  # type: ignore[attr-defined]
    daemon.on("POST", "/v1/tasks/imagenet/infer", refuse)
    started = time.monotonic()
    with pytest.raises(errors.TooLargeError, match="went wrong"):
        client.infer("imagenet", b"\xff\xd8\xff" + bytes(32 * 1024 * 1024))
    assert time.monotonic() - started < 3
    daemon.on("GET", "/v1/tasks", schemas.TaskList(tasks=()))
    assert client.tasks() == schemas.TaskList(tasks=())


def test_a_large_body_arrives_whole(daemon, client) -> None:
    body = os.urandom(5 * 1024 * 1024)
    daemon.on("POST", "/v1/patches", lambda handler, seen: handler.answer(200, str(seen.body == body).encode()))
    assert client.request("POST", "/v1/patches", body=body) == b"True"


def test_names_and_values_are_escaped_in_the_address(daemon, client) -> None:
    daemon.on("GET", "/v1/tasks/a%2Fb%20%3Fc", b"{}")
    client.request("GET", "/v1/tasks/a%2Fb%20%3Fc")
    with pytest.raises(errors.PatchdError, match="TaskView"):
        client.task("a/b ?c")
    assert [seen.path for seen in daemon.seen] == ["/v1/tasks/a%2Fb%20%3Fc"] * 2


def test_an_image_is_sent_as_what_its_first_bytes_say(daemon, client) -> None:
    daemon.on("POST", "/v1/tasks/t/infer", b"{}")
    with pytest.raises(errors.PatchdError, match="no InferAnswer"):
        client.infer("t", b"\x89PNG\r\n\x1a\n...", top_k=3, resolution=96, deadline_ms=500)
    seen = daemon.seen[0]
    assert seen.headers["content-type"] == "image/png"
    assert (seen.query["top_k"], seen.query["resolution"], seen.query["deadline_ms"]) == (["3"], ["96"], ["500"])
    assert "cascade" not in seen.query
    assert image_type(b"\xff\xd8\xff\xe0") == "image/jpeg"


def test_a_raw_tensor_carries_shape_and_datatype(daemon, client) -> None:
    daemon.on("POST", "/v1/tasks/t/infer", error_body("bad_input"), status=400)
    with pytest.raises(errors.BadInputError):
        client.infer_tensor("t", bytes(12), (2, 2, 3))
    assert daemon.seen[0].query["shape"] == ["2,2,3"]
    assert daemon.seen[0].query["datatype"] == ["UINT8"]
    assert "resolution" not in daemon.seen[0].query


def test_an_answer_of_another_version_is_one_clear_error(daemon, client) -> None:
    daemon.on("GET", "/v1/tasks", b'{"tasks": [], "added_tomorrow": 1}')
    with pytest.raises(errors.PatchdError, match=r"added_tomorrow.*same version"):
        client.tasks()


def test_the_event_stream_is_parsed_event_by_event(daemon, client) -> None:
    event = schemas.Event(id=7, time_s=1.0, level="info", kind="job.done", message="Zwölf Äpfel.")

    def stream(handler: Handler, seen: Seen) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        text = f": hello\n\nid: 7\nevent: job.done\ndata: {event.model_dump_json()}\n\n: ping\n\n"
        handler.wfile.write((text + text).encode())
        handler.close_connection = True

    daemon.on("GET", "/v1/events/stream", stream)
    assert list(client.follow_events(6)) == [event, event]
    assert daemon.seen[0].query == {"since": ["6"]}


def test_a_refused_event_stream_raises_its_error(daemon, client) -> None:
    daemon.on("GET", "/v1/events/stream", error_body("busy"), status=503)
    with pytest.raises(errors.BusyError):
        next(client.follow_events())


def test_the_socket_is_the_given_one_else_the_environments() -> None:
    assert socket_path("/a", {"PATCHD_SOCKET": "/b"}) == Path("/a")
    assert socket_path(None, {"PATCHD_SOCKET": "/b"}) == Path("/b")


def test_without_a_daemon_of_the_user_s_own_the_machine_s_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, own = tmp_path / "machine.sock", tmp_path / "patchd" / "patchd.sock"
    monkeypatch.setattr("patchd.daemon.sockets.MACHINE_SOCKET", machine)
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert socket_path(None, environ) == own
    machine.touch()
    assert socket_path(None, environ) == machine
    own.parent.mkdir()
    own.touch()
    assert socket_path(None, environ) == own


def test_importing_the_client_brings_neither_pydantic_nor_torch_nor_asyncio() -> None:
    heavy = "{'pydantic', 'torch', 'asyncio', 'rich', 'ssl', 'http.client'}"
    code = f"import sys; from patchd.client import Client; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- retries -----------------------------------------------------------------------------------------------------------


def refusing(code: str, times: int, **more: object) -> Callable[[Handler, Seen], None]:
    """Answers the first `times` requests with an error, those after them with no tasks."""
    left = [times]

    def answer(handler: Handler, seen: Seen) -> None:
        left[0] -= 1
        if left[0] >= 0:
            handler.answer(503, error_body(code, **more))
        else:
            handler.answer(200, schemas.TaskList(tasks=()).model_dump_json().encode())

    return answer


@pytest.mark.parametrize("code", ["busy", "worker_crashed", "unavailable"])
def test_what_the_daemon_refused_or_lost_is_sent_again_after_the_time_it_asked_for(code, daemon, make) -> None:
    daemon.on("GET", "/v1/tasks", refusing(code, 2, retry_after_s=0.05))
    with make(daemon.path) as client:
        started = time.monotonic()
        assert client.tasks() == schemas.TaskList(tasks=())
        assert time.monotonic() - started >= 0.1
    assert len(daemon.seen) == 3


def test_after_as_many_retries_as_were_asked_for_the_error_is_raised(daemon, make) -> None:
    daemon.on("GET", "/v1/tasks", refusing("busy", 9, retry_after_s=0.01))
    with make(daemon.path, retries=3) as client, pytest.raises(errors.BusyError):
        client.tasks()
    assert len(daemon.seen) == 4


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.code)
@pytest.mark.parametrize("told", [None, 0.5, LONGEST_WAIT_S + 1])
def test_only_what_may_be_sent_again_is_and_a_long_wait_is_the_callers(kind, told) -> None:
    wait_s = wait_before_retry_s(kind("It went wrong.", retry_after_s=told), 0, 2)
    if kind in (errors.BusyError, errors.WorkerCrashedError):
        assert wait_s == {None: FIRST_WAIT_S, 0.5: 0.5}.get(told)
    elif kind is errors.UnavailableError:
        assert wait_s == {0.5: 0.5}.get(told)
    else:
        assert wait_s is None


def test_an_image_that_a_dying_worker_lost_is_predicted_after_all(daemon, make) -> None:
    answer = bodies.answer(resolution=96)
    lost = [True]

    def once(handler: Handler, seen: Seen) -> None:
        if lost.pop() if lost else False:
            handler.answer(503, error_body("worker_crashed"))
        else:
            handler.answer(200, answer.model_dump_json().encode())

    daemon.on("POST", "/v1/tasks/digits/infer", once)
    with make(daemon.path) as client:
        assert client.infer("digits", b"\xff\xd8\xff").resolution == 96
    assert [seen.body for seen in daemon.seen] == [b"\xff\xd8\xff"] * 2


# -- many at once ------------------------------------------------------------------------------------------------------


def test_many_images_are_answered_in_their_order_and_several_at_a_time(daemon, client) -> None:
    inside, most, lock = [0], [0], threading.Lock()

    def answer(handler: Handler, seen: Seen) -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.03 if seen.body.endswith(b"0") else 0.01)
        with lock:
            inside[0] -= 1
        told = bodies.answer().model_copy(update={"request_id": seen.body.decode()})
        handler.answer(200, told.model_dump_json().encode())

    daemon.on("POST", "/v1/tasks/t/infer", answer)
    images = [str(number).encode() for number in range(20)]
    answers = list(client.infer_many("t", iter(images), parallel=4, top_k=1))
    assert [each.request_id for each in answers] == [str(number) for number in range(20)]
    assert 2 <= most[0] <= 4
    assert daemon.connections <= 4
    assert {seen.query["top_k"][0] for seen in daemon.seen} == {"1"}


def test_the_first_error_of_many_ends_them(daemon, client) -> None:
    daemon.on("POST", "/v1/tasks/t/infer", error_body("bad_input"), status=400)
    taken = []

    def images() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield b"x"

    with pytest.raises(errors.BadInputError):
        list(client.infer_many("t", images(), parallel=3))
    assert len(taken) <= 4


def slowly(seconds: float, body: bytes) -> Callable[[Handler, Seen], None]:
    def answer(handler: Handler, seen: Seen) -> None:
        time.sleep(seconds)
        handler.answer(200, body)

    return answer


def test_threads_share_a_client(daemon) -> None:
    daemon.on("GET", "/v1/tasks", slowly(0.005, b'{"tasks": []}'))
    with Client(daemon.path) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.tasks(), range(80)))
    assert found == [schemas.TaskList(tasks=())] * 80
    assert daemon.connections <= 8


def test_a_cancelled_request_leaves_no_answer_for_the_next(daemon) -> None:
    daemon.on("GET", "/v1/status", slowly(0.2, b"late"))
    daemon.on("GET", "/v1/tasks", schemas.TaskList(tasks=()))

    async def cancel_then_ask() -> schemas.TaskList:
        async with AsyncClient(daemon.path) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.status(), 0.05)
            return await client.tasks()

    assert asyncio.run(cancel_then_ask()) == schemas.TaskList(tasks=())


def test_no_more_requests_are_in_flight_than_there_are_connections(daemon) -> None:
    daemon.on("GET", "/v1/tasks", slowly(0.01, b'{"tasks": []}'))

    async def ask() -> None:
        async with AsyncClient(daemon.path, connections=3) as client:
            await asyncio.gather(*(client.tasks() for _ in range(30)))

    asyncio.run(ask())
    assert daemon.connections <= 3


# -- one table of methods ----------------------------------------------------------------------------------------------


def public(client: type) -> set[str]:
    return {name for name in dir(client) if not name.startswith("_")}


def test_every_method_has_an_asynchronous_twin_with_the_same_signature() -> None:
    assert public(AsyncClient) == public(Client)
    for name in public(Client):
        one, other = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(one).parameters == inspect.signature(other).parameters, name
        assert one.__doc__, name
        assert one.__doc__ == other.__doc__, name


def test_a_method_of_a_client_waits_and_that_of_the_other_is_awaited(daemon) -> None:
    daemon.on("GET", "/v1/tasks", b'{"tasks":  []}')
    assert Client(daemon.path).tasks() == schemas.TaskList(tasks=())
    assert Client(daemon.path).raw.tasks() == b'{"tasks":  []}'
    assert public(RawClient) == public(Methods) | {"send"}
    coroutine = AsyncClient(daemon.path).tasks()
    assert inspect.iscoroutine(coroutine)
    assert asyncio.run(coroutine) == schemas.TaskList(tasks=())


def test_every_route_of_the_api_but_probes_and_the_open_protocol_has_a_method() -> None:
    """A route that the client cannot reach is found here, whoever adds it."""
    given: dict[str, Any] = {
        "data": b"x",
        "image": b"x",
        "shape": (1,),
        "action": "pause",
        "form": "onnx",
        "value": 1.0,
    }
    given |= {"task": "x", "create": bodies.TASK, "run": bodies.TASK, "replay": bodies.TASK, "spec": bodies.TASK}
    reached = {("GET", "/v1/events/stream"), ("POST", "/v1/jobs/{}/resume"), ("POST", "/v1/jobs/{}/cancel")}
    for name in public(Methods):
        method = getattr(Client, name)
        asked = [each for each in inspect.signature(method).parameters.values() if each.default is each.empty]
        values = [bodies.TASK if "Create" in each.annotation else given.get(each.name, "x") for each in asked[1:]]
        call = method(*values)
        reached.add((call.method, re.sub(r"/x(?=/|$)", "/{}", call.target.partition("?")[0])))
    routes = {(route.method, re.sub(r"\{\w+\}", "{}", route.path)) for route in Routes(cast(Any, None)).table()}
    wanted = {route for route in routes if route[1].startswith("/v1/") and route[1] != "/v1/health"}
    assert wanted - reached == set()
