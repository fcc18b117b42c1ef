"""The Open Inference Protocol against a real daemon, over the Unix socket and over TCP."""

from __future__ import annotations

import base64
import gzip
import http.client
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patchd.daemon.api.schemas import TaskCreate
from PIL import Image
from running import RunningDaemon, warm

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/imagenet/infer"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        length = self.headers.get(LENGTH.lower())
        return json.loads(self.body[: None if length is None else int(length)])

    def tensors(self) -> dict[str, list[Any]]:
        """The outputs by name, whichever form they came in."""
        found = {}
        offset = int(self.headers.get(LENGTH.lower(), 0))
        for output in self.json["outputs"]:
            if "data" in output:
                found[output["name"]] = output["data"]
                continue
            size = output["parameters"]["binary_data_size"]
            piece, offset = self.body[offset : offset + size], offset + size
            found[output["name"]] = unpacked(piece, output["datatype"])
        return found


def unpacked(data: bytes, datatype: str) -> list[Any]:
    if datatype != "BYTES":
        return list(struct.unpack(f"<{len(data) // 4}{'f' if datatype == 'FP32' else 'i'}", data))
    found, offset = [], 0
    while offset < len(data):
        (size,) = struct.unpack_from("<I", data, offset)
        found.append(data[offset + 4 : offset + 4 + size].decode())
        offset += 4 + size
    return found


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, Any] | None = None,
) -> Answer:
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that serves on TCP as well, at a port that is free."""
    folder = tmp_path_factory.mktemp("oip")
    (folder / "patchd.toml").write_text('listen = "127.0.0.1:0"\nmax_body_bytes = 4000000\n')
    with RunningDaemon(warm(folder / "state"), "--config", str(folder / "patchd.toml")) as running:
        running.client.add_task(TaskCreate(name="untrained", labels=("a", "b"), resolutions=(64,)))
        yield running


@pytest.fixture(scope="module")
def port(daemon: RunningDaemon) -> int:
    address, _, port = str(daemon.client.status().listen).rpartition(":")
    assert address == "127.0.0.1"
    return int(port)


@pytest.fixture(params=["unix", "tcp"])
def v2(request: pytest.FixtureRequest, daemon: RunningDaemon, port: int):
    """Asks the daemon over one of its listeners."""

    def asked(method: str, path: str, body: bytes = b"", headers: dict[str, Any] | None = None) -> Answer:
        tcp = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        return ask(tcp if request.param == "tcp" else UnixConnection(daemon.socket), method, path, body, headers)

    return asked


@pytest.fixture
def unix(daemon: RunningDaemon):
    """Asks the daemon over its Unix socket."""
    return lambda *request: ask(UnixConnection(daemon.socket), *request)


@pytest.fixture(scope="module")
def flower(photographs: dict[str, Path]) -> bytes:
    return photographs["flower"].read_bytes()


def binary(inputs: list[tuple[dict[str, Any], bytes]], **more: object) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request whose inputs are in binary form."""
    described = [{**tensor, "parameters": {"binary_data_size": len(data)}} for tensor, data in inputs]
    head = json.dumps({"inputs": described, **more}).encode()
    return head + b"".join(data for _, data in inputs), {LENGTH: str(len(head))}


def image_input(*images: bytes) -> tuple[dict[str, Any], bytes]:
    data = b"".join(struct.pack("<I", len(image)) + image for image in images)
    return {"name": "image", "shape": [len(images)], "datatype": "BYTES"}, data


def in_json(tensor: dict[str, Any], **more: object) -> bytes:
    return json.dumps({"inputs": [tensor], **more}).encode()


def pixels(image: bytes, size: tuple[int, int] = (64, 48)) -> tuple[dict[str, Any], bytes]:
    small = Image.open(io.BytesIO(image)).convert("RGB").resize(size)
    return {"name": "pixels", "shape": [size[1], size[0], 3], "datatype": "UINT8"}, small.tobytes()


# what serves here


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
def test_the_server_names_its_extensions_without_a_redirect(v2, path: str) -> None:
    answer = v2("GET", path)
    assert answer.status == 200
    assert answer.json["name"] == "patchd"
    assert "binary_tensor_data" in answer.json["extensions"]


