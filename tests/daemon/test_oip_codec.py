"""The wire format of the Open Inference Protocol: what is sent comes out, and nothing that is sent raises otherwise."""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.api.oip_codec import (
    COMPRESS_FROM_BYTES,
    MAX_JSON_BYTES,
    InferenceResponse,
    Output,
    Request,
    compress,
    decode,
    decompress,
    encode,
)
from patchd.policies.errors import BadInputError, TooLargeError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)
ZIPPED = gzip.compress(b"abc", mtime=0)  # the same bytes in every test process


def nested(values: list[Any], shape: list[int]):
    """Flat values in the form of a shape."""
    if len(shape) <= 1:
        return values
    size = math.prod(shape[1:])
    return [nested(values[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """A tensor as a client holds it, and the forms in which to send it."""
    shape = draw(SHAPES)
    count = math.prod(shape)
    datatype = draw(st.sampled_from(["UINT8", "FP32", "BYTES"]))
    form = draw(st.sampled_from(["binary", "flat", "nested"]))
    element = {
        "UINT8": st.integers(0, 255),
        "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "BYTES": st.binary(max_size=5) if form == "binary" else st.text(max_size=5).map(str.encode),
    }[datatype]
    values = draw(st.lists(element, min_size=count, max_size=count))
    return {"shape": shape, "datatype": datatype, "form": form, "values": values}


def packed(tensor: dict[str, Any]) -> bytes:
    values, datatype = tensor["values"], tensor["datatype"]
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    return bytes(values) if datatype == "UINT8" else b"".join(struct.pack("<f", value) for value in values)


def request_of(sent: list[dict[str, Any]], **more: object) -> tuple[bytes, str | None]:
    """A request as clients write it: its body and the length of its JSON, where something follows that."""
    inputs, tail = [], b""
    for number, tensor in enumerate(sent):
        described = {"name": f"x{number}", "shape": tensor["shape"], "datatype": tensor["datatype"]}
        if tensor["form"] == "binary":
            described["parameters"] = {"binary_data_size": len(packed(tensor))}
            tail += packed(tensor)
        else:
            values = [value.decode() if isinstance(value, bytes) else value for value in tensor["values"]]
            described["data"] = values if tensor["form"] == "flat" else nested(values, tensor["shape"])
        inputs.append(described)
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + tail, str(len(head)) if any(tensor["form"] == "binary" for tensor in sent) else None


@given(st.lists(tensors(), min_size=1, max_size=4))
def test_tensors_come_out_as_they_were_sent_in_every_mixture_of_forms(sent: list[dict[str, Any]]) -> None:
    body, length = request_of(sent, id="a")
    request = decode(body, length, "image")
    assert request.id == "a"
    for tensor, found in zip(sent, request.inputs, strict=True):
        assert (list(found.shape), found.datatype) == (tensor["shape"], tensor["datatype"])
        if tensor["datatype"] == "BYTES":
            assert found.elements == tuple(tensor["values"])
            assert found.text == (tensor["form"] != "binary")
        else:
            assert found.data == packed(tensor)


@given(st.binary(max_size=300), st.none() | st.integers(0, 400).map(str) | st.text(max_size=6))
def test_any_bytes_are_a_request_or_refused(body: bytes, length: str | None) -> None:
    try:
        decode(body, length, "image")
    except BadInputError as error:
        assert str(error)


@given(JSON, st.booleans())
def test_any_json_is_a_request_or_refused(value: object, with_length: bool) -> None:
    body = json.dumps(value).encode()
    try:
        decode(body, str(len(body)) if with_length else None, "image")
    except BadInputError as error:
        assert str(error)


@given(
    st.fixed_dictionaries(
        {"name": st.just("x"), "shape": SHAPES | JSON, "datatype": st.sampled_from(["UINT8", "FP32", "BYTES", "FP64"])},
        optional={"data": JSON, "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20) | JSON})},
    ),
    st.binary(max_size=20),
)
def test_any_tensor_is_taken_or_refused(described: dict[str, Any], tail: bytes) -> None:
    head = json.dumps({"inputs": [described]}).encode()
    try:
        decode(head + tail, str(len(head)), "image")
    except BadInputError as error:
        assert str(error)


def one(**described: object) -> bytes:
    return json.dumps({"inputs": [{"name": "x", "shape": [2], "datatype": "UINT8", **described}]}).encode()


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"", "body is not JSON"),
        (b"[" * 100_000, "recursion"),
        (b'{"inputs": []', "body is not JSON"),
        (b"{}", "lacks the key 'inputs'"),
        (one(shape=[-2], data=[1, 2]), "inputs.0.shape.0"),
        (one(shape=[2.0], data=[1, 2]), "inputs.0.shape.0"),
        (one(shape=[2**40], data=[1, 2]), "inputs.0.shape.0"),
        (one(shape=[1] * 9, data=[1]), "inputs.0.shape"),
        (one(), "'x' has neither 'data' nor"),
        (one(data=[1, 2], parameters={"binary_data_size": 2}), "'x' has both"),
        (one(parameters={"binary_data_size": 2}), "lacks the header Inference-Header-Content-Length"),
        (one(parameters={"binary_data_size": True}), "no number of bytes"),
        (one(parameters={"shared_memory_region": "r"}), "shared memory"),
        (one(datatype="FP64", data=[1, 2]), "'x' has the datatype 'FP64'"),
        (one(data=[1, 2, 3]), r"shape \[2\], but 3 values"),
        (one(data=[[1], [2]]), "'x' is UINT8"),
        (one(shape=[2, 2], data=[[1, 2, 3], [4]]), "nested otherwise"),
        (one(shape=[2, 2], data=[[1, 2], 3, 4]), "nested otherwise"),
        (one(data=[1, 256]), "beyond the range of UINT8"),
        (one(data=[1, 2.0]), "'x' is UINT8"),
        (one(data=[True, False]), "'x' is UINT8"),
        (one(datatype="FP32", data=[0, 1e39]), "beyond the range of FP32"),
        (one(datatype="FP32", data=[0, 10**400]), "beyond the range of FP32"),
        (one(datatype="FP32", data=[0, math.inf]), "not finite"),
        (one(datatype="FP32", data=[0, math.nan]), "not finite"),
        (one(datatype="FP32", data=[0, 1]).replace(b"1]", b"1e999]"), "not finite"),
        (one(datatype="BYTES", data=["a", 1]), "not all strings"),
        (one(datatype="BYTES", data=["a", "b"]).replace(b'"b"', b'"\\ud800"'), "body is not JSON"),
        (json.dumps({"inputs": [], "outputs": [{"name": "y"}, {"name": "y"}]}).encode(), "'y' is asked for twice"),
        (json.dumps({"inputs": [], "parameters": {"binary_data_output": 1}}).encode(), "'binary_data_output'"),
        (
            json.dumps({"inputs": [], "outputs": [{"name": "y", "parameters": {"binary_data": "no"}}]}).encode(),
            "'y' has the parameter 'binary_data'",
        ),
        (
            json.dumps({"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}).encode(),
            "'classification', which is not offered",
        ),
        (
            json.dumps({"inputs": [{"name": "x", "shape": [0], "datatype": "UINT8", "data": []}] * 2}).encode(),
            "'x' is given twice",
        ),
    ],
)
def test_what_is_malformed_is_named(body: bytes, sentence: str) -> None:
    with pytest.raises(BadInputError, match=sentence):
        decode(body, None, "image")


@pytest.mark.parametrize(
    ("described", "tail", "sentence"),
    [
        ({"parameters": {"binary_data_size": 2}}, b"a", "2 bytes of binary data, but 1 are left"),
        ({"parameters": {"binary_data_size": 2}}, b"abc", "1 bytes follow"),
        ({"parameters": {"binary_data_size": 3}}, b"abc", "takes 2 bytes of UINT8; 3 were sent"),
        ({"data": [1, 2]}, b"a", "1 bytes follow"),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 2}}, b"ab", "within the length of element 0"),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 5}}, b"\2\0\0\0a", "within element 0"),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 4}}, b"\0\0\0\0", "takes 2 elements"),
        ({"datatype": "BYTES", "parameters": {"binary_data_size": 12}}, b"\0" * 12, "takes 2 elements"),
    ],
)
def test_binary_data_of_another_size_are_named(described: dict[str, Any], tail: bytes, sentence: str) -> None:
    head = one(**described)
    with pytest.raises(BadInputError, match=sentence):
        decode(head + tail, str(len(head)), "image")


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "٣", "9" * 30])
def test_a_header_length_that_is_no_number_is_refused(length: str) -> None:
    with pytest.raises(BadInputError, match="no number of bytes"):
        decode(one(data=[1, 2]), length, "image")


