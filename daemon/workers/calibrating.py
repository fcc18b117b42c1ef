"""The calibrating worker: `python -m patchd.daemon.workers.calibrating`, one cascade planned, told in lines of JSON.

A process of its own, of low priority, that runs all rungs over the calibration images, keeps the table of what they
said, and searches and certifies a cascade on it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...models.bases import Base, load_base
from ...models.cascades import CascadeCosts, Point, ScoreTable, load_table, plan, save_table
from ...models.cascades.measure import Measured, Runnable, dispatch_ms, measure
from ...models.datasets import Sample, open_data
from ...models.engine import Engine, TorchEngine
from ...models.graph_cache import GraphCache
from ...models.openvino_engine import OpenVinoEngine
from ...models.patches.patch import load_patch
from ...models.preprocessing import decode_image
from ...policies.cascade import CalibrationImage, CascadePoint, Row, RungId
from ...policies.domain import nearest_rung
from ...policies.errors import BadInputError, PatchdError
from .lifetime import tie_to_parent
from .protocol import Calibrate, Calibrated, Calibrating, RungRef, WorkerError

NICE = 10
REPORT_EVERY_S = 0.5


def main(argv: Sequence[str] | None = None) -> int:
    """Follow the `Calibrate` on standard input; say `Calibrating` now and then, then `Calibrated` or `WorkerError`."""
    parser = argparse.ArgumentParser(prog="patchd-calibrating-worker", description="Plans one cascade for patchd.")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="process to die with")
    tie_to_parent(parser.parse_args(argv).parent)
    os.nice(NICE)
    request = Calibrate.model_validate_json(sys.stdin.readline())
    torch.set_num_threads(request.threads)
    said: Calibrated | WorkerError
    try:
        said = calibrate(request, _Reporter())
    except PatchdError as error:
        said = WorkerError(id=0, code=error.code, message=error.message, hint=error.hint)
    print(said.model_dump_json(), flush=True)
    return 0


class _Reporter:
    """Tells how many images are done, not too often."""

    def __init__(self) -> None:
        self._last_s = 0.0

    def __call__(self, done: int, images: int) -> None:
        if time.monotonic() - self._last_s >= REPORT_EVERY_S or done == images:
            self._last_s = time.monotonic()
            print(Calibrating(done=done, images=images).model_dump_json(), flush=True)


def calibrate(request: Calibrate, report: Callable[[int, int], None]) -> Calibrated:
    """Measure, keep the table, plan. Raises BadInputError, DataSetError, StateError, NotFoundError or the like."""
    file = Path(request.table_file)
    measured = _measured(request, report)
    table = load_table(file).only(tuple(map(_id, request.rungs))) if measured is None else measured.table
    decode_ms = request.decode_ms if measured is None or measured.decode_ms is None else measured.decode_ms
    if decode_ms is None:
        raise BadInputError("What decoding an image costs must be given where no image is decoded.")
    costs = CascadeCosts(
        decode_ms=decode_ms,
        prepare_ms={price.resolution: price.prepare_ms for price in request.prices},
        network_ms={(price.base, price.resolution): price.network_ms for price in request.prices},
        dispatch_ms=dispatch_ms(len(request.task.labels)),
    )
    planned = plan(table, costs, request.reference, epsilon=request.epsilon, delta=request.delta, now_s=time.time())
    if measured is not None:  # last, so that a plan that fails leaves the table of the cascade that stays
        save_table(table, file)
    chosen = tuple((stage.rung, stage.rule) for stage in planned.cascade.stages)
    frontier = {id(point) for point in planned.frontier}
    return Calibrated(
        cascade=planned.cascade,
        points=tuple(_point(point, id(point) in frontier, chosen) for point in planned.points),
        decode_ms=costs.decode_ms,
        dispatch_ms=costs.dispatch_ms,
        samples=len(table),
    )


def _point(point: Point, frontier: bool, chosen: tuple[tuple[RungId, object], ...]) -> CascadePoint:
    return CascadePoint(
        stages=tuple(f"{step.rung}, {step.rule.kind}" for step in point.steps),
        cost_ms=point.cost_ms,
        loss=point.loss,
        disagreement=point.disagreement,
        frontier=frontier,
        chosen=tuple((step.rung, step.rule) for step in point.steps) == chosen,
    )


def _measured(request: Calibrate, report: Callable[[int, int], None]) -> Measured | None:
    """What is new: images run through all rungs, or rows that audits have brought; None where the table is to serve."""
    if request.rows:
        return Measured(_from_rows(request.rows, tuple(map(_id, request.rungs))), None)
    if request.own_data:
        if request.task.data is None:
            raise BadInputError(f"Task '{request.task.name}' has no data set.", hint="Give images to calibrate on.")
        samples, labelled = open_data(request.task.data).test, True
    elif request.images:
        samples, labelled = _samples(request)
    else:
        return None
    own = tuple(rung.resolution for rung in request.rungs if rung.base == request.task.base)

    def passes(image: Image.Image) -> bool:
        """Whether predictions would send it through the cascade, and not to a rung whose form it has already."""
        return not own or nearest_rung(*image.size, own, max(own)) == max(own)

    return measure(samples, _runnables(request), labelled, lambda done: report(done, len(samples)), passes)


def _from_rows(rows: Sequence[Row], rungs: tuple[RungId, ...]) -> ScoreTable:
    answers = np.array([row.answers for row in rows], np.int32)
    features = np.array([row.features for row in rows], np.float32)
    return ScoreTable(rungs, answers, features)


def _samples(request: Calibrate) -> tuple[tuple[Sample, ...], bool]:
    labelled = request.images[0].label is not None
    if any((given.label is not None) != labelled for given in request.images):
        raise BadInputError("Some of the images have a label and some have none.", hint="Give labels to all or none.")
    for given in request.images:
        if given.label is not None and given.label >= len(request.task.labels):
            raise BadInputError(
                f"{given.file}: there is no class {given.label}; task '{request.task.name}' has "
                f"{len(request.task.labels)}."
            )
    return tuple(Sample(given.file, _loader(given), given.label or 0) for given in request.images), labelled


def _loader(given: CalibrationImage) -> Callable[[int], Image.Image]:
    return lambda side: decode_image(Path(given.file).read_bytes(), needed_side=side)


def _id(ref: RungRef) -> RungId:
    return RungId(base=ref.base, resolution=ref.resolution, patch_id=ref.patch_id)


def _runnables(request: Calibrate) -> list[Runnable]:
    cache = None if request.graphs is None else GraphCache(Path(request.graphs))
    versions = None if request.versions is None else Path(request.versions)
    loaded: dict[str, tuple[Base, Engine]] = {}
    runnables = []
    for ref in request.rungs:
        if ref.base not in loaded:
            base = load_base(ref.base, versions)
            loaded[ref.base] = base, _engine(base, request, cache)
        base, engine = loaded[ref.base]
        patch = None if ref.patch_file is None else load_patch(Path(ref.patch_file), base)
        runnables.append(Runnable(_id(ref), engine, patch, ref.preprocessing))
    return runnables


def _engine(base: Base, request: Calibrate, cache: GraphCache | None) -> Engine:
    if request.engine == TorchEngine.name:
        return TorchEngine(base, request.threads)
    return OpenVinoEngine(base, request.threads, precision=request.precision, cache=cache)


if __name__ == "__main__":
    sys.exit(main())
