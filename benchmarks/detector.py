"""Detector to classifier: the feature extractor of an SSDLite detector, re-purposed by patches.

A detector on MobileNetV2 is trained on scenes of the digits 0 to 4. Its backbone then becomes a base, and the trainer
makes a classifier of the digits 5 to 9, which stand in no scene: by a new head alone, by scale and bias with a head,
and by everything. Normalisation statistics stay the detector's. At the end the detector must have every bit, and its
mean average precision, that it had before.

Everything follows from seeds. A row's learning rate is the best of its list on the validation part of the first seed;
test pictures are only ever reported. Other images of the digits make the test scenes and pictures than the training
ones. Weights are kept in a temporary directory.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import finish, parser, print_table
from patchd.models.bases import Base, fingerprint
from patchd.models.checkpoint import Finished
from patchd.models.datasets import normalised
from patchd.models.detection import Boxes, Targets, detect, match, mean_average_precision, ssd_loss
from patchd.models.engine import TorchEngine
from patchd.models.evaluation import evaluate
from patchd.models.networks import MobileNetV2, SSDLite
from patchd.models.patches import load_patch
from patchd.models.trainer import Trainer
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import TrainingError
from patchd.policies.task import PatchKind, Preprocessing, TaskSpec, TrainSpec
from PIL import Image
from scenes import Digits, Scenes, compose_pictures, compose_scenes, digits

SIDE = 64  # of scenes and pictures, pixels
WIDTH = 0.5
DETECTED, CLASSIFIED = range(5), range(5, 10)
IN_SCENES, IN_PICTURES = (12, 32), (24, 56)  # sides of digits, pixels
MOST = 3  # digits in a scene
BATCH = 32
RATE, WARM_UP, WEIGHT_DECAY = 3e-3, 50, 1e-2  # of the detector's training
MOMENTUM = 0.03  # of its running statistics: at 0.01 they would lag behind a training as short as this
PREPROCESSING = Preprocessing(crop_fraction=1.0)


@dataclass(frozen=True)
class Effort:
    """How much is trained: scenes and steps of the detector, epochs and seeds of the classifiers."""

    train_scenes: int
    test_scenes: int
    steps: int
    epochs: int
    seeds: int
    rates: int  # how many of a row's learning rates are tried


FULL = Effort(train_scenes=4000, test_scenes=400, steps=1500, epochs=20, seeds=3, rates=3)
QUICK = Effort(train_scenes=64, test_scenes=32, steps=20, epochs=1, seeds=2, rates=1)


@dataclass(frozen=True)
class Row:
    """One way to make a classifier: patch kinds, share of the base's convolutions beside them, rates to try."""

    name: str
    kinds: tuple[PatchKind, ...]
    fraction: float
    rates: tuple[float, ...]


