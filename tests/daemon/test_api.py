"""The local API against a real daemon: what it answers, and that no bad request hurts it."""

from __future__ import annotations

import io
import json
import socket
import stat
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patchd.daemon.api.explain_schemas import Explain
from patchd.daemon.api.schemas import InferAnswer, PolicyList, Profile, Status, TaskCreate, TaskList
from patchd.policies.errors import (
    BadInputError,
    ConflictError,
    DeadlineError,
    NotFoundError,
    PatchdError,
    PatchMismatchError,
    TooLargeError,
    TraceError,
)
from PIL import Image
from running import RunningDaemon


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and carries one compressed row: a decompression bomb's first bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def still_serves(daemon: RunningDaemon) -> None:
    assert daemon.client.status().pid == daemon.pid


def test_status_names_policy_tasks_and_workers(daemon: RunningDaemon) -> None:
    status = daemon.client.status()
    assert isinstance(status, Status)
    assert status.policy.name == "steady"
    assert {worker.name for worker in status.workers} == {"inference", "training"}
    assert status.decision is not None
    assert status.decision.inference.reasons
    assert status.snapshot is not None
    assert status.snapshot.cpu.count >= 1


def test_the_socket_has_mode_0660(daemon: RunningDaemon) -> None:
    assert stat.S_IMODE(daemon.socket.stat().st_mode) == 0o660


def test_photographs_are_classified_by_the_built_in_task(daemon: RunningDaemon, photographs: dict[str, Path]) -> None:
    answer = daemon.client.infer("imagenet", photographs["flower"].read_bytes())
    assert isinstance(answer, InferAnswer)
    assert len(answer.predictions) == 5
    assert answer.predictions[0].label == "daisy"
    assert answer.timing.total_ms >= answer.timing.network_ms > 0
    assert answer.why
    explained = daemon.client.explain(request=answer.request_id)
    assert explained.decision.id == answer.decision_id


def test_a_named_resolution_overrides_the_decision(daemon: RunningDaemon, photographs: dict[str, Path]) -> None:
    answer = daemon.client.infer("imagenet", photographs["china"].read_bytes(), resolution=96)
    assert answer.resolution == 96


def test_a_deadline_that_cannot_be_met_is_said_and_the_next_request_is_answered(daemon, photographs) -> None:
    image = photographs["china"].read_bytes()
    infer = "/v1/tasks/imagenet/infer"
    with pytest.raises(DeadlineError, match=r"no answer within the deadline of 0\.01 ms"):
        daemon.client.request("POST", infer, query={"deadline_ms": 0.01}, body=image, content_type="image/jpeg")
    answer = daemon.client.request("POST", infer, query={"deadline_ms": 60000}, body=image, content_type="image/jpeg")
    assert InferAnswer.model_validate_json(answer).predictions
    for wrong in ({"deadline_ms": -1}, {"deadline_ms": "soon"}, {"min_accuracy": 2}, {"min_accuracy": 0.99}):
        with pytest.raises(BadInputError):
            daemon.client.request("POST", infer, query=wrong, body=image, content_type="image/jpeg")


def test_pixels_json_and_png_of_one_image_agree(daemon: RunningDaemon, photographs: dict[str, Path]) -> None:
    image = Image.open(photographs["flower"]).convert("RGB").resize((120, 100))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    as_png = daemon.client.infer("imagenet", encoded.getvalue(), resolution=96)
    as_pixels = daemon.client.infer_tensor("imagenet", image.tobytes(), (100, 120, 3), resolution=96)
    tensor = {"shape": [100, 120, 3], "datatype": "UINT8", "data": list(image.tobytes())}
    body = json.dumps({"tensor": tensor, "resolution": 96}).encode()
    as_json = InferAnswer.model_validate_json(daemon.client.request("POST", "/v1/tasks/imagenet/infer", body=body))
    assert as_png.predictions == as_pixels.predictions == as_json.predictions


def test_a_finished_input_goes_to_the_rung_of_its_own_resolution(daemon: RunningDaemon) -> None:
    data = struct.pack(f"<{3 * 128 * 128}f", *([0.1] * (3 * 128 * 128)))
    answer = daemon.client.infer_tensor("imagenet", data, (3, 128, 128), "FP32")
    assert answer.resolution == 128
    with pytest.raises(NotFoundError, match="no rung at 100 px"):
        daemon.client.infer_tensor("imagenet", b"\0" * (3 * 100 * 100 * 4), (3, 100, 100), "FP32")


