"""The client against a real HTTP server on a Unix socket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patchd.daemon.api import schemas
from patchd.daemon.client import PatchdClient, image_type, socket_path
from patchd.daemon.unix_http import error_from_body
from patchd.policies import errors
from patchd.policies.task import TrainSpec
from unix_server import FakeDaemon, Handler, Seen, fake_daemon

NOBODY = 65534


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


@pytest.fixture
def client(daemon: FakeDaemon) -> Iterator[PatchdClient]:
    with PatchdClient(daemon.path, timeout_s=5) as connected:
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


def test_no_daemon_is_unavailable_and_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(errors.UnavailableError, match=r"does not answer at .*none\.sock.*[Ss]tart it with `patchd`"):
        PatchdClient(tmp_path / "none.sock").status()


def test_a_stale_socket_file_is_unavailable(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "old.sock"))
    with pytest.raises(errors.UnavailableError, match="does not answer"):
        PatchdClient(tmp_path / "old.sock").status()


def test_a_socket_path_that_is_too_long_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(errors.UnavailableError, match="too long"):
        PatchdClient(tmp_path / ("x" * 120)).status()


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


def test_a_silent_daemon_is_unavailable_after_the_time_limit(daemon) -> None:
    daemon.on("GET", "/v1/status", lambda handler, seen: time.sleep(1))
    with PatchdClient(daemon.path, timeout_s=0.1) as client:
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
    assert client.import_patch_body(body) == b"True"


def test_names_and_values_are_escaped_in_the_address(daemon, client) -> None:
    daemon.on("GET", "/v1/tasks/a%2Fb%20%3Fc", b"{}")
    client.request("GET", "/v1/tasks/a%2Fb%20%3Fc")
    with pytest.raises(errors.PatchdError, match="TaskView"):
        client.task("a/b ?c")
    assert [seen.path for seen in daemon.seen] == ["/v1/tasks/a%2Fb%20%3Fc"] * 2


def test_an_image_is_sent_as_what_its_first_bytes_say(daemon, client) -> None:
    daemon.on("POST", "/v1/tasks/t/infer", b"{}")
    client.infer_bytes("t", b"\x89PNG\r\n\x1a\n...", top_k=3, resolution=96)
    seen = daemon.seen[0]
    assert seen.headers["content-type"] == "image/png"
    assert (seen.query["top_k"], seen.query["resolution"]) == (["3"], ["96"])
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


def test_importing_the_client_brings_neither_pydantic_nor_torch() -> None:
    code = (
        "import sys, patchd.daemon.client; print(sorted({'pydantic', 'torch', 'asyncio', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
