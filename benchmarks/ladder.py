"""Ladders: each rung against the network that was trained for its resolution alone, and against cheaper ways.

All trainings are jobs of patchd's own trainer. With labels, for each resolution:

- own: scale and bias + head, trained at that resolution alone, without a teacher: what the others are compared with
- as it is: the weights of the full resolution's own network, used at the lower one
- statistics: the same, with the batch norms' statistics estimated anew on the training images, nothing learned
- full: as own, taught by the full resolution's own network; ensemble: taught by the own networks of all resolutions
- unlabelled: scale and bias, begun as the full resolution's network and taught by it alone; its head is kept
- everything (with `--everything`): own, with all of the base unfrozen

Without labels (`--images` with `--index`): one half of the images teaches the bare base's rungs, the other half, with
their labels, scores. The learning rate of what has no labels is chosen among `--rates` by the agreement with the
teacher on images held out, as patchd would publish. All else has the default rates; nothing is tuned on scored images.

Differences are in points, with the 95 % interval of a paired bootstrap over the scored images. `--work` keeps patches
and answers: a second run takes them from there. `--output` is written anew after each resolution. For instance:

    benchmarks/ladder.py --data grocery --images imagenet_sample/test --index imagenet_sample/imagenet_index.tsv \\
        --resolutions 160 128 96 --output ladder.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, parser, print_table
from numpy.typing import NDArray
from patchd.models.bases import Base, imagenet_labels, load_base
from patchd.models.datasets import Sample, file_sample, open_data
from patchd.models.training import Trainer
from patchd.models.training.answers import RungAnswers
from patchd.models.training.inputs import permutation
from patchd.policies.decision import TrainingPlan
from patchd.policies.task import PatchKind, RungResult, TaskSpec, Teacher, TrainSpec
from patchd.policies.teaching import RungInForce
from top1 import index_of_classes, items

K = PatchKind
BOTH = (K.SCALE_BIAS, K.HEAD)
RESAMPLES = 10_000
HALVES_SALT = 17

Right = NDArray[np.bool_]  # [n], whether each scored image was answered right


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Subject:
    """A task, and the images that score it."""

    task: TaskSpec
    scored: tuple[Sample, ...]

    @property
    def full(self) -> int:
        """The teacher's resolution."""
        return max(self.task.resolutions)

    @property
    def lower(self) -> tuple[int, ...]:
        """The others, finest first."""
        return tuple(sorted(set(self.task.resolutions) - {self.full}, reverse=True))


class Bench:
    """Jobs and scores of one subject, kept below a directory."""

    def __init__(self, base: Base, subject: Subject, work: Path, options: argparse.Namespace) -> None:
        self.base, self.subject, self.options = base, subject, options
        self.patches, self.jobs, self.answers = (work / name for name in ("patches", "jobs", "answers"))
        for directory in (self.patches, self.jobs, self.answers):
            directory.mkdir(parents=True, exist_ok=True)

    def job(
        self, name: str, spec: TrainSpec, in_force: Sequence[RungInForce] = (), fraction: float = 0.0
    ) -> tuple[RungResult, ...]:
        """Train to the end, or take the results of an earlier run."""
        checkpoints = self.jobs / name
        checkpoints.mkdir(exist_ok=True)
        began = time.monotonic()
        trainer = Trainer(self.base, self.subject.task, spec, name, checkpoints, self.patches)
        trainer.in_force = {own.resolution: None if own.file is None else Path(own.file) for own in in_force}
        plan = TrainingPlan(paused=False, fraction=fraction)
        list(trainer.run_slice(plan, math.inf, lambda: False, lambda _progress: None))
        results = tuple(finished.result for finished in trainer.finished)
        shown = ", ".join(f"{r.resolution} px {r.validation.measure} {r.validation.accuracy:.1%}" for r in results)
        say(f"  {name}: {shown}; {time.monotonic() - began:.0f} s")
        return results

    def spec(self, **changes: Any) -> TrainSpec:
        """The effort that all jobs share."""
        return TrainSpec(
            task=self.subject.task.name,
            epochs=self.options.epochs,
            max_samples=self.options.samples,
            seed=self.options.seed,
            **changes,
        )

    def in_force(self, result: RungResult, resolution: int | None = None) -> RungInForce:
        """A result as a rung, at its own or at another resolution."""
        file = str(self.patches / f"{result.patch_id}.safetensors")
        return RungInForce(resolution=resolution or result.resolution, file=file)

    def right(self, rung: RungInForce) -> Right:
        """Which of the scored images a rung answers right."""
        scored = self.subject.scored
        answers = RungAnswers(self.base, rung, scored, self.subject.task.preprocessing, self.answers)
        answers.run(lambda: False)
        answers.save()
        first = answers.logits.argmax(1).numpy()
        return np.asarray(first == np.array([sample.label for sample in scored]))

    def at_best_rate(self, name: str, in_force: Sequence[RungInForce], **changes: Any) -> dict[int, RungResult]:
        """The job at each rate; for each resolution the result that agrees best with its teacher."""
        best: dict[int, RungResult] = {}
        for rate in sorted(self.options.rates):
            for result in self.job(f"{name}-{rate:g}", self.spec(learning_rate=rate, **changes), in_force):
                known = best.get(result.resolution)
                if known is None or result.validation.accuracy > known.validation.accuracy:
                    best[result.resolution] = result.model_copy(update={"note": f"rate {rate:g}"})
        return best


