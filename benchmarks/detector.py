"""Detector to classifier: the feature extractor of an SSDLite detector, re-purposed by patches.

A detector on MobileNetV2 is trained on scenes of the digits 0 to 4. Its backbone then becomes a base, and the trainer
makes a classifier of the digits 5 to 9, which stand in no scene: by a new head alone, by scale and bias with a head,
and by everything. Normalisation statistics stay the detector's. At the end the detector must have every bit, and its
mean average precision, that it had before.

Everything follows from seeds. Half of the digits' images make what is trained on, the other half what is tested on.
A row's learning rate is the best of its list in a training of its own, on a fifth of the training half's images that
this training does not see; test pictures are only ever reported. Weights are kept in a temporary directory.
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
from patchd.models.datasets import normalised
from patchd.models.detection import Boxes, Targets, detect, match, mean_average_precision, ssd_loss
from patchd.models.engine import TorchEngine
from patchd.models.evaluation import evaluate
from patchd.models.networks import MobileNetV2, SSDLite
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import TrainingError
from patchd.policies.task import Evaluation, PatchKind, Preprocessing, RungResult, TaskSpec, TrainSpec
from PIL import Image
from scenes import Digits, Scenes, compose_pictures, compose_scenes, digits

SCENE, PICTURE = 64, 32  # sides, pixels
WIDTH = 0.5
DETECTED, CLASSIFIED = range(5), range(5, 10)
IN_SCENES, IN_PICTURES = (12, 32), (14, 30)  # sides of digits, pixels
MOST = 3  # digits in a scene
COPIES = 4  # pictures of each image to train on or to choose rates by; one to test on, for intervals want it so
TEST_SEED, FIRST_SEED = 999, 1000  # of the pictures
HELD_OUT = 5  # one in so many training images is kept for choosing rates
BATCH = 32
RATE, WARM_UP, WEIGHT_DECAY = 3e-3, 50, 1e-2  # of the detector's training
MOMENTUM = 0.03  # of its running statistics: at 0.01 they would lag behind a training as short as this
PATCHES = Path("patches")
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


FULL = Effort(train_scenes=4000, test_scenes=400, steps=1500, epochs=16, seeds=3, rates=4)
QUICK = Effort(train_scenes=64, test_scenes=32, steps=20, epochs=1, seeds=1, rates=1)


@dataclass(frozen=True)
class Row:
    """One way to make a classifier: patch kinds, share of the base's convolutions beside them, rates to try."""

    name: str
    kinds: tuple[PatchKind, ...]
    fraction: float
    rates: tuple[float, ...]


BOTH = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
ROWS = (
    Row("head only", (PatchKind.HEAD,), 0.0, (1e-2, 3e-2, 1e-1, 3e-1)),
    Row("scale and bias + head", BOTH, 0.0, (3e-3, 1e-2, 3e-2)),
    Row("everything", BOTH, 1.0, (5e-4, 1.5e-3, 5e-3)),
)


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def train_detector(scenes: Scenes, steps: int) -> SSDLite:
    """An SSDLite detector of the digits 0 to 4, in eval mode."""
    torch.manual_seed(0)
    detector = SSDLite(MobileNetV2(WIDTH, classes=len(CLASSIFIED)), len(DETECTED), SCENE)
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
    for part, source, own in (("train", train, FIRST_SEED + seed), ("test", test, TEST_SEED)):
        pictures = compose_pictures(source, PICTURE, IN_PICTURES, own)
        for index, (picture, label) in enumerate(zip(pictures, source.labels, strict=True)):
            folder = root / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.numpy(), "RGB").save(folder / f"{index}.png")


