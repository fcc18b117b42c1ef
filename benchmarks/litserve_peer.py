"""The peer of `serving.py`: LitServe with an OpenVINO model. Run by it with an interpreter that has litserve.

The model is compiled for throughput, one image a stream, and LitServe gathers requests into batches of up to 8.
Preprocessing is what patchd does: decode, centre crop, bicubic resize, (x - 127) / 128.
"""

from __future__ import annotations

import os
import sys
from io import BytesIO
from typing import Any

import litserve
import numpy as np
import openvino
from PIL import Image

MODEL, PORT, SIDE, FORM = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
CROP, MEAN, SCALE = 0.875, 127.0, 128.0
BATCH, TOP = 8, 5


class Classifier(litserve.LitAPI):  # type: ignore[misc]
    """One folded model."""

    def setup(self, device: str) -> None:  # noqa: ARG002
        threads = len(os.sched_getaffinity(0))
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        core = openvino.Core()
        self.alone = core.compile_model(MODEL, "CPU", {**options, "PERFORMANCE_HINT": "LATENCY"})
        streams = {**options, "PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": threads}
        self.queue = openvino.AsyncInferQueue(core.compile_model(MODEL, "CPU", streams), threads)

    def decode_request(self, request) -> Any:  # type: ignore[no-untyped-def]  # noqa: ANN001 - LitServe reads annotations
        data = request["content"].file.read()
        if FORM == "tensor":
            return np.frombuffer(data, np.float32).reshape(1, 3, SIDE, SIDE)
        image = Image.open(BytesIO(data))
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        edge = round(CROP * min(image.size))
        left, top = ((length - edge + 1) // 2 for length in image.size)
        box = (left, top, left + edge, top + edge)
        resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)
        return ((np.asarray(resized, np.float32) - MEAN) / SCALE).transpose(2, 0, 1)[None]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def predict(self, inputs: Any) -> Any:
        if not isinstance(inputs, list):
            inputs = [inputs]
        if len(inputs) == 1:
            return [self.alone(inputs)[0][0]]
        answers: dict[int, Any] = {}
        self.queue.set_callback(lambda run, place: answers.__setitem__(place, run.get_output_tensor(0).data[0].copy()))
        for place, image in enumerate(inputs):
            self.queue.start_async([image], place)
        self.queue.wait_all()
        return [answers[place] for place in range(len(inputs))]

    def encode_response(self, output: Any) -> Any:
        best = np.argsort(output)[::-1][:TOP]
        return {"indices": best.tolist(), "logits": output[best].tolist()}


if __name__ == "__main__":
    api = Classifier(max_batch_size=BATCH, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=PORT, log_level="error", generate_client_file=False)