def test_a_header_longer_than_the_body_is_refused() -> None:
    with pytest.raises(BadInputError, match="is 900, but the body is"):
        decode(one(data=[1, 2]), "900", "image")


def test_json_of_too_many_bytes_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(TooLargeError, match="binary form"):
        decode(b" " * (MAX_JSON_BYTES + 1), None, "image")


@given(st.binary(max_size=50))
def test_a_header_of_length_0_makes_the_body_one_element_of_the_raw_input(body: bytes) -> None:
    request = decode(body, "0", "image")
    (tensor,) = request.inputs
    assert (tensor.name, tensor.shape, tensor.elements, tensor.text) == ("image", (1,), (body,), False)
    assert request.binary("label")


@given(
    st.lists(st.tuples(st.sampled_from(["FP32", "INT32", "BYTES"]), st.booleans()), min_size=1, max_size=4),
    st.booleans(),
    st.data(),
)
def test_outputs_are_read_back_as_they_were_in_every_mixture_of_forms(
    forms: list[tuple[Any, bool]], default: bool, data: st.DataObject
) -> None:
    element: dict[str, st.SearchStrategy[Any]] = {
        "FP32": st.floats(width=32, allow_nan=False, allow_infinity=False),
        "INT32": st.integers(-(2**31), 2**31 - 1),
        "BYTES": st.text(max_size=5),
    }
    outputs = [
        Output(f"y{i}", datatype, (len(values),), values)
        for i, (datatype, _) in enumerate(forms)
        for values in [data.draw(st.lists(element[datatype], max_size=4))]
    ]
    asked = {f"y{i}": binary for i, (_, binary) in enumerate(forms) if binary != default}
    answer = InferenceResponse(model_name="m", model_version="1", id="a", outputs=())
    body, length = encode(answer, outputs, Request((), outputs=asked, binary_output=default))
    assert (length is None) == (not any(binary for _, binary in forms))
    head = json.loads(body[:length])
    tail = b"" if length is None else body[length:]
    assert (head["model_name"], head["id"]) == ("m", "a")
    for output, (datatype, binary), described in zip(outputs, forms, head["outputs"], strict=True):
        assert (described["name"], described["datatype"]) == (output.name, datatype)
        assert described["shape"] == list(output.shape)
        if not binary:
            assert described["data"] == output.values
            continue
        size = described["parameters"]["binary_data_size"]
        piece, tail = tail[:size], tail[size:]
        assert piece == packed_output(output)
    assert tail == b""