class Repurposing:
    """Trains classifiers on one base, in the current directory."""

    def __init__(self, base: Base, epochs: int) -> None:
        self.base, self.epochs = base, epochs

    def train(self, row: Row, rate: float, data: str, seed: int) -> tuple[RungResult, float] | None:
        """One classifier and its processor seconds; None when its loss was no longer a number."""
        task = TaskSpec(
            name="digits",
            base=self.base.name,
            labels=tuple(map(str, CLASSIFIED)),
            resolutions=(PICTURE,),
            data=data,
            preprocessing=PREPROCESSING,
        )
        spec = TrainSpec(
            task=task.name, kinds=row.kinds, epochs=self.epochs, batch_size=BATCH, learning_rate=rate, seed=seed
        )
        name = f"{row.name}, rate {rate:g}, {data}"
        checkpoints = Path("checkpoints", name)
        checkpoints.mkdir(parents=True)
        PATCHES.mkdir(exist_ok=True)
        trainer = Trainer(self.base, task, spec, name, checkpoints, PATCHES)
        plan = TrainingPlan(paused=False, fraction=row.fraction)
        began = time.process_time()
        try:
            (finished,) = trainer.run_slice(plan, math.inf, lambda: False, lambda _progress: None)
        except TrainingError as error:
            say(f"{name}: {error}")
            return None
        seconds = time.process_time() - began
        say(f"{name}: top-1 {tested(finished.result).accuracy:.1%}, {seconds:.0f} s")
        return finished.result, seconds

    def measure(self, row: Row, seeds: int, rates: int) -> dict[str, Any]:
        """The row's classifiers at its best rate, the lowest of equals."""
        tried = {rate: self.train(row, rate, "choice", 0) for rate in row.rates[:rates]}
        validation = {rate: 0.0 if found is None else tested(found[0]).accuracy for rate, found in tried.items()}
        rate = max(validation, key=lambda each: validation[each])
        trained = [self.train(row, rate, f"seed-{seed}", seed) for seed in range(seeds)]
        found = [each for each in trained if each is not None]
        if len(found) < seeds:
            raise RuntimeError(f"'{row.name}' diverged at its best rate {rate:g}; add a lower one to its list.")
        results = [result for result, _ in found]
        return {
            "row": row.name,
            "rate": rate,
            "validation": validation,
            "parameters": results[0].parameters,
            "share": results[0].share,
            "tests": [tested(result).model_dump() for result in results],
            "mean": statistics.fmean(tested(result).accuracy for result in results),
            "seconds": statistics.fmean(seconds for _, seconds in found),
            "patches": [result.patch_id for result in results],
        }


def tested(result: RungResult) -> Evaluation:
    """The score on the test part, which every data set here has."""
    assert result.test is not None
    return result.test


def check_patch(base: Base, patch_id: str, test: Digits, expected: float) -> None:
    """Read a patch back from its file and score it on the test pictures. Raises RuntimeError for another score."""
    patch = load_patch(PATCHES / f"{patch_id}.safetensors", base)
    engine = TorchEngine(base, torch.get_num_threads())
    pictures = normalised(compose_pictures(test, PICTURE, IN_PICTURES, TEST_SEED), PREPROCESSING)
    labels = [int(label) - CLASSIFIED[0] for label in test.labels]
    score = evaluate(lambda batch: engine.run(batch, patch).logits, pictures, labels).accuracy
    engine.patched.remove()
    if score != expected:
        raise RuntimeError(f"The patch {patch_id[:12]} scores {score:.4f} from its file, {expected:.4f} in training.")


def repurpose(detector: SSDLite, effort: Effort, train: Digits, test: Digits) -> list[dict[str, Any]]:
    """Every row's entry."""
    base = Base("ssdlite-backbone", detector.backbone, PICTURE)
    with tempfile.TemporaryDirectory(prefix="patchd-bench-") as folder, contextlib.chdir(folder):
        # Relative paths: which images the trainer keeps from training follows from their names.
        kept, others = train.apart(HELD_OUT)
        write_pictures(Path("choice"), kept.times(COPIES), others.times(COPIES), 0)
        for seed in range(effort.seeds):
            write_pictures(Path(f"seed-{seed}"), train.times(COPIES), test, seed)
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
            "processor s",
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
    scenes = compose_scenes(train.only(DETECTED), effort.train_scenes, SCENE, IN_SCENES, MOST, seed=1)
    held_out = compose_scenes(test.only(DETECTED), effort.test_scenes, SCENE, IN_SCENES, MOST, seed=2)
    began = time.process_time()
    detector = train_detector(scenes, effort.steps)
    seconds = time.process_time() - began
    before, score = fingerprint(detector), precision(detector, held_out)
    objects = sum(len(truth) for truth in held_out.truth)
    say(f"detector: trained in {seconds:.0f} processor seconds, mAP {score:.4f}")
    rows = repurpose(detector, effort, train.only(CLASSIFIED), test.only(CLASSIFIED))
    after = precision(detector, held_out)
    if fingerprint(detector) != before or after != score:
        raise RuntimeError(f"The detector is no longer what it was: mAP {after:.4f} where it had {score:.4f}.")
    table(rows)
    print(f"\ntest pictures: {rows[0]['tests'][0]['samples']}, the same for every seed; {arguments.threads} threads")
    print(
        f"detector: mAP at IoU 0.5 {score:.4f} on {len(held_out.truth)} held-out scenes with {objects} digits, trained"
        f" in {seconds:.0f} processor seconds; after all of the above {after:.4f}, fingerprint unchanged"
    )
    result = {"detector": {"map": score, "map_after": after, "seconds": seconds, "fingerprint": before}, "rows": rows}
    finish("detector", {"threads": arguments.threads, **result}, arguments.output)


if __name__ == "__main__":
    main()
