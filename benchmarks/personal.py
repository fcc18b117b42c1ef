"""Personalisation: what examples from this user's own camera give on further images of this user, and what they cost.

The task's data set is the train part of a real one. The camera is a fixed corruption: every image of it is darkened,
tinted and blurred. Its images come from the test part: one half of that (by a fixed shuffle) is what the user may hand
over, N of them, drawn by the seed; the other half is held out and scored twice, as the camera gives it ("user") and as
it was ("original"). No image is in both halves, and none of them in the data set. Training is the daemon's own: the
data set and the examples together, each example several times an epoch (`policies/examples.py`), and the patch of the
same seed without examples is the one in force that it has to beat on the validation images.

The intervals are of the mean over seeds (Student's t, 95 %), gains paired by seed. For instance:

    benchmarks/personal.py --data grocery.d --output personal.json
"""

from __future__ import annotations

import argparse
import io
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import finish, parser, print_table
from patchd.daemon.data_labels import labels_of
from patchd.models.bases import Base, load_base
from patchd.models.evaluation import top1
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.policies.decision import TrainingPlan
from patchd.policies.examples import ExampleFile, part_of_next
from patchd.policies.task import Evaluation, PatchKind, RungResult, TaskSpec, TrainSpec
from PIL import Image, ImageEnhance, ImageFilter

KINDS = {"head": (PatchKind.HEAD,), "scale_bias+head": (PatchKind.SCALE_BIAS, PatchKind.HEAD)}
COUNTS, QUICK_COUNTS = (0, 10, 30, 100), (0, 30)
BRIGHTNESS, TINT, BLUR = 0.35, (1.0, 0.85, 0.6), 0.012  # of the short side
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}  # two-sided, by number of values
SHUFFLE_SEED = 20260  # of the test part's two halves


@dataclass(frozen=True)
class Shot:
    """An image of the user's camera: the original file, what the camera made of it, and its class."""

    original: Path
    seen: Path
    label: str


@dataclass(frozen=True)
class Row:
    """What one training gave."""

    kinds: str
    examples: int
    seed: int
    user: Evaluation
    original: Evaluation
    beats: bool  # the patch without examples, on the validation images
    seconds: float


def main() -> None:
    """Run the benchmark."""
    options = _options()
    torch.set_num_threads(options.threads)
    counts = QUICK_COUNTS if options.quick else COUNTS
    with tempfile.TemporaryDirectory(prefix="patchd-personal-") as folder:
        bench = Bench(options, Path(folder))
        rows = [
            row
            for kinds in options.kinds
            for seed in range(1 if options.quick else options.seeds)
            for row in bench.run(kinds, seed, counts)
        ]
    summary = [_summary(rows, kinds, count) for kinds in options.kinds for count in counts]
    print_table(
        ("kinds", "examples", "user", "gain", "original", "change", "beat it", "s"), [_cells(each) for each in summary]
    )
    print(
        f"\n{options.data.name}, {options.resolution} px, {options.epochs} epochs, {len(bench.held_out)} images held "
        f"out, {1 if options.quick else options.seeds} seeds; brackets are 95 % intervals of the mean over seeds"
    )
    finish("personal", {"rows": [_plain(row) for row in rows], "summary": summary}, options.output)