def test_health_is_live_and_ready(v2) -> None:
    for end in ("live", "ready"):
        answer = v2("GET", f"/v2/health/{end}")
        assert (answer.status, answer.json) == (200, {"live": True, "ready": True})


@pytest.mark.parametrize("prefix", ["/v2/models/imagenet", "/v2/models/imagenet/versions/1", "/v2/models/imagen%65t"])
def test_a_model_tells_its_tensors_readiness_configuration_and_statistics(v2, prefix: str) -> None:
    told = v2("GET", prefix).json
    assert (told["name"], told["versions"], told["platform"]) == ("imagenet", ["1"], "patchd_lite0")
    assert {one["name"]: (one["datatype"], one["shape"]) for one in told["inputs"]} == {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8", [-1, -1, -1, 3]),
        "input": ("FP32", [-1, 3, -1, -1]),
    }
    assert {one["name"]: (one["datatype"], one["shape"]) for one in told["outputs"]} == {
        "probabilities": ("FP32", [-1, 1000]),
        "label": ("BYTES", [-1]),
        "index": ("INT32", [-1]),
    }
    assert v2("GET", f"{prefix}/ready").json == {"name": "imagenet", "ready": True}
    config = v2("GET", f"{prefix}/config").json
    assert config["max_batch_size"] == 0
    assert [one["data_type"] for one in config["input"]] == ["TYPE_STRING", "TYPE_UINT8", "TYPE_FP32"]
    assert v2("GET", f"{prefix}/stats").json["model_stats"][0]["name"] == "imagenet"


def test_a_task_without_a_patch_is_a_model_that_is_not_ready(v2, unix) -> None:
    assert v2("GET", "/v2/models").json == {"models": ["imagenet", "untrained"]}
    assert v2("GET", "/v2/models/untrained").status == 200
    ready = v2("GET", "/v2/models/untrained/ready")
    assert (ready.status, ready.json["ready"]) == (503, False)
    assert "no patch yet" in ready.json["error"]
    listed = {model["name"]: model for model in v2("POST", "/v2/repository/index").json}
    assert {name: model["state"] for name, model in listed.items()} == {"imagenet": "READY", "untrained": "UNAVAILABLE"}
    assert "patchctl train submit --task untrained" in listed["untrained"]["reason"]
    assert [model["name"] for model in v2("POST", "/v2/repository/index", b'{"ready": true}').json] == ["imagenet"]
    load = unix("POST", "/v2/repository/models/untrained/load")
    assert (load.status, "no patch yet" in load.json["error"]) == (400, True)


def test_loading_starts_the_worker_and_unloading_is_refused(daemon: RunningDaemon, unix) -> None:
    assert unix("POST", "/v2/repository/models/imagenet/load", b'{"parameters": {}}').status == 200
    assert daemon.client.status().workers[0].state == "ready"
    assert unix("POST", "/v2/repository/index").json[0]["reason"] == "its worker runs"
    for path, body, sentence in (
        ("load", b'{"parameters": {"config": "{}"}}', "'config' is not offered"),
        ("unload", b"", "patchctl task remove imagenet"),
    ):
        answer = unix("POST", f"/v2/repository/models/imagenet/{path}", body)
        assert answer.status == 400
        assert sentence in answer.json["error"]


# predictions


def test_an_encoded_image_is_classified_with_all_outputs_and_its_decision_told(v2, flower: bytes) -> None:
    body, headers = binary([image_input(flower)], id="mine")
    answer = v2("POST", INFER, body, headers)
    told = answer.json
    assert (answer.status, told["model_name"], told["model_version"], told["id"]) == (200, "imagenet", "1", "mine")
    assert [(one["name"], one["shape"]) for one in told["outputs"]] == [
        ("probabilities", [1, 1000]),
        ("label", [1]),
        ("index", [1]),
    ]
    found = answer.tensors()
    assert found["label"] == ["daisy"]
    assert found["index"] == [985]
    assert max(found["probabilities"]) == found["probabilities"][985]
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-3)
    parameters = told["parameters"]
    assert parameters["patchd_resolution"] in (96, 128, 160, 192, 224)
    assert parameters["patchd_total_ms"] > 0
    assert all(parameters[f"patchd_{key}"] for key in ("decision_id", "engine", "request_id", "why"))