def test_measured_costs_are_stored_and_price_the_ladder(daemon: RunningDaemon) -> None:
    profile = daemon.client.profile()
    assert isinstance(profile, Profile)
    cost = {row.resolution: row.median_ms for row in profile.costs}
    assert set(cost) == {224, 192, 160, 128, 96}
    assert min(cost.values()) > 0
    ladder = daemon.client.task("imagenet").ladder
    assert ladder is not None
    assert {rung.resolution: rung.cost_ms for rung in ladder.rungs} == cost


def refused(daemon: RunningDaemon, error: type[PatchdError], pattern: str, body: bytes, **query: object) -> None:
    with pytest.raises(error, match=pattern) as caught:
        daemon.client.request(
            "POST",
            "/v1/tasks/imagenet/infer",
            query=query,  # type: ignore[arg-type]
            body=body,
            content_type="application/octet-stream" if "shape" in query else "image/png",
        )
    assert "Traceback" not in str(caught.value)
    still_serves(daemon)


def test_what_is_no_image_is_refused_in_one_sentence(daemon: RunningDaemon) -> None:
    refused(daemon, BadInputError, "not an image", b"this is a text file")


def test_a_truncated_image_is_refused(daemon: RunningDaemon, photographs: dict[str, Path]) -> None:
    refused(daemon, BadInputError, "truncated", photographs["china"].read_bytes()[:20_000])


def test_a_bomb_of_100_megapixels_is_refused_by_its_header(daemon: RunningDaemon) -> None:
    refused(daemon, TooLargeError, "100", png_header(10_000, 10_000))


def test_a_wrong_shape_is_refused_with_both_sizes(daemon: RunningDaemon) -> None:
    refused(daemon, BadInputError, "1", b"\0" * 10, shape="4,4,3", datatype="UINT8")
    refused(daemon, BadInputError, "shape", b"\0" * 10, shape="4,x,3", datatype="UINT8")
    refused(daemon, BadInputError, "datatype", b"\0" * 48, shape="4,4,3", datatype="INT4")


def test_an_unknown_task_is_named_with_the_known_ones(daemon: RunningDaemon) -> None:
    with pytest.raises(NotFoundError, match=r"no task named 'nope'.*imagenet"):
        daemon.client.infer("nope", b"x")


def test_a_request_of_one_gigabyte_is_refused_before_it_is_read(daemon: RunningDaemon) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.socket))
        raw.sendall(
            b"POST /v1/tasks/imagenet/infer HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            b"Content-Length: 1073741824\r\n\r\n" + b"\0" * 65536
        )
        head = b""
        while piece := raw.recv(65536):
            head += piece
    assert b" 413 " in head.split(b"\r\n")[0]
    assert b"1073741824 bytes" in head
    still_serves(daemon)