def labelled(bench: Bench, options: argparse.Namespace, unlabelled: Path) -> dict[str, dict[int, RungInForce]]:
    """All ways with labels, and that without on the very same images: by name and resolution."""
    subject = bench.subject
    own = {
        result.resolution: result
        for result in bench.job("own", bench.spec(kinds=BOTH, resolutions=(subject.full, *subject.lower)))
    }
    whole = [bench.in_force(own[subject.full])]
    every = [bench.in_force(result) for result in own.values()]
    ways: dict[str, dict[int, RungInForce]] = {
        "own": {side: bench.in_force(result) for side, result in own.items()},
        "as it is": {side: bench.in_force(own[subject.full], side) for side in subject.lower},
    }
    specs = {
        "statistics": (bench.spec(kinds=(K.STATISTICS,), resolutions=subject.lower), whole),
        "full": (bench.spec(kinds=BOTH, resolutions=subject.lower, teacher=Teacher.FULL), whole),
        "ensemble": (bench.spec(kinds=BOTH, resolutions=subject.lower, teacher=Teacher.ENSEMBLE), every),
    }
    for name, (spec, in_force) in specs.items():
        ways[name] = {result.resolution: bench.in_force(result) for result in bench.job(name, spec, in_force)}
    found = bench.at_best_rate(
        "unlabelled",
        whole,
        kinds=(K.SCALE_BIAS,),
        resolutions=subject.lower,
        teacher=Teacher.FULL,
        unlabelled=str(unlabelled),
    )
    ways["unlabelled"] = {side: bench.in_force(result) for side, result in found.items()}
    if options.everything:
        spec = bench.spec(kinds=BOTH, resolutions=(subject.full, *subject.lower))
        ways["everything"] = {r.resolution: bench.in_force(r) for r in bench.job("everything", spec, fraction=1.0)}
    return ways


def without_labels(bench: Bench, images: Path) -> dict[str, dict[int, RungInForce]]:
    """The bare base's rungs, their statistics anew, and taught by the full resolution."""
    lower = bench.subject.lower
    bare = {side: RungInForce(resolution=side) for side in bench.subject.task.resolutions}
    given: dict[str, Any] = {"resolutions": lower, "teacher": Teacher.FULL, "unlabelled": str(images)}
    statistics = bench.job("statistics", bench.spec(kinds=(K.STATISTICS,), **given), tuple(bare.values()))
    taught = bench.at_best_rate("unlabelled", tuple(bare.values()), kinds=(K.SCALE_BIAS,), **given)
    return {
        "as it is": bare,
        "statistics": {result.resolution: bench.in_force(result) for result in statistics},
        "unlabelled": {side: bench.in_force(result) for side, result in taught.items()},
    }


def difference(ours: Right, theirs: Right) -> dict[str, float]:
    """Points by which `ours` is better, with the 95 % interval of a paired bootstrap."""
    apart = 100.0 * (ours.astype(np.float64) - theirs.astype(np.float64))
    generator = np.random.default_rng(0)
    means = [float(apart[generator.integers(len(apart), size=len(apart))].mean()) for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975])
    return {"points": float(apart.mean()), "low": float(low), "high": float(high)}


def compare(bench: Bench, ways: Mapping[str, Mapping[int, RungInForce]], against: str) -> list[dict[str, Any]]:
    """Every way at every resolution, with its difference from the way called `against`."""
    rows = []
    for side in sorted(bench.subject.task.resolutions, reverse=True):
        reference = bench.right(ways[against][side])
        for name, rungs in ways.items():
            if side in rungs:
                right = bench.right(rungs[side])
                row: dict[str, Any] = {"resolution": side, "way": name, "top1": float(right.mean()), "n": len(right)}
                rows.append(row if name == against else {**row, "difference": difference(right, reference)})
    return rows


def show(title: str, rows: Sequence[Mapping[str, Any]], against: str) -> None:
    """One table."""
    print(f"\n{title}")
    print_table(
        ("input", "way", "top-1", f"against '{against}', points [95 %]"),
        [
            (
                f"{row['resolution']} px",
                row["way"],
                f"{row['top1']:.1%}",
                f"{d['points']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]" if (d := row.get("difference")) else "",
            )
            for row in rows
        ],
    )


