"""The wire format of the Open Inference Protocol: JSON with tensors in it, or JSON followed by tensors in binary form.

Pure: bytes in, tensors out, and back. What a model's tensors mean is said in `oip_model`. The binary form is Triton's
binary tensor data extension: tensors follow the JSON in the order in which it lists them, little-endian and row-major.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...policies.errors import BadInputError, TooLargeError
from .routing import explain_validation

HEADER_LENGTH = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 16 * 1024 * 1024  # parsed, JSON takes up to twenty times its size in memory
MAX_DIMENSIONS = 8
MAX_TENSORS = 64  # with fail_fast, so that a body of millions of faults does not become as many error records
COMPRESS_FROM_BYTES = 1024  # smaller answers fit one packet either way
WINDOW_BITS = {"gzip": 31, "deflate": 15}  # zlib's numbers for the gzip and the zlib container

Datatype = Literal["UINT8", "INT32", "FP32", "BYTES"]
DATATYPES: tuple[Datatype, ...] = get_args(Datatype)
FORMATS = {"UINT8": "B", "INT32": "i", "FP32": "f"}  # struct's letters for what has a fixed size
Text = Annotated[str, Field(max_length=256)]  # names are repeated in error sentences
Size = Annotated[int, Field(ge=0, lt=2**31)]
LENGTH = struct.Struct("<I")  # before each element of a BYTES tensor


class Wire(BaseModel):
    """What crosses the socket under /v2: immutable; unknown keys pass, for clients add keys of their own servers."""

    model_config = ConfigDict(frozen=True, strict=True)


class RequestInput(Wire):
    """An input tensor: `data`, nested or flat, or the parameter `binary_data_size`."""

    name: Text
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_DIMENSIONS, fail_fast=True)]
    datatype: Text
    parameters: dict[str, Any] | None = None
    data: list[Any] | None = None


class RequestOutput(Wire):
    """An output that is asked for; the parameter `binary_data` says in which form."""

    name: Text
    parameters: dict[str, Any] | None = None


class InferenceRequest(Wire):
    """The JSON of an inference request."""

    id: Text | None = None
    parameters: dict[str, Any] | None = None
    inputs: Annotated[tuple[RequestInput, ...], Field(max_length=MAX_TENSORS, fail_fast=True)]
    outputs: Annotated[tuple[RequestOutput, ...], Field(max_length=MAX_TENSORS, fail_fast=True)] | None = None


class ResponseOutput(Wire):
    """An output tensor: `data`, flat, or the parameter `binary_data_size`."""

    name: str
    shape: tuple[int, ...]
    datatype: Datatype
    parameters: dict[str, int] | None = None
    data: tuple[int | float | str, ...] | None = None


class InferenceResponse(Wire):
    """The JSON of an answer."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | int | float] = Field(default_factory=dict)
    outputs: tuple[ResponseOutput, ...]


@dataclass(frozen=True)
class Tensor:
    """An input: little-endian and row-major, or the elements of a BYTES tensor; `text` says that JSON carried them."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: bytes = b""
    elements: tuple[bytes, ...] = ()
    text: bool = False


@dataclass(frozen=True)
class Request:
    """A decoded request. `outputs` maps the names asked for, none for all, to whether they go in binary form."""

    inputs: tuple[Tensor, ...]
    id: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, bool] = field(default_factory=dict)
    binary_output: bool = False

    def binary(self, output: str) -> bool:
        """Whether an output goes in binary form."""
        return self.outputs.get(output, self.binary_output)


@dataclass(frozen=True)
class Output:
    """An output tensor, row-major."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    values: Sequence[int | float | str]


# requests


def decode(body: bytes, header_length: str | None, raw_input: str) -> Request:
    """A request from its body and its Inference-Header-Content-Length, whose presence alone tells a binary request.

    The length 0 announces a body that is a single element of the BYTES input called `raw_input`; as in Triton, the
    outputs then go in binary form. Raises BadInputError or TooLargeError.
    """
    size = len(body) if header_length is None else _json_length(header_length, len(body))
    if size == 0 and header_length is not None:
        return Request((Tensor(raw_input, "BYTES", (1,), elements=(body,)),), binary_output=True)
    if size > MAX_JSON_BYTES:
        raise TooLargeError(
            f"The JSON of the request is {size} bytes; at most {MAX_JSON_BYTES} are taken.",
            hint="Send the tensors in binary form.",
        )
    try:
        request = InferenceRequest.model_validate_json(body[:size])
    except ValidationError as error:
        raise explain_validation(error, "The request body") from error
    parameters = request.parameters or {}
    return Request(
        inputs=_tensors(request.inputs, None if header_length is None else body[size:]),
        id=request.id,
        parameters=parameters,
        outputs=_outputs(request.outputs or (), default := _flag(parameters, "binary_data_output", "The request")),
        binary_output=default,
    )


