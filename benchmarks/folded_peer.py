"""The peer of `capacity.py`: keeps a model loaded for each line of its input, the path of an OpenVINO IR.

    python folded_peer.py THREADS SIDE

It answers each line with `loaded` once that model has run.
"""

from __future__ import annotations

import sys

import numpy as np
import openvino


def main() -> None:
    """Load, run, say so, until the input ends."""
    threads, side = map(int, sys.argv[1:])
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core, image = openvino.Core(), np.zeros((1, 3, side, side), np.float32)
    loaded = []
    for line in sys.stdin:
        request = core.compile_model(line.strip(), "CPU", options).create_infer_request()
        request.infer([image])
        loaded.append(request)
        print("loaded", flush=True)


if __name__ == "__main__":
    main()
