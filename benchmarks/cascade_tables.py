"""What the cascade benchmarks measure on: a data set's rungs, what they say on its test part, and what they cost here.

A set of train/CLASS/* and test/CLASS/* (or the digits) gets patches from patchd's own trainer; a set with an ImageNet
index is answered by the bases as they are. Patches and answers are kept in a folder, so only the first run is long.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from patchd.models.bases import load_base
from patchd.models.cascades import CascadeCosts, ScoreTable, load_table, save_table
from patchd.models.cascades.measure import Runnable, dispatch_ms, measure
from patchd.models.datasets import DIGITS, Sample, open_data
from patchd.models.engine import Engine
from patchd.models.openvino_engine import OpenVinoEngine
from patchd.models.patches.patch import load_patch
from patchd.models.preprocessing import decode_image, to_input
from patchd.models.training import Trainer
from patchd.policies.cascade import RungId
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import BaseRungs, JobProgress, PatchKind, Preprocessing, TaskSpec, TrainSpec
from PIL import Image
from top1 import index_of_classes, items

FOREVER_S = 1e6
COST_IMAGES = 60  # images that costs are medians over
WARM_UPS = 3
NAME = "cascades"
KINDS = (PatchKind.SCALE_BIAS, PatchKind.HEAD)

Ladders = Mapping[str, tuple[int, ...]]  # sides in pixels by base
UNPATCHED: Ladders = {"lite0": (96, 128, 160, 192, 224), "lite1": (240,), "lite2": (260,)}
PATCHED: Ladders = {"lite0": (96, 128, 160, 224), "lite2": (260,)}
PATCHED_DIGITS: Ladders = {"lite0": (64, 96, 128), "lite1": (128,)}


@dataclass(frozen=True)
class Subject:
    """A set: its rungs ready to run, what they said on the images, and the images themselves."""

    name: str
    runnables: tuple[Runnable, ...]
    samples: tuple[Sample, ...]
    table: ScoreTable

    @property
    def references(self) -> tuple[RungId, ...]:
        """The finest rung of the first base, and that of the dearest one."""
        by_base = {rung.base: rung for rung in sorted(self.table.rungs, key=lambda rung: rung.resolution)}
        return tuple(by_base[base] for base in sorted({min(by_base), max(by_base)}))

    def costs(self, threads: int | None = None) -> CascadeCosts:
        """Medians of one image at a time on this machine: of decoding, preparing, every network and dispatch."""
        for each in self.runnables:
            each.engine.use_threads(threads or len(os.sched_getaffinity(0)))
        side = max(each.needed_side for each in self.runnables)
        step = max(1, len(self.samples) // COST_IMAGES)
        decode: list[float] = []
        prepare: dict[int, list[float]] = {each.rung.resolution: [] for each in self.runnables}
        network: dict[tuple[str, int], list[float]] = {(r.base, r.resolution): [] for r in self.table.rungs}
        for turn, sample in enumerate(self.samples[::step]):
            start = time.perf_counter()
            image = sample.load(side)
            decode.append(_since(start))
            for each in self.runnables:
                rung = each.rung
                start = time.perf_counter()
                batch = to_input(image, rung.resolution, each.preprocessing).unsqueeze(0)
                prepare[rung.resolution].append(_since(start))
                for _ in range(0 if turn else WARM_UPS):
                    each.engine.run(batch, each.patch)
                start = time.perf_counter()
                each.engine.run(batch, each.patch)
                network[rung.base, rung.resolution].append(_since(start))
        return CascadeCosts(
            decode_ms=statistics.median(decode),
            prepare_ms={key: statistics.median(taken) for key, taken in prepare.items()},
            network_ms={key: statistics.median(taken) for key, taken in network.items()},
            dispatch_ms=dispatch_ms(int(self.table.answers.max()) + 1),
        )


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3


def imagenet_samples(data: Path, index: Path) -> tuple[Sample, ...]:
    """The images of a directory of CLASS/*, labelled by an index file."""
    return tuple(Sample(str(file), _loader(file), label) for file, label in items(data, index_of_classes(index), None))


def _loader(file: Path) -> Callable[[int], Image.Image]:
    return lambda side: decode_image(file.read_bytes(), needed_side=side)


def unpatched(data: Path, index: Path, work: Path) -> Subject:
    """The ImageNet images under the bases as they are."""
    rungs = [(RungId(base=base, resolution=side), None) for base, sides in UNPATCHED.items() for side in sides]
    return _subject("imagenet", rungs, imagenet_samples(data, index), Preprocessing(), work)


def patched(
    data: str,
    work: Path,
    epochs: int,
    most: int | None,
    bases: Sequence[str] | None = None,
    kinds: Sequence[PatchKind] = KINDS,
) -> Subject:
    """A set under patches of its own, trained on its train part; the images are those of its test part.

    `bases` leaves out all others. Raises ValueError when none is left.
    """
    found = open_data(data)
    (work / "patches").mkdir(parents=True, exist_ok=True)
    ladders = PATCHED_DIGITS if data == DIGITS else PATCHED
    own, *others = (each for each in ladders.items() if bases is None or each[0] in bases)
    task = TaskSpec(
        name=NAME, base=own[0], labels=found.labels, resolutions=own[1], data=data,
        others=tuple(BaseRungs(base=base, resolutions=sides) for base, sides in others),
    )  # fmt: skip
    rungs = []
    for base in task.bases:
        spec = TrainSpec(task=NAME, base=base, epochs=epochs, max_samples=most, kinds=tuple(kinds))
        folder = work / f"{base}-{epochs}-{most}-{'-'.join(kinds)}"
        folder.mkdir(exist_ok=True)
        trainer = Trainer(load_base(base), task, spec, NAME, folder, work / "patches")
        plan = TrainingPlan(paused=False, keep_features=set(kinds) <= {PatchKind.HEAD})
        for _ in trainer.run_slice(plan, FOREVER_S, lambda: False, _tell):
            pass
        for each in trainer.finished:
            rung = RungId(base=base, resolution=each.result.resolution, patch_id=each.result.patch_id)
            rungs.append((rung, work / "patches" / f"{each.result.patch_id}.safetensors"))
    name = data if data == DIGITS else Path(data).name
    return _subject(name, rungs, found.test, task.preprocessing, work)


def _tell(at: JobProgress) -> None:
    print(f"{at.phase}, {at.resolution} px, step {at.step} of {at.steps}   ", end="\r", file=sys.stderr, flush=True)


def _subject(
    name: str, rungs: Sequence[tuple[RungId, Path | None]], samples: tuple[Sample, ...], pre: Preprocessing, work: Path
) -> Subject:
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    bases = {rung.base: load_base(rung.base) for rung, _ in rungs}
    engines: dict[str, Engine] = {name: OpenVinoEngine(base, threads) for name, base in bases.items()}
    runnables = tuple(
        Runnable(rung, engines[rung.base], None if file is None else load_patch(file, bases[rung.base]), pre)
        for rung, file in rungs
    )
    file = work / f"table-{'-'.join(sorted(bases))}.safetensors"
    table = load_table(file) if file.is_file() else None
    if table is None or table.rungs != tuple(rung for rung, _ in rungs) or len(table) != len(samples):
        table = measure(samples, runnables, True, lambda _: None).table
        save_table(table, file)
    return Subject(name, runnables, samples, table)