BOTH = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
ROWS = (
    Row("head only", (PatchKind.HEAD,), 0.0, (1e-2, 3e-2, 1e-1)),
    Row("scale and bias + head", BOTH, 0.0, (3e-3, 1e-2, 3e-2)),
    Row("everything", BOTH, 1.0, (1e-3, 3e-3, 1e-2)),
)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def train_detector(scenes: Scenes, steps: int) -> SSDLite:
    """An SSDLite detector of the digits 0 to 4, in eval mode."""
    torch.manual_seed(0)
    detector = SSDLite(MobileNetV2(WIDTH, classes=len(CLASSIFIED)), len(DETECTED), SIDE)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = MOMENTUM
    detector.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    matched = [match(each, detector.defaults) for each in scenes.truth]
    classes, offsets = torch.stack([m.classes for m in matched]), torch.stack([m.offsets for m in matched])
    parameters = [parameter for name, parameter in detector.named_parameters() if "classifier" not in name]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=WEIGHT_DECAY)
    began = time.monotonic()
    for step, chosen in zip(range(steps), batches(len(classes)), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        logits, moves = detector(normalised(scenes.pictures[chosen], PREPROCESSING))
        loss = ssd_loss(logits, moves, Targets(classes[chosen], offsets[chosen]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if (step + 1) % 100 == 0:
            say(f"detector: step {step + 1} of {steps}, loss {loss.item():.2f}, {time.monotonic() - began:.0f} s")
    return detector.eval()


def batches(count: int) -> Iterator[torch.Tensor]:
    """Indices below `count` in batches, in a new order each time round."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from torch.split(torch.randperm(count, generator=generator), BATCH)


def precision(detector: SSDLite, scenes: Scenes) -> float:
    """Its mean average precision at an IoU of 0.5."""
    found: list[Boxes] = []
    for pictures in torch.split(scenes.pictures, 2 * BATCH):
        found += detect(detector, normalised(pictures, PREPROCESSING))
    return mean_average_precision(found, scenes.truth)


def write_pictures(root: Path, train: Digits, test: Digits, seed: int) -> None:
    """A data set of pictures of one digit each; training pictures follow from the seed, test pictures are fixed."""
    for part, source, own in (("train", train, 1000 + seed), ("test", test, 999)):
        pictures = compose_pictures(source, SIDE, IN_PICTURES, own)
        for index, (picture, label) in enumerate(zip(pictures, source.labels, strict=True)):
            folder = root / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.numpy(), "RGB").save(folder / f"{index}.png")


class Repurposing:
    """Trains classifiers on one base, in the current directory."""

    def __init__(self, base: Base, epochs: int) -> None:
        self.base, self.epochs = base, epochs

    def train(self, row: Row, rate: float, seed: int) -> Finished | None:
        """One classifier; None when its loss was no longer a number."""
        task = TaskSpec(
            name="digits",
            base=self.base.name,
            labels=tuple(map(str, CLASSIFIED)),
            resolutions=(SIDE,),
            data=f"pictures-{seed}",
            preprocessing=PREPROCESSING,
        )
        spec = TrainSpec(
            task=task.name, kinds=row.kinds, epochs=self.epochs, batch_size=BATCH, learning_rate=rate, seed=seed
        )
        name = f"{row.name} {rate} {seed}"
        checkpoints = Path("checkpoints", name)
        checkpoints.mkdir(parents=True)
        Path("patches").mkdir(exist_ok=True)
        trainer = Trainer(self.base, task, spec, name, checkpoints, Path("patches"))
        plan = TrainingPlan(paused=False, fraction=row.fraction)
        try:
            (finished,) = trainer.run_slice(plan, math.inf, lambda: False, lambda _progress: None)
        except TrainingError as error:
            say(f"{row.name}, rate {rate:g}, seed {seed}: {error}")
            return None
        result = finished.result
        say(
            f"{row.name}, rate {rate:g}, seed {seed}: validation {result.validation.accuracy:.1%}"
            f" of {result.validation.samples}, {result.seconds:.0f} s"
        )
        return finished

    def measure(self, row: Row, seeds: int, rates: int) -> dict[str, Any]:
        """The row's classifiers at the rate that is best on the first seed's validation part, the lowest of equals."""
        tried = {rate: self.train(row, rate, 0) for rate in row.rates[:rates]}
        validation = {rate: 0.0 if f is None else f.result.validation.accuracy for rate, f in tried.items()}
        rate = max(validation, key=lambda each: validation[each])
        results = [tried[rate], *(self.train(row, rate, seed) for seed in range(1, seeds))]
        if any(found is None for found in results):
            raise RuntimeError(f"'{row.name}' diverged at its best rate {rate:g}; add a lower one to its list.")
        finished = [found for found in results if found is not None]
        tests = [found.result.test for found in finished]
        return {
            "row": row.name,
            "rate": rate,
            "validation": validation,
            "parameters": finished[0].result.parameters,
            "share": finished[0].result.share,
            "tests": [test.model_dump() for test in tests if test is not None],
            "mean": statistics.fmean(test.accuracy for test in tests if test is not None),
            "seconds": statistics.fmean(found.result.seconds for found in finished),
            "patches": [found.result.patch_id for found in finished],
        }


def check_patch(base: Base, patch_id: str, test: Digits, expected: float) -> None:
    """Read a patch back from its file and score it on the test pictures. Raises RuntimeError for another score."""
    patch = load_patch(Path("patches", f"{patch_id}.safetensors"), base)
    engine = TorchEngine(base, torch.get_num_threads())
    pictures = normalised(compose_pictures(test, SIDE, IN_PICTURES, 999), PREPROCESSING)
    labels = [int(label) - CLASSIFIED[0] for label in test.labels]
    score = evaluate(lambda batch: engine.run(batch, patch).logits, pictures, labels).accuracy
    engine.patched.remove()
    if score != expected:
        raise RuntimeError(f"The patch {patch_id[:12]} scores {score:.4f} from its file, {expected:.4f} in training.")


def repurpose(detector: SSDLite, effort: Effort, train: Digits, test: Digits) -> list[dict[str, Any]]:
    """Every row's entry."""
    base = Base("ssdlite-backbone", detector.backbone, SIDE)
    with tempfile.TemporaryDirectory(prefix="patchd-bench-") as folder, contextlib.chdir(folder):
        # Relative paths: what belongs to the validation part follows from the pictures' names.
        for seed in range(effort.seeds):
            write_pictures(Path(f"pictures-{seed}"), train, test, seed)
        work = Repurposing(base, effort.epochs)
        rows = [work.measure(row, effort.seeds, effort.rates) for row in ROWS]
        for row in rows:
            check_patch(base, row["patches"][0], test, row["tests"][0]["accuracy"])
    return rows


def table(rows: Sequence[dict[str, Any]]) -> None:
    """A line a row."""
    seeds = len(rows[0]["tests"])
    print_table(
        (
            "learned",
            "parameters",
            "of base",
            "rate",
            *(f"seed {seed}: top-1 [95 %]" for seed in range(seeds)),
            "mean",
            "training s",
        ),
        [
            (
                row["row"],
                row["parameters"],
                f"{row['share']:.2%}",
                f"{row['rate']:g}",
                *(f"{t['accuracy']:.1%} [{100 * t['low']:.1f}, {100 * t['high']:.1f}]" for t in row["tests"]),
                f"{row['mean']:.1%}",
                f"{row['seconds']:.1f}",
            )
            for row in rows
        ],
    )


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--quick", action="store_true", help="seconds in place of minutes: shows that it runs, no more")
    made.add_argument(
        "--threads", type=int, default=1, help="of torch; results follow from the seeds at one number only [default: 1]"
    )
    arguments = made.parse_args()
    effort = QUICK if arguments.quick else FULL
    torch.set_num_threads(arguments.threads)
    train, test = digits()
    scenes = compose_scenes(train.only(DETECTED), effort.train_scenes, SIDE, IN_SCENES, MOST, seed=1)
    held_out = compose_scenes(test.only(DETECTED), effort.test_scenes, SIDE, IN_SCENES, MOST, seed=2)
    began = time.monotonic()
    detector = train_detector(scenes, effort.steps)
    seconds = time.monotonic() - began
    before, score = fingerprint(detector), precision(detector, held_out)
    objects = sum(len(truth) for truth in held_out.truth)
    say(f"detector: trained in {seconds:.0f} s, mAP {score:.4f}")
    rows = repurpose(detector, effort, train.only(CLASSIFIED), test.only(CLASSIFIED))
    after = precision(detector, held_out)
    if fingerprint(detector) != before or after != score:
        raise RuntimeError(f"The detector is no longer what it was: mAP {after:.4f} where it had {score:.4f}.")
    table(rows)
    print(f"\ntest pictures: {rows[0]['tests'][0]['samples']}, the same for every seed; {arguments.threads} threads")
    print(
        f"detector: mAP at IoU 0.5 {score:.4f} on {len(held_out.truth)} held-out scenes with {objects} digits, trained"
        f" in {seconds:.0f} s; after all of the above {after:.4f}, fingerprint unchanged ({before[:12]})"
    )
    result = {"detector": {"map": score, "map_after": after, "seconds": seconds, "fingerprint": before}, "rows": rows}
    finish("detector", {"threads": arguments.threads, **result}, arguments.output)


if __name__ == "__main__":
    main()