def test_a_chunked_gigabyte_is_cut_off_at_the_limit(daemon: RunningDaemon) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.socket))
        raw.settimeout(30)
        raw.sendall(
            b"POST /v1/tasks/imagenet/infer HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"100000\r\n" + b"\0" * 0x100000 + b"\r\n"
        sent = 0
        try:
            for _ in range(1024):
                raw.sendall(piece)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 200
    still_serves(daemon)


@pytest.mark.parametrize(
    ("path", "body", "error", "pattern"),
    [
        ("/v1/tasks", b"{", BadInputError, "not JSON"),
        ("/v1/tasks", b'{"name": "Bad Name"}', BadInputError, "name"),
        ("/v1/tasks", b'{"name": "x", "colour": 1}', BadInputError, "unknown key 'colour'"),
        ("/v1/tasks", b'{"name": "x", "data": "/no/such/folder"}', BadInputError, "/no/such/folder"),
        ("/v1/tasks", b'{"name": "imagenet", "labels": ["a", "b"]}', ConflictError, "exists already"),
        ("/v1/jobs", b'{"task": "nope"}', NotFoundError, "no task named 'nope'"),
        ("/v1/jobs", b'{"task": "imagenet"}', BadInputError, "no data set"),
        ("/v1/jobs/job-x/pause", b"", NotFoundError, "no job 'job-x'"),
        ("/v1/policies/use", b'{"name": "turbo"}', NotFoundError, "turbo.*balanced"),
        ("/v1/policies/use", b"{}", BadInputError, "either"),
        ("/v1/patches", b"not a patch", PatchMismatchError, "safetensors"),
        ("/v1/monitor/trace", b'{"name": "t", "jsonl": "{}"}', TraceError, "t:1"),
        ("/v1/profile", b'{"base": "lite9"}', PatchdError, "lite9"),
    ],
)
def test_each_wrong_request_gets_one_clear_error(
    daemon: RunningDaemon, path: str, body: bytes, error: type[PatchdError], pattern: str
) -> None:
    with pytest.raises(error, match=pattern):
        daemon.client.request("POST", path, body=body, timeout_s=60)
    still_serves(daemon)


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/decisions/none", "/v1/patches/abcd", "/v1/policies/turbo"])
def test_what_does_not_exist_is_said_to_be_missing(daemon: RunningDaemon, path: str) -> None:
    with pytest.raises(NotFoundError):
        daemon.client.request("GET", path)


def test_every_route_of_the_document_exists_and_reads_answer(daemon: RunningDaemon) -> None:
    document = json.loads(daemon.client.request("GET", "/v1/openapi.json"))
    assert document["openapi"].startswith("3.1")
    references = set()

    def collect(node: object) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                references.add(node["$ref"].removeprefix("#/components/schemas/"))
            for child in node.values():
                collect(child)
        elif isinstance(node, list):
            for child in node:
                collect(child)

    collect(document)
    assert references <= set(document["components"]["schemas"])
    for path, operations in document["paths"].items():
        if "get" in operations and "{" not in path and "stream" not in path:
            daemon.client.request("GET", path)


def test_listings_are_the_documented_models(daemon: RunningDaemon) -> None:
    assert isinstance(daemon.client.tasks(), TaskList)
    assert isinstance(daemon.client.policies(), PolicyList)
    assert {policy.name for policy in daemon.client.policies().policies} >= {"balanced", "powersave", "performance"}
    explained = daemon.client.explain()
    assert isinstance(explained, Explain)
    assert explained.sentences


def test_a_task_can_be_added_shown_and_removed(daemon: RunningDaemon) -> None:
    created = daemon.client.add_task(
        TaskCreate(name="kinds", labels=("a", "b"), resolutions=(64, 96), augmentation=("flip",))
    )
    assert created.spec.resolutions == (96, 64)
    assert created.ladder is None
    assert daemon.client.task("kinds").spec.augmentation == ("flip",)
    with pytest.raises(NotFoundError, match="no patch yet"):
        daemon.client.infer("kinds", png_header(8, 8))
    daemon.client.remove_task("kinds")
    with pytest.raises(NotFoundError):
        daemon.client.task("kinds")
    with pytest.raises(ConflictError, match="built in"):
        daemon.client.remove_task("imagenet")


def test_events_are_streamed_as_they_happen(daemon: RunningDaemon) -> None:
    last = daemon.client.events(limit=1).events[-1].id
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(daemon.socket))
        raw.settimeout(10)
        raw.sendall(f"GET /v1/events/stream?since={last} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        raw.recv(4096)
        daemon.client.add_task(TaskCreate(name="heard", labels=("a", "b"), resolutions=(64,)))
        seen = b""
        while b"event: task.added" not in seen:
            seen += raw.recv(4096)
    assert b'"task":"heard"' in seen
    daemon.client.remove_task("heard")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH"]),
    path=st.sampled_from(["/v1/tasks", "/v1/jobs", "/v1/policies/use", "/v1/patches", "/v1/monitor/trace"])
    | st.from_regex(r"/v1/(tasks|jobs|patches|decisions)/[a-z0-9%.-]{1,20}(/infer|/pause)?", fullmatch=True),
    body=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_no_request_is_answered_with_an_internal_error(
    daemon: RunningDaemon, method: str, path: str, body: bytes
) -> None:
    try:
        daemon.client.request(method, path, body=body)
    except PatchdError as error:
        assert error.code != "internal", str(error)


def test_every_route_stands_in_the_documentation(daemon: RunningDaemon) -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    document = json.loads(daemon.client.request("GET", "/v1/openapi.json"))
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in text, f"{method} {path} is not in docs/api.md"