def packed_output(output: Output) -> bytes:
    if output.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(str(v).encode())) + str(v).encode() for v in output.values)
    return b"".join(struct.pack("<f" if output.datatype == "FP32" else "<i", v) for v in output.values)


@given(st.binary(max_size=2000))
def test_compressed_bodies_come_out_as_they_were(body: bytes) -> None:
    assert decompress(gzip.compress(body), "gzip", 4000) == body
    assert decompress(zlib.compress(body), "Deflate", 4000) == body
    assert decompress(body, "identity", 4000) == decompress(body, "", 4000) == body


@given(st.binary(max_size=100), st.sampled_from(["gzip", "deflate", "br", "gzip, gzip"]))
def test_any_bytes_are_decompressed_or_refused(body: bytes, encoding: str) -> None:
    try:
        decompress(body, encoding, 1000)
    except (BadInputError, TooLargeError) as error:
        assert str(error)


def test_a_bomb_is_refused_at_the_limit() -> None:
    bomb = zlib.compress(b"\0" * 50_000_000, 9)
    with pytest.raises(TooLargeError, match="over 1000000 bytes"):
        decompress(bomb, "deflate", 1_000_000)
    assert decompress(gzip.compress(b"a" * 1000), "gzip", 1000) == b"a" * 1000
    with pytest.raises(TooLargeError):
        decompress(gzip.compress(b"a" * 1001), "gzip", 1000)


@pytest.mark.parametrize("body", [ZIPPED[:-1], ZIPPED + b"x", b""])
def test_what_is_not_one_whole_stream_is_refused(body: bytes) -> None:
    with pytest.raises(BadInputError, match="not one whole gzip stream"):
        decompress(body, "gzip", 1000)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("", None),
        ("br", None),
        ("gzip", "gzip"),
        ("br, Deflate", "deflate"),
        ("gzip;q=0", None),
        ("gzip; q=0.0, deflate;q=0.5", "deflate"),
    ],
)
def test_an_answer_is_compressed_as_the_client_accepts(accepted: str, encoding: str | None) -> None:
    body = b"a" * COMPRESS_FROM_BYTES
    found, name = compress(body, accepted)
    assert name == encoding
    assert decompress(found, name or "", len(body)) == body
    assert compress(body[1:], accepted) == (body[1:], None)
