"""The comparing worker: `python -m patchd.daemon.workers.comparing`, engines side by side, one line of JSON said.

One fixed image at one rung of a base without a patch, through every engine that is here: how far its answer is from the
torch reference's, and how long it takes. The engines take turns, so that other work beside them falls on all alike.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...models.bases import load_base
from ...models.engine import Engine, TorchEngine
from ...models.openvino_engine import OpenVinoEngine
from ...models.preprocessing import to_input
from ...policies.errors import PatchdError
from ...policies.task import Preprocessing
from .comparing_messages import Compared, ComparedEngine
from .lifetime import tie_to_parent
from .protocol import WorkerError

IMAGE = (256, 256)  # width, height
WARM_UPS = 3


def compare(base_name: str, resolution: int, threads: int, repeats: int) -> Compared:
    """Run the engines. Raises NotFoundError for an unknown base."""
    base = load_base(base_name)
    reference = TorchEngine(base, threads)
    engines: list[Engine] = [reference]
    absent = None
    try:
        engines.append(OpenVinoEngine(base, threads))
    except PatchdError as error:
        absent = error.message
    pixels = np.random.default_rng(0).integers(0, 256, (*IMAGE[::-1], 3), dtype=np.uint8)
    inputs = to_input(Image.fromarray(pixels, "RGB"), resolution, Preprocessing()).unsqueeze(0)
    expected = reference.run(inputs).logits
    taken: dict[str, list[float]] = {engine.name: [] for engine in engines}
    for turn in range(WARM_UPS + repeats):
        for engine in engines:
            engine.use_threads(threads)
            start = time.perf_counter()
            engine.run(inputs)
            if turn >= WARM_UPS:
                taken[engine.name].append((time.perf_counter() - start) * 1e3)
    return Compared(
        base=base_name,
        resolution=resolution,
        threads=threads,
        absent=absent,
        engines=tuple(
            ComparedEngine(
                name=engine.name,
                ran=(run := engine.run(inputs)).engine,
                median_ms=statistics.median(taken[engine.name]),
                difference=float((run.logits - expected).abs().max()),
                remarks=tuple(engine.remarks),
            )
            for engine in engines
        ),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, and say `Compared` or `WorkerError`."""
    parser = argparse.ArgumentParser(prog="patchd-comparing-worker", description="Compares the inference engines.")
    parser.add_argument("--base", default="lite0")
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to die with")
    asked = parser.parse_args(argv)
    tie_to_parent(asked.parent)
    said: Compared | WorkerError
    try:
        said = compare(asked.base, asked.resolution, asked.threads, asked.repeats)
    except PatchdError as error:
        said = WorkerError(id=0, code=error.code, message=error.message, hint=error.hint)
    print(said.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
