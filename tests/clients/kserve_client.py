"""KServe's public REST client against a running patchd: `kserve_client.py unix:PATH|HOST:PORT IMAGE`, JSON on stdout.

Runs in .venv-clients, without patchd; `test_oip_clients.py` starts it and judges what it prints.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def read(response: Any) -> dict[str, Any]:
    """What an answer says, read by the client's own decoder."""
    found: dict[str, Any] = {"id": response.id, "model": response.model_name, "parameters": response.parameters or {}}
    for output in response.outputs:
        array = output.as_numpy()
        values = [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]
        found[output.name] = {"shape": list(output.shape), "values": values}
    return found


def request(name: str, array: np.ndarray, datatype: str, binary: bool, **more: Any) -> InferRequest:
    made = InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return InferRequest(model_name="imagenet", infer_inputs=[made], **more)


async def asked(place: str, image: bytes) -> dict[str, Any]:
    """Everything that the client offers."""
    path = place.removeprefix("unix:")
    base = f"http://{place}" if path == place else "http://patchd"
    transport = None if path == place else httpx.AsyncHTTPTransport(uds=path)
    client = InferenceRESTClient(RESTConfig(transport=transport, protocol="v2"))
    whole = np.array([image], dtype=np.object_)
    text = np.array([base64.b64encode(image).decode().encode()], dtype=np.object_)
    pixels = np.tile(np.arange(48, dtype=np.uint8).reshape(1, 48, 1), (32, 1, 3))
    finished = np.full((1, 3, 96, 96), 0.25, dtype=np.float32)
    binary_outputs = [RequestedOutput("probabilities", {"binary_data": True}), RequestedOutput("label")]

    async def infer(sent: InferRequest) -> dict[str, Any]:
        return read(await client.infer(base, sent, model_name="imagenet"))

    try:
        await client.infer(base, request("image", np.array([b"no image"], dtype=np.object_), "BYTES", True), "imagenet")
        raise AssertionError("it did not fail")
    except httpx.HTTPStatusError as error:
        broken = {"status": error.response.status_code, "message": str(error)}
    return {
        "live": await client.is_server_live(base),
        "ready": await client.is_server_ready(base),
        "model_ready": await client.is_model_ready(base, "imagenet"),
        "untrained_ready": await client.is_model_ready(base, "untrained"),
        "binary": await infer(request("image", whole, "BYTES", True, request_id="mine")),
        "json": await infer(request("image", text, "BYTES", False)),
        "mixed": await infer(request("image", whole, "BYTES", True, request_outputs=binary_outputs)),
        "pixels": await infer(request("pixels", pixels, "UINT8", True, parameters={"patchd_resolution": 96})),
        "pixels_json": await infer(request("pixels", pixels, "UINT8", False, parameters={"resolution": 96})),
        "finished": await infer(request("input", finished, "FP32", True)),
        "finished_json": await infer(request("input", finished, "FP32", False)),
        "broken": broken,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(asked(sys.argv[1], Path(sys.argv[2]).read_bytes()))))
