"""Triton's public HTTP clients against a running patchd: `triton_client.py unix:PATH|HOST:PORT IMAGE`, JSON on stdout.

Runs in .venv-clients, without patchd; `test_oip_clients.py` starts it and judges what it prints.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import gevent.socket
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException


def connected(place: str) -> triton.InferenceServerClient:
    """A client; on a Unix socket its connection pool is told how to connect, for its URLs know no such place."""
    path = place.removeprefix("unix:")
    if path == place:
        return triton.InferenceServerClient(place)

    def connect() -> gevent.socket.socket:
        made = gevent.socket.socket(gevent.socket.AF_UNIX)
        made.connect(path)
        return made

    client = triton.InferenceServerClient("localhost")
    client._client_stub._connection_pool._create_socket = connect
    return client


def tensor(library: Any, name: str, array: np.ndarray, datatype: str, **form: bool) -> Any:
    made = library.InferInput(name, list(array.shape), datatype)
    return made.set_data_from_numpy(array, **form)


def image_tensor(library: Any, *images: bytes) -> Any:
    return tensor(library, "image", np.array(images, dtype=np.object_), "BYTES")


def read(result: Any) -> dict[str, Any]:
    """What an answer says, read by the client's own decoder."""
    found: dict[str, Any] = {"response": result.get_response()}
    for output in found["response"]["outputs"]:
        array = result.as_numpy(output["name"])
        values = [value.decode() if isinstance(value, bytes) else value for value in array.reshape(-1).tolist()]
        found[output["name"]] = {"dtype": str(array.dtype), "shape": list(array.shape), "values": values}
    return found


def refused(call: Callable[[], object]) -> dict[str, str]:
    """The error of a call that must fail, as the client understands it."""
    try:
        call()
    except InferenceServerException as error:
        return {"status": str(error.status()), "message": str(error.message())}
    raise AssertionError("it did not fail")


def told(client: triton.InferenceServerClient, place: str) -> dict[str, Any]:
    """All that is not a prediction."""
    version = {"model_version": "1"}
    load = lambda: client.load_model("imagenet")  # noqa: E731
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready("imagenet"),
        "untrained_ready": client.is_model_ready("untrained"),
        "server": client.get_server_metadata(),
        "metadata": client.get_model_metadata("imagenet", **version),
        "config": client.get_model_config("imagenet", **version),
        "load": load() if place.startswith("unix:") else refused(load),
        "index": client.get_model_repository_index(),
        "unload": refused(lambda: client.unload_model("imagenet")),
        "unknown": refused(lambda: client.get_model_metadata("nope")),
    }


def predicted(client: triton.InferenceServerClient, image: bytes) -> dict[str, Any]:
    """Predictions in every form that the client offers."""
    pixels = np.tile(np.arange(48, dtype=np.uint8).reshape(1, 48, 1), (32, 1, 3))
    finished = np.full((1, 3, 96, 96), 0.25, dtype=np.float32)
    text = np.array([base64.b64encode(image).decode()], dtype=np.object_)
    plain = lambda name: triton.InferRequestedOutput(name, binary_data=False)  # noqa: E731
    all_plain = [plain(name) for name in ("probabilities", "label", "index")]
    mixed = [triton.InferRequestedOutput("probabilities", binary_data=True), plain("label")]
    in_json = {"binary_data": False}

    def infer(inputs: Any, **more: Any) -> dict[str, Any]:
        return read(client.infer("imagenet", [inputs], **more))

    answers = {
        "binary": infer(image_tensor(triton, image), request_id="mine"),
        "json": infer(tensor(triton, "image", text, "BYTES", **in_json), outputs=all_plain),
        "mixed": infer(image_tensor(triton, image), outputs=mixed, model_version="1"),
        "batch": infer(image_tensor(triton, image, image)),
        "pixels": infer(tensor(triton, "pixels", pixels, "UINT8"), parameters={"patchd_resolution": 96}),
        "pixels_json": infer(
            tensor(triton, "pixels", pixels, "UINT8", **in_json), outputs=all_plain, parameters={"resolution": 96}
        ),
        "finished": infer(tensor(triton, "input", finished, "FP32")),
        "finished_json": infer(tensor(triton, "input", finished, "FP32", **in_json), outputs=all_plain),
        "wishes": infer(image_tensor(triton, image), priority=1, timeout=60_000_000, sequence_id=7),
        "late": refused(lambda: infer(image_tensor(triton, image), timeout=1)),
        "broken": refused(lambda: infer(image_tensor(triton, b"no image"))),
    }
    for packed in ("gzip", "deflate"):
        ways = {"request_compression_algorithm": packed, "response_compression_algorithm": packed}
        answers[packed] = infer(image_tensor(triton, image), **ways)
    background = client.async_infer("imagenet", [image_tensor(triton, image)])
    return {**answers, "background": read(background.get_result())}


async def predicted_aio(place: str, image: bytes) -> dict[str, Any]:
    """Predictions by the client for asyncio."""
    path = place.removeprefix("unix:")
    async with triton_aio.InferenceServerClient("localhost" if path != place else place) as client:
        if path != place:
            await client._stub.close()
            connector = aiohttp.UnixConnector(path=path)
            client._stub = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        inputs = [image_tensor(triton_aio, image)]
        outputs = [triton_aio.InferRequestedOutput("label", binary_data=False)]
        ways = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
        return {
            "aio_live": await client.is_server_live(),
            "aio": read(await client.infer("imagenet", inputs)),
            "aio_json": read(await client.infer("imagenet", inputs, outputs=outputs)),
            "aio_gzip": read(await client.infer("imagenet", inputs, **ways)),
        }


def main(place: str, image: bytes) -> None:
    """Ask for everything, print what came."""
    client = connected(place)
    answers = told(client, place) | predicted(client, image)
    answers["statistics"] = client.get_inference_statistics("imagenet")
    client.close()
    print(json.dumps(answers | asyncio.run(predicted_aio(place, image))))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).read_bytes())