def test_image_pixels_and_json_forms_agree(v2, flower: bytes) -> None:
    tensor, data = pixels(flower)
    encoded = io.BytesIO()
    Image.frombytes("RGB", (64, 48), data).save(encoded, "PNG")
    png = encoded.getvalue()
    more = {"parameters": {"resolution": 96}, "outputs": [{"name": "probabilities"}]}
    rows = [data[i : i + 192] for i in range(0, len(data), 192)]
    nested = [[list(row[j : j + 3]) for j in range(0, 192, 3)] for row in rows]
    forms = [
        binary([(tensor, data)], **more),
        binary([({**tensor, "shape": [1, 48, 64, 3]}, data)], **more),
        binary([image_input(png)], **more),
        (in_json({**tensor, "data": list(data)}, **more), {}),
        (in_json({**tensor, "data": nested}, **more), {"Content-Type": "application/octet-stream"}),
        (in_json({**image_input(png)[0], "shape": [1, 1], "data": [[base64.b64encode(png).decode()]]}, **more), {}),
    ]
    answers = [v2("POST", INFER, *form) for form in forms]
    assert [answer.status for answer in answers] == [200] * len(forms)
    assert {answer.json["parameters"]["patchd_resolution"] for answer in answers} == {96}
    first = answers[0].tensors()["probabilities"]
    assert all(answer.tensors()["probabilities"] == first for answer in answers)


def test_a_finished_input_goes_to_the_rung_of_its_own_resolution(v2) -> None:
    tensor = {"name": "input", "shape": [2, 3, 128, 128], "datatype": "FP32"}
    data = struct.pack("<f", 0.25) * (3 * 128 * 128) + struct.pack("<f", -0.5) * (3 * 128 * 128)
    answer = v2("POST", INFER, *binary([(tensor, data)]))
    assert answer.json["parameters"]["patchd_resolution"] == 128
    both = answer.tensors()["probabilities"]
    for part, sent in ((both[:1000], data[: len(data) // 2]), (both[1000:], data[len(data) // 2 :])):
        alone = v2("POST", INFER, *binary([({**tensor, "shape": [3, 128, 128]}, sent)]))
        assert alone.tensors()["probabilities"] == pytest.approx(part, abs=1e-5)


def test_a_batch_is_answered_in_order(v2, photographs: dict[str, Path], flower: bytes) -> None:
    china = photographs["china"].read_bytes()
    more = {"outputs": [{"name": "index"}, {"name": "label"}], "parameters": {"patchd_resolution": 160}}
    labels = v2("POST", INFER, *binary([image_input(flower, china, flower)], **more)).tensors()["label"]
    alone = [v2("POST", INFER, *binary([image_input(one)], **more)).tensors()["label"][0] for one in (flower, china)]
    assert labels == [alone[0], alone[1], alone[0]]


def test_a_raw_body_is_one_image_and_answered_in_binary_form(v2, flower: bytes) -> None:
    answer = v2("POST", INFER, flower, {LENGTH: "0"})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.tensors()["label"] == ["daisy"]


def test_each_output_comes_in_the_form_that_was_asked_for(v2, flower: bytes) -> None:
    outputs = [
        {"name": "index", "parameters": {"binary_data": False}},
        {"name": "label"},
        {"name": "probabilities", "parameters": {"binary_data": True}},
    ]
    body, headers = binary([image_input(flower)], outputs=outputs, parameters={"binary_data_output": True})
    answer = v2("POST", INFER, body, headers)
    assert ["data" in one for one in answer.json["outputs"]] == [True, False, False]
    assert answer.tensors()["index"] == [985]
    assert answer.tensors()["label"] == ["daisy"]
    json_only = v2("POST", INFER, *binary([image_input(flower)], outputs=outputs[:2]))
    assert LENGTH.lower() not in json_only.headers
    assert json_only.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_are_compressed_both_ways(v2, flower: bytes, encoding: str, pack) -> None:
    body, headers = binary([image_input(flower)], parameters={"binary_data_output": True})
    sent = {**headers, "Content-Encoding": encoding, "Accept-Encoding": encoding}
    answer = v2("POST", INFER, pack(body), sent)
    assert answer.headers["content-encoding"] == encoding
    answer.body = zlib.decompress(answer.body, 47)
    assert answer.tensors()["label"] == ["daisy"]


def test_parameters_wish_and_foreign_ones_pass(v2, flower: bytes) -> None:
    foreign = {"priority": 1, "sequence_id": 7, "headers": {"a": 1}, "triton_enable_empty": True, "max_energy_mj": 3}
    body, headers = binary([image_input(flower)], parameters={**foreign, "patchd_resolution": 128, "timeout": 0})
    answer = v2("POST", INFER, body, headers)
    assert answer.json["parameters"]["patchd_resolution"] == 128
    for short in ({"deadline_ms": 0.01}, {"patchd_deadline_ms": 0.01}, {"timeout": 1, "deadline_ms": 60000}):
        late = v2("POST", INFER, *binary([image_input(flower)], parameters=short))
        assert late.status == 504
        assert "deadline" in late.json["error"]


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"resolution": "160"}, "'resolution' is '160'"),
        ({"resolution": True}, "'resolution' is True"),
        ({"resolution": 160.5}, "whole number"),
        ({"resolution": -1}, "whole number"),
        ({"resolution": 160, "patchd_resolution": 160}, "mean the same"),
        ({"patchd_min_accuracy": 2}, "share from 0 to 1"),
        ({"min_accuracy": [1]}, "'min_accuracy'"),
        ({"deadline_ms": 0}, "above 0"),
        ({"cascade": 1}, "'cascade' is 1; it must be true or false"),
        ({"patchd_cascade": "no"}, "'patchd_cascade' is 'no'"),
        ({"cascade": False, "patchd_cascade": False}, "mean the same"),
        ({"timeout": "soon"}, "microseconds"),
        ({"priority": "high"}, "1 (highest)"),
        ({"priority": -1}, "1 (highest)"),
        ({"priority": 0.5}, "1 (highest)"),
        ({"timeout": -1}, "microseconds"),
        ({"timeout": 1.5}, "microseconds"),
        ({"binary_data_output": "yes"}, "binary_data_output"),
    ],
)
def test_a_parameter_of_a_wrong_kind_is_named(unix, flower: bytes, parameters: dict[str, Any], sentence: str) -> None:
    answer = unix("POST", INFER, *binary([image_input(flower)], parameters=parameters))
    assert answer.status == 400
    assert sentence in answer.json["error"]