def tiny_test(data: Path, place: Path) -> Path:
    """The same training part with one test image a class: what the trainer scores, this program scores by itself."""
    made = place / "data"
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    (made / "train").symlink_to((data / "train").absolute())
    for folder in sorted((data / "test").iterdir()):
        images = sorted(path for path in folder.iterdir() if path.is_file())
        if images:
            (made / "test" / folder.name).mkdir(parents=True)
            (made / "test" / folder.name / images[0].name).symlink_to(images[0].absolute())
    return made


def halves(images: Path, index: Path, place: Path, seed: int, most: int | None) -> tuple[Path, tuple[Sample, ...]]:
    """One half as a directory without labels, the other as samples."""
    listed = items(images, index_of_classes(index), None)
    order = permutation(len(listed), seed, HALVES_SALT).tolist()[: None if most is None else 2 * most]
    taught = place / "unlabelled"
    shutil.rmtree(taught, ignore_errors=True)
    taught.mkdir(parents=True)
    for number in order[::2]:
        file = listed[number][0].absolute()
        (taught / f"{file.parent.name}-{file.name}").symlink_to(file)
    return taught, tuple(file_sample(*listed[number]) for number in order[1::2])


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Everything that was asked for."""
    base = load_base(options.base)
    sides = (options.full, *options.resolutions)
    result: dict[str, Any] = {"epochs": options.epochs, "samples": options.samples, "rates": options.rates}

    def keep(name: str, rows: list[dict[str, Any]]) -> None:
        result[name] = rows
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({"unfinished": result}, indent=2) + "\n", encoding="utf-8")

    if options.data is not None:
        place = work / "labelled"
        data = tiny_test(options.data, place)
        scored = open_data(str(options.data)).test[: options.held_out]
        task = TaskSpec(
            name="labelled",
            base=base.name,
            labels=open_data(str(data)).labels,
            resolutions=sides,
            data=str(data),
        )
        bench = Bench(base, Subject(task, scored), place, options)
        say(f"{options.data.name}: {len(scored)} images to score")
        rows = compare(bench, labelled(bench, options, options.data / "train"), "own")
        keep("labelled", rows)
        show(f"{options.data.name}, with labels", rows, "own")
    if options.images is not None:
        place = work / "unlabelled"
        taught, scored = halves(options.images, options.index, place, options.seed, options.held_out)
        task = TaskSpec(name="bare", base=base.name, labels=imagenet_labels(), resolutions=sides, builtin=True)
        bench = Bench(base, Subject(task, scored), place, options)
        say(f"{options.images}: {len(scored)} images to score")
        rows = compare(bench, without_labels(bench, taught), "as it is")
        keep("unlabelled", rows)
        show("the bare base, without labels", rows, "as it is")
    return result


def main() -> None:
    """Measure and print."""
    made = parser(__doc__)
    made.add_argument("--data", type=Path, metavar="D", help="directory of train/CLASS/* and test/CLASS/*")
    made.add_argument(
        "--images", type=Path, metavar="DIR", help="directory of FOLDER/* of images of ImageNet's classes"
    )
    made.add_argument("--index", type=Path, metavar="FILE", help="tab-separated: folder name, ImageNet index")
    made.add_argument("--base", default="lite0")
    made.add_argument("--full", type=int, default=224, help="the teacher's resolution, pixels [224]")
    made.add_argument("--resolutions", type=int, nargs="+", default=[192, 160, 128, 96], help="the other rungs, pixels")
    made.add_argument("--samples", type=int, default=400, help="training images at most [400]")
    made.add_argument("--held-out", type=int, default=None, help="scored images at most [all]")
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--rates", type=float, nargs="+", default=[2e-4, 5e-4], help="of what has no labels")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--everything", action="store_true", help="also with all of the base unfrozen")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--work", type=Path, metavar="DIR", help="keep patches and answers there")
    made.add_argument("--quick", action="store_true", help="two small rungs, few images, one epoch: does it work?")
    options = made.parse_args()
    if options.data is None and options.images is None:
        made.error("give --data, --images, or both")
    if (options.images is None) != (options.index is None):
        made.error("--images and --index belong together")
    torch.set_num_threads(options.threads)
    if options.quick:
        options.full, options.resolutions, options.samples, options.held_out = 96, [64], 64, 40
        options.epochs, options.rates = 1, [5e-4]
    if options.work is not None:
        finish("ladder", measure(options, options.work), options.output)
        return
    with tempfile.TemporaryDirectory(prefix="patchd-ladder-") as work:
        finish("ladder", measure(options, Path(work)), options.output)


if __name__ == "__main__":
    main()