def _options() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--data", type=Path, required=True, metavar="DIR", help="data set: train/CLASS/*, test/CLASS/*")
    made.add_argument("--base", default="lite0")
    made.add_argument("--resolution", type=int, default=96, metavar="PX")
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--seeds", type=int, default=3, choices=range(2, 9))
    made.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    made.add_argument("--max-samples", type=int, help="use at most this many images of the data set")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument(
        "--quick", action="store_true", help="one seed, 64 px, one epoch, few images: shows that it works"
    )
    options = made.parse_args()
    if options.quick:
        options.resolution, options.epochs, options.max_samples = 64, 1, 128
    return options


class Bench:
    """The data set, the user's images and the trainings."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options, self._folder = options, folder
        self._base: Base = load_base(options.base)
        labels = labels_of(str(options.data))
        shots = self._shots(labels)
        random.Random(SHUFFLE_SEED).shuffle(shots)
        half = len(shots) // 2 if not options.quick else min(len(shots) // 2, 100)
        self.pool, self.held_out = shots[:half], shots[half : 2 * half]
        self.task = TaskSpec(
            name="personal", base=options.base, labels=labels, resolutions=(options.resolution,), data=self._data()
        )

    def _data(self) -> str:
        """The data set: its own train part, and the held-out images as they were for its test part."""
        root = self._folder / "data"
        root.mkdir()
        (root / "train").symlink_to((self._options.data / "train").absolute())
        for index, shot in enumerate(self.held_out):
            target = root / "test" / shot.label
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{index}{shot.original.suffix}").symlink_to(shot.original.absolute())
        return str(root)

    def _shots(self, labels: Sequence[str]) -> list[Shot]:
        seen = self._folder / "camera"
        seen.mkdir()
        files = [(path, label) for label in labels for path in sorted((self._options.data / "test" / label).glob("*"))]
        return [Shot(path, seen / f"{index}.jpg", label) for index, (path, label) in enumerate(files)]

    def run(self, kinds: str, seed: int, counts: Sequence[int]) -> list[Row]:
        """One seed: without examples first, then with more and more, each against the first."""
        drawn = random.Random(seed).sample(self.pool, max(counts))
        rows: list[Row] = []
        in_force: Path | None = None
        for count in counts:
            examples = self._examples(drawn[:count])
            began = time.perf_counter()
            result, file = self._train(kinds, seed, examples, in_force)
            seconds = time.perf_counter() - began
            if in_force is None:
                in_force = file
            patch = load_patch(file, self._base)
            items = [(self._seen(shot), self.task.labels.index(shot.label)) for shot in self.held_out]
            user = top1(self._base, items, self._options.resolution, patch, batch_size=32)
            assert result.test is not None
            beats = result.rival is not None and result.validation.accuracy > result.rival.accuracy
            rows.append(Row(kinds, count, seed, user, result.test, beats, seconds))
            print(f"{kinds}, seed {seed}, {count} examples: user {user.accuracy:.3f}, {seconds:.0f} s", flush=True)
        return rows

    def _seen(self, shot: Shot) -> Path:
        if not shot.seen.exists():
            shot.seen.write_bytes(camera(shot.original))
        return shot.seen

    def _examples(self, shots: Sequence[Shot]) -> list[ExampleFile]:
        """As the daemon takes them, one after the other."""
        counts: dict[str, dict[str, int]] = {}
        made = []
        for index, shot in enumerate(shots):
            own = counts.setdefault(shot.label, {"train": 0, "validation": 0})
            part = part_of_next(own["train"], own["validation"])
            own[part] += 1
            made.append(
                ExampleFile(
                    id=f"ex-{index}", task=self.task.name, path=str(self._seen(shot)), label=shot.label, part=part
                )
            )
        return made

    def _train(
        self, kinds: str, seed: int, examples: Sequence[ExampleFile], in_force: Path | None
    ) -> tuple[RungResult, Path]:
        spec = TrainSpec(
            task=self.task.name,
            kinds=KINDS[kinds],
            epochs=self._options.epochs,
            seed=seed,
            max_samples=self._options.max_samples,
        )
        name = f"{kinds}-{seed}-{len(examples)}"
        checkpoints, patches = self._folder / name, self._folder / "patches"
        for directory in (checkpoints, patches):
            directory.mkdir(exist_ok=True)
        trainer = Trainer(self._base, self.task, spec, name, checkpoints, patches, examples)
        if in_force is not None:
            trainer.in_force = {self._options.resolution: in_force}
        plan = TrainingPlan(paused=False, keep_features=kinds == "head", reach=0.0 if kinds == "head" else 1.0)
        (finished,) = trainer.run_slice(plan, float("inf"), lambda: False, lambda _: None)
        return finished.result, patches / f"{finished.result.patch_id}.safetensors"


def camera(file: Path) -> bytes:
    """What the user's camera makes of a scene: dark, yellowish, out of focus; a JPEG."""
    with Image.open(file) as opened:
        image = opened.convert("RGB")
    dark = ImageEnhance.Brightness(image).enhance(BRIGHTNESS)
    bands = [
        band.point([round(value * share) for value in range(256)])
        for band, share in zip(dark.split(), TINT, strict=True)
    ]
    blurred = Image.merge("RGB", bands).filter(ImageFilter.GaussianBlur(max(0.6, BLUR * min(image.size))))
    with io.BytesIO() as buffer:
        blurred.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()


def _summary(rows: Sequence[Row], kinds: str, count: int) -> dict[str, Any]:
    own = [row for row in rows if (row.kinds, row.examples) == (kinds, count)]
    first = {row.seed: row for row in rows if (row.kinds, row.examples) == (kinds, 0)}
    return {
        "kinds": kinds,
        "examples": count,
        "user": _mean([row.user.accuracy for row in own]),
        "gain": _mean([row.user.accuracy - first[row.seed].user.accuracy for row in own]),
        "original": _mean([row.original.accuracy for row in own]),
        "change": _mean([row.original.accuracy - first[row.seed].original.accuracy for row in own]),
        "beat": None if count == 0 else [sum(row.beats for row in own), len(own)],
        "seconds": statistics.median(row.seconds for row in own),
    }


def _mean(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and half the width of its 95 % interval; None of a single value."""
    if len(values) < 2:
        return statistics.fmean(values), None
    return statistics.fmean(values), T95[len(values)] * statistics.stdev(values) / len(values) ** 0.5


def _cells(each: dict[str, Any]) -> tuple[object, ...]:
    shown = {}
    for name in ("user", "gain", "original", "change"):
        mean, half = each[name]
        sign = "+" if name in ("gain", "change") else ""
        shown[name] = f"{100 * mean:{sign}.1f}" + ("" if half is None else f" [{100 * half:.1f}]")
    beat = "" if each["beat"] is None else f"{each['beat'][0]} of {each['beat'][1]}"
    return each["kinds"], each["examples"], *shown.values(), beat, each["seconds"]


def _plain(row: Row) -> dict[str, Any]:
    return {
        "kinds": row.kinds,
        "examples": row.examples,
        "seed": row.seed,
        "user": row.user.model_dump(),
        "original": row.original.model_dump(),
        "beats": row.beats,
        "seconds": row.seconds,
    }


if __name__ == "__main__":
    main()