# errors


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("GET", "/v2/nothing", 404, "nothing at /v2/nothing"),
        ("PUT", "/v2", 404, "does not take PUT"),
        ("GET", "/v2/models/nope", 404, "no task named 'nope'"),
        ("GET", "/v2/models/nope/ready", 404, "Known tasks: imagenet"),
        ("GET", "/v2/models/imagenet/versions/2", 404, "no version '2'"),
        ("POST", "/v2/models/imagenet/versions/2/infer", 404, "The only one is 1"),
        ("POST", INFER, 400, "not JSON"),
        ("POST", "/v2/models/untrained/infer", 400, "not JSON"),
    ],
)
def test_every_error_is_a_sentence_under_the_key_error(v2, method: str, path: str, status: int, sentence: str) -> None:
    answer = v2(method, path)
    assert answer.status == status
    assert sentence in answer.json["error"]


IMAGE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["AAAA"]}


@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        ({**IMAGE, "name": "picture"}, "no input 'picture'"),
        ({**IMAGE, "datatype": "UINT8", "data": [1]}, "'image' is UINT8; it must be BYTES"),
        ({**IMAGE, "shape": [1, 1, 1]}, "must be [N] or [N, 1]"),
        ({**IMAGE, "data": ["not base64!"]}, "Element 0 of the input 'image' is not base64"),
        ({**IMAGE}, "not an image"),
        ({**IMAGE, "shape": [0], "data": []}, "holds 0 samples"),
        ({**IMAGE, "shape": [65], "data": ["AAAA"] * 65}, "holds 65 samples"),
        ({"name": "pixels", "shape": [1, 1], "datatype": "UINT8", "data": [1]}, "must be [N, H, W, 3] or [H, W, 3]"),
        ({"name": "pixels", "shape": [0, 1, 3], "datatype": "UINT8", "data": []}, "must be [N, H, W, 3]"),
        ({"name": "pixels", "shape": [0, 1, 1, 3], "datatype": "UINT8", "data": []}, "holds 0 samples"),
        ({"name": "input", "shape": [3, 1, 2], "datatype": "FP32", "data": [0] * 6}, "must be [N, 3, R, R]"),
        ({"name": "input", "shape": [3, 1, 1], "datatype": "FP32", "data": [0] * 3}, "no rung at 1 px"),
    ],
)
def test_an_input_that_does_not_fit_is_named(unix, tensor: dict[str, Any], sentence: str) -> None:
    answer = unix("POST", INFER, in_json(tensor))
    assert answer.status in (400, 404)
    assert sentence in answer.json["error"]