def _json_length(text: str, body_bytes: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadInputError(f"{HEADER_LENGTH} is '{text[:40]}', which is no number of bytes.")
    if int(text) > body_bytes:
        raise BadInputError(f"{HEADER_LENGTH} is {text}, but the body is {body_bytes} bytes long.")
    return int(text)


def _flag(parameters: dict[str, Any], key: str, owner: str) -> bool:
    value = parameters.get(key, False)
    if not isinstance(value, bool):
        raise BadInputError(f"{owner} has the parameter '{key}', which is {value!r:.60}; it must be true or false.")
    return value


def _outputs(asked: Sequence[RequestOutput], default: bool) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for output in asked:
        owner = f"The output '{output.name}'"
        if output.name in found:
            raise BadInputError(f"{owner} is asked for twice.")
        parameters = output.parameters or {}
        _refuse_shared_memory(parameters, owner)
        if parameters.get("classification"):
            raise BadInputError(
                f"{owner} has the parameter 'classification', which is not offered.",
                hint="The outputs 'label' and 'index' name the best class.",
            )
        found[output.name] = _flag(parameters, "binary_data", owner) if "binary_data" in parameters else default
    return found


def _refuse_shared_memory(parameters: dict[str, Any], owner: str) -> None:
    if any(key.startswith("shared_memory_") for key in parameters):
        raise BadInputError(f"{owner} lies in shared memory, which is not offered.", hint="Send it in binary form.")


def _tensors(inputs: Sequence[RequestInput], binary: bytes | None) -> tuple[Tensor, ...]:
    """The tensors of a request; `binary` is what follows its JSON, None when it came without a length."""
    tensors: dict[str, Tensor] = {}
    offset = 0
    for given in inputs:
        owner = f"The input '{given.name}'"
        if given.name in tensors:
            raise BadInputError(f"{owner} is given twice.")
        _refuse_shared_memory(given.parameters or {}, owner)
        datatype = next((known for known in DATATYPES if known == given.datatype), None)
        if datatype is None:
            raise BadInputError(f"{owner} has the datatype '{given.datatype}'.", hint=f"Known: {', '.join(DATATYPES)}.")
        size = _binary_size(given, binary, offset)
        if size is None:
            tensors[given.name] = _from_json(given, datatype)
        else:
            tensors[given.name] = _from_binary(given, datatype, (binary or b"")[offset : offset + size])
            offset += size
    if binary is not None and offset != len(binary):
        raise BadInputError(f"{len(binary) - offset} bytes follow the last binary tensor of the request.")
    return tuple(tensors.values())


def _binary_size(given: RequestInput, binary: bytes | None, offset: int) -> int | None:
    """The bytes of a tensor in binary form, None for one in JSON. Raises BadInputError when it is neither or both."""
    owner = f"The input '{given.name}'"
    size = (given.parameters or {}).get("binary_data_size")
    if size is None:
        if given.data is None:
            raise BadInputError(f"{owner} has neither 'data' nor the parameter 'binary_data_size'.")
        return None
    if given.data is not None:
        raise BadInputError(f"{owner} has both 'data' and the parameter 'binary_data_size'.")
    if type(size) is not int or not 0 <= size < 2**63:
        raise BadInputError(f"{owner} has the binary_data_size {size!r:.60}, which is no number of bytes.")
    if binary is None:
        raise BadInputError(f"{owner} is in binary form, but the request lacks the header {HEADER_LENGTH}.")
    if size > len(binary) - offset:
        raise BadInputError(
            f"{owner} has {size} bytes of binary data, but {len(binary) - offset} are left in the body."
        )
    return size


def _from_binary(given: RequestInput, datatype: Datatype, data: bytes) -> Tensor:
    count = math.prod(given.shape)
    owner = f"The input '{given.name}' of shape {list(given.shape)}"
    if datatype == "BYTES":
        return Tensor(given.name, datatype, given.shape, elements=_elements(data, count, owner))
    needed = count * struct.calcsize(FORMATS[datatype])
    if len(data) != needed:
        raise BadInputError(f"{owner} takes {needed} bytes of {datatype}; {len(data)} were sent.")
    return Tensor(given.name, datatype, given.shape, data=data)


def _elements(data: bytes, count: int, owner: str) -> tuple[bytes, ...]:
    """The elements of a BYTES tensor, each after its length in 4 bytes."""
    found: list[bytes] = []
    offset = 0
    while offset < len(data) and len(found) < count:
        start = offset + LENGTH.size
        if start > len(data):
            raise BadInputError(f"{owner} ends within the length of element {len(found)}.")
        (size,) = LENGTH.unpack_from(data, offset)
        offset = start + size
        if offset > len(data):
            raise BadInputError(f"{owner} ends within element {len(found)}, which is {size} bytes long.")
        found.append(data[start:offset])
    if offset != len(data) or len(found) != count:
        raise BadInputError(f"{owner} takes {count} elements; its {len(data)} bytes are not that many.")
    return tuple(found)


def _from_json(given: RequestInput, datatype: Datatype) -> Tensor:
    owner = f"The input '{given.name}'"
    values = _flat(given.data or [], given.shape, owner)
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            raise BadInputError(f"{owner} is BYTES, but its data are not all strings.")
        elements = tuple(value.encode() for value in values)
        return Tensor(given.name, datatype, given.shape, elements=elements, text=True)
    numbers = {int, float} if datatype == "FP32" else {int}
    if not set(map(type, values)) <= numbers:
        raise BadInputError(f"{owner} is {datatype}, but its data are not all such numbers.")
    try:
        if not all(map(math.isfinite, values)):
            raise BadInputError(f"{owner} holds values that are not finite, which JSON does not know.")
        data = struct.pack(f"<{len(values)}{FORMATS[datatype]}", *values)
    except (struct.error, OverflowError) as error:
        raise BadInputError(f"{owner} holds numbers beyond the range of {datatype}.") from error
    return Tensor(given.name, datatype, given.shape, data=data)


def _flat(data: list[Any], shape: tuple[int, ...], owner: str) -> list[Any]:
    """The values of nested or flat data. Raises BadInputError when they do not make up `shape`."""
    values: list[Any] = data
    if any(isinstance(value, list) for value in data):
        for size in shape[1:]:
            if not all(isinstance(row, list) and len(row) == size for row in values):
                raise BadInputError(f"{owner} is nested otherwise than its shape {list(shape)}.")
            values = [value for row in values for value in row]
    if len(values) != math.prod(shape):
        raise BadInputError(f"{owner} has shape {list(shape)}, but {len(values)} values of data.")
    return values


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """A body without its Content-Encoding. Raises BadInputError, and TooLargeError before `limit` bytes are passed."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in WINDOW_BITS:
        raise BadInputError(f"The Content-Encoding '{encoding}' is not understood.", hint="Send gzip, deflate or none.")
    inflater = zlib.decompressobj(WINDOW_BITS[name])
    try:
        plain = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadInputError(f"The request body is not {name}: {error}.") from error
    if len(plain) > limit:
        raise TooLargeError(
            f"The request body is over {limit} bytes when it is decompressed.",
            hint="The limit is max_body_bytes in the daemon's configuration.",
        )
    if not inflater.eof or inflater.unused_data:
        raise BadInputError(f"The request body is not one whole {name} stream.")
    return plain


# answers


def encode(answer: InferenceResponse, outputs: Sequence[Output], request: Request) -> tuple[bytes, int | None]:
    """The body of an answer with these outputs, and the length of its JSON when tensors in binary form follow that."""
    tail: list[bytes] = []
    described: list[ResponseOutput] = []
    for output in outputs:
        sent = ResponseOutput(name=output.name, shape=output.shape, datatype=output.datatype)
        if request.binary(output.name):
            tail.append(_to_binary(output))
            described.append(sent.model_copy(update={"parameters": {"binary_data_size": len(tail[-1])}}))
        else:
            described.append(sent.model_copy(update={"data": tuple(output.values)}))
    head = answer.model_copy(update={"outputs": tuple(described)}).model_dump_json(exclude_none=True).encode()
    return b"".join((head, *tail)), len(head) if tail else None


def _to_binary(output: Output) -> bytes:
    if output.datatype != "BYTES":
        return struct.pack(f"<{len(output.values)}{FORMATS[output.datatype]}", *output.values)
    elements = [str(value).encode() for value in output.values]
    return b"".join(LENGTH.pack(len(element)) + element for element in elements)


def compress(body: bytes, accepted: str) -> tuple[bytes, str | None]:
    """A body in a form that the Accept-Encoding `accepted` allows, and its Content-Encoding; None leaves it plain."""
    if len(body) < COMPRESS_FROM_BYTES:
        return body, None
    for part in accepted.lower().split(","):
        name, _, weight = (piece.strip() for piece in part.partition(";"))
        if name in WINDOW_BITS and not (weight.startswith("q=0") and not weight.strip("q=0.")):
            packer = zlib.compressobj(level=1, wbits=WINDOW_BITS[name])
            return packer.compress(body) + packer.flush(), name
    return body, None