def test_a_finished_input_that_is_not_finite_is_refused(unix) -> None:
    tensor = {"name": "input", "shape": [3, 96, 96], "datatype": "FP32"}
    answer = unix("POST", INFER, *binary([(tensor, struct.pack("<f", float("nan")) * (3 * 96 * 96))]))
    assert answer.status == 400
    assert "not finite" in answer.json["error"]


def test_requests_of_no_or_two_inputs_and_unknown_outputs_are_refused(unix, flower: bytes) -> None:
    answer = unix("POST", INFER, *binary([image_input(flower), pixels(flower)]))
    assert (answer.status, "exactly one" in answer.json["error"]) == (400, True)
    assert "exactly one" in unix("POST", INFER, b'{"inputs": []}').json["error"]
    unknown = unix("POST", INFER, *binary([image_input(flower)], outputs=[{"name": "logits"}]))
    assert (unknown.status, "no output 'logits'" in unknown.json["error"]) == (400, True)


def test_the_sample_that_spoils_a_batch_is_named_and_nothing_stays_in_flight(daemon, unix, flower: bytes) -> None:
    answer = unix("POST", INFER, *binary([image_input(flower, b"no image", *[flower] * 10)]))
    assert answer.status == 400
    assert answer.json["error"].startswith("Sample 2 of 12: ")
    assert daemon.client.status().workers[0].in_flight == 0


def test_a_body_that_is_too_large_once_decompressed_is_refused(unix) -> None:
    bomb = gzip.compress(b"a" * 5_000_000)
    answer = unix("POST", INFER, bomb, {LENGTH: "0", "Content-Encoding": "gzip"})
    assert (answer.status, "decompressed" in answer.json["error"]) == (413, True)
    unknown = unix("POST", INFER, b"abc", {LENGTH: "0", "Content-Encoding": "br"})
    assert (unknown.status, "Content-Encoding 'br'" in unknown.json["error"]) == (400, True)


def test_statistics_count_what_came_in(unix, flower: bytes) -> None:
    def now() -> dict[str, Any]:
        return unix("GET", "/v2/models/imagenet/stats").json["model_stats"][0]

    before = now()
    unix("POST", INFER, *binary([image_input(flower, flower)]))
    unix("POST", INFER, b"{}")
    after = now()
    assert after["inference_count"] == before["inference_count"] + 2
    for outcome in ("success", "fail"):
        assert after["inference_stats"][outcome]["count"] == before["inference_stats"][outcome]["count"] + 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    everyone = unix("GET", "/v2/models/stats").json["model_stats"]
    assert [one["name"] for one in everyone] == ["imagenet", "untrained"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "POST", "DELETE"]),
    path=st.from_regex(
        r"/v2/(models|repository|health)(/imagenet|/untrained|/index)?"
        r"(/versions/[0-9a%]{1,3})?(/infer|/ready|/stats|/load|/[a-z%0-9]{1,4})?",
        fullmatch=True,
    ),
    body=st.binary(max_size=100)
    | st.dictionaries(st.sampled_from(["inputs", "outputs", "parameters", "id"]), st.lists(st.text()) | st.none()).map(
        lambda value: json.dumps(value).encode()
    ),
    length=st.none() | st.integers(-1, 120),
    encoding=st.sampled_from(["", "gzip", "deflate"]),
)
def test_no_request_is_answered_with_an_internal_error(unix, method, path, body, length, encoding) -> None:
    headers = {} if length is None else {LENGTH: str(length)}
    answer = unix(method, path, body, headers | ({"Content-Encoding": encoding} if encoding else {}))
    assert answer.status != 500, answer.body
    if answer.status not in (200, 307):
        assert answer.json["error"]


def test_the_openapi_document_holds_the_protocol(unix) -> None:
    document = unix("GET", "/v1/openapi.json").json
    infer = document["paths"]["/v2/models/{model}/infer"]["post"]
    assert set(infer["requestBody"]["content"]) == {"application/json", "application/octet-stream"}
    assert "inputs" in document["components"]["schemas"]["InferenceRequest"]["properties"]


# TCP


def test_the_start_tells_where_it_listens(daemon: RunningDaemon, port: int) -> None:
    started = [event for event in daemon.client.events(limit=1000).events if event.kind == "daemon.started"]
    assert started[0].message.startswith(f"patchd serves on {daemon.socket} and 127.0.0.1:{port} under")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v2/repository/models/imagenet/load", b""),
        ("POST", "/v2/repository/models/imagenet/unload", b""),
        ("POST", "/v1/tasks", b'{"name": "x", "labels": ["a", "b"]}'),
        ("DELETE", "/v1/tasks/untrained", b""),
        ("POST", "/v1/jobs", b"{}"),
        ("POST", "/v1/policies/use", b'{"name": "powersave"}'),
        ("POST", "/v1/patches", b""),
        ("DELETE", "/v1/monitor/trace", b""),
    ],
)
def test_nothing_is_changed_over_tcp(port: int, method: str, path: str, body: bytes) -> None:
    answer = ask(http.client.HTTPConnection("127.0.0.1", port), method, path, body)
    assert answer.status == 403
    assert "an unknown caller may not do this" in answer.json["error"]


def test_reading_and_predicting_over_tcp_works_for_v1_too(port: int, flower: bytes) -> None:
    assert ask(http.client.HTTPConnection("127.0.0.1", port), "GET", "/v1/status").status == 200
    answer = ask(http.client.HTTPConnection("127.0.0.1", port), "POST", "/v1/tasks/imagenet/infer", flower)
    assert answer.json["predictions"][0]["label"] == "daisy"


def told(port: int, *headers: str) -> tuple[int, bytes]:
    """The status of a request with exactly these headers, and its body."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        raw.sendall("\r\n".join(["GET /v2/health/live HTTP/1.1", *headers, "Connection: close", "", ""]).encode())
        answer = b""
        while piece := raw.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer


def test_only_our_own_names_are_taken_as_host(port: int) -> None:
    for host in (f"localhost:{port}", f"LOCALHOST:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert told(port, f"Host: {host}")[0] == 200
    for host in ("evil.example", f"evil.example:{port}", "localhost", "127.0.0.1:1", f"localhost.evil.example:{port}"):
        status, body = told(port, f"Host: {host}")
        assert status == 403
        assert b'"error":"The Host of this request is' in body
    assert told(port, f"Host: localhost:{port}", "Host: evil.example")[0] in (400, 403)
    assert told(port)[0] in (400, 403)


def test_pages_of_other_places_are_refused(port: int) -> None:
    host = f"Host: localhost:{port}"
    assert told(port, host, f"Origin: http://127.0.0.1:{port}")[0] == 200
    for origin in ("https://evil.example", f"https://localhost:{port}", "http://localhost:1", "null", ""):
        assert told(port, host, f"Origin: {origin}")[0] == 403


def test_the_unix_socket_takes_any_host(unix) -> None:
    assert unix("GET", "/v2", b"", {"Host": "whatever.example", "Origin": "null"}).status == 200


def test_a_daemon_listens_on_ipv6_too(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    (tmp_path / "patchd.toml").write_text('listen = "[::1]:0"\n')
    with RunningDaemon(tmp_path / "state", "--config", str(tmp_path / "patchd.toml")) as running:
        address, _, port = str(running.client.status().listen).rpartition(":")
        assert address == "[::1]"
        assert ask(http.client.HTTPConnection("::1", int(port)), "GET", "/v2").status == 200
