"""Transfer learning with the base frozen: what each set of parameters reaches, and what a step of it costs.

The rows are those of the source paper's table. Every row is tuned with the same care: each of `--factors` times the
rates that patchd gives its kinds by default is tried, on the training part; the validation part, that no training sees,
decides, the lower rate among equals; and the network that won is scored on the test part, once. Adam, cosine,
batches of 32, normalisation in eval mode, no augmentation: as patchd's trainer does it, in a loop of its own so that it
runs on a GPU too. "head" trains on features that were computed once, as patchd does.

Step times are medians over the steps of the training that won; peak memory is what a process of its own takes beyond
the network and the images while it makes two steps. With `--output` the file is written anew after every row. For
instance:

    benchmarks/transfer.py --data grocery flowers12 cifar10 sklearn:digits --output transfer.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import finish, parser, print_table
from patchd.models.bases import Base, load_base
from patchd.models.datasets import DIGITS, Sample, open_data
from patchd.models.evaluation import wilson
from patchd.models.networks import features_of
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import Kind, make_kinds, owners
from patchd.models.training.inputs import Loading, Part, network_inputs, permutation, subset
from patchd.models.training.optimiser import LEARNING_RATES
from patchd.policies.task import Evaluation, PatchKind, Preprocessing, TrainSpec
from torch import Tensor, nn

BATCH = 32
SMALL_PICTURES = (DIGITS, "cifar10")  # 8 and 32 px: a larger input adds nothing that was in them
PROBE_STEPS = 2
K = PatchKind


@dataclass(frozen=True)
class Row:
    """One set of parameters."""

    name: str
    kinds: tuple[PatchKind, ...]

    @property
    def head_only(self) -> bool:
        """Whether the frozen part's features can be computed once."""
        return self.kinds == (K.HEAD,)


ROWS = (
    Row("head only", (K.HEAD,)),
    Row("scale and bias only, random head", (K.SCALE_BIAS, K.RANDOM_HEAD)),
    Row("scale and bias + head", (K.SCALE_BIAS, K.HEAD)),
    Row("depthwise + head", (K.DEPTHWISE, K.HEAD)),
    Row("depthwise + scale and bias + head", (K.SCALE_BIAS, K.DEPTHWISE, K.HEAD)),
    Row("full", (K.SCALE_BIAS, K.HEAD, K.BASE_FRACTION)),
)


@dataclass(frozen=True)
class Parts:
    """A data set at one resolution."""

    labels: int
    train: Part
    validation: Part
    test: Part


@dataclass(frozen=True)
class Fitted:
    """A training at one rate."""

    factor: float
    tensors: Mapping[str, Tensor]
    validation: Evaluation | None  # None: its loss was no longer a number
    step_s: float


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


class Fitting:
    """Trains rows on one base and one data set."""

    def __init__(self, base: Base, parts: Parts, device: torch.device, epochs: int, seed: int) -> None:
        self.base, self.parts, self.device, self.epochs, self.seed = base, parts, device, epochs, seed
        self.patched = PatchedNetwork(base)

    def start(self, kinds: Sequence[Kind]) -> tuple[dict[str, Tensor], dict[str, nn.Parameter], dict[str, float]]:
        """What stays as drawn, what is learned, and the default rate of each of these."""
        network = self.base.network
        values = {
            name: tensor for kind in reversed(kinds) for name, tensor in kind.start(network, self.parts.labels).items()
        }
        learned = {name for kind in kinds for name in kind.trainable(network)}
        parameters = {n: nn.Parameter(t.to(self.device)) for n, t in values.items() if n in learned}
        constant = {n: t.to(self.device) for n, t in values.items() if n not in learned}
        rates = {n: LEARNING_RATES[kind.kind] for n, kind in owners(kinds, network).items() if n in learned}
        return constant, parameters, rates

    def inputs(self, images: Tensor, preprocessing: Preprocessing) -> Tensor:
        """float32 [n, 3, R, R] on the device."""
        return network_inputs(images.to(self.device), preprocessing, self.base.memory_format)

    def features(self, part: Part, preprocessing: Preprocessing) -> Tensor:
        """What reaches the base's head, float32 [N, F]."""
        with torch.no_grad():
            batches = torch.split(part.images, 2 * BATCH)
            return torch.cat([features_of(self.base.network, self.inputs(b, preprocessing)) for b in batches])

    def fit(self, row: Row, factor: float, preprocessing: Preprocessing, features: Tensor | None) -> Fitted:
        """Train `row` at `factor` times the default rates."""
        kinds = make_kinds(row.kinds, {})
        constant, parameters, rates = self.start(kinds)
        groups = [{"params": [p], "lr": factor * rates[n], "base": factor * rates[n]} for n, p in parameters.items()]
        adam = torch.optim.Adam(groups)
        classes = self.parts.train.classes
        per_epoch = math.ceil(len(classes) / BATCH)
        seconds: list[float] = []
        self.patched.bind({**constant, **parameters}, kinds)
        try:
            for number in range(self.epochs * per_epoch):
                epoch, index = divmod(number, per_epoch)
                chosen = permutation(len(classes), self.seed, epoch)[index * BATCH : (index + 1) * BATCH]
                began = time.perf_counter()
                for group in adam.param_groups:
                    group["lr"] = group["base"] * 0.5 * (1 + math.cos(math.pi * number / (self.epochs * per_epoch)))
                if features is None:
                    logits = self.base.network(self.inputs(self.parts.train.images[chosen], preprocessing))
                else:
                    logits = self.base.network.get_submodule(self.base.head)(features[chosen.to(self.device)])
                loss = nn.functional.cross_entropy(logits, classes[chosen].to(self.device))
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                value = float(loss.detach())  # waits for a GPU too
                seconds.append(time.perf_counter() - began)
                if not math.isfinite(value):
                    return Fitted(factor, {}, None, statistics.median(seconds))
            trained = {**constant, **{name: p.detach() for name, p in parameters.items()}}
            validation = self.score(self.parts.validation, preprocessing)
        finally:
            self.patched.remove()
        return Fitted(factor, trained, validation, statistics.median(seconds))

    def score(self, part: Part, preprocessing: Preprocessing) -> Evaluation:
        """Top-1 of what is bound."""
        correct = 0
        with torch.no_grad():
            for images, classes in zip(
                torch.split(part.images, 2 * BATCH), torch.split(part.classes, 2 * BATCH), strict=True
            ):
                answers = self.base.network(self.inputs(images, preprocessing)).argmax(1).cpu()
                correct += int((answers == classes).sum())
        return wilson(correct, len(part.classes))

    def row(self, row: Row, factors: Sequence[float], preprocessing: Preprocessing) -> dict[str, Any]:
        """Search the rate, then score the winner on the test part."""
        features = self.features(self.parts.train, preprocessing) if row.head_only else None
        best: Fitted | None = None
        tried: dict[str, float | None] = {}
        for factor in sorted(factors):
            fitted = self.fit(row, factor, preprocessing, features)
            score = fitted.validation
            tried[f"{factor:g}"] = None if score is None else score.accuracy
            say(f"  {row.name}, {factor:g} times: {'diverged' if score is None else f'{score.accuracy:.1%}'}, "
                f"{fitted.step_s * 1e3:.0f} ms a step")  # fmt: skip
            if score is not None and (
                best is None or best.validation is None or score.accuracy > best.validation.accuracy
            ):
                best = fitted
        if best is None or best.validation is None:
            raise RuntimeError(f"'{row.name}' diverged at every rate; give lower --factors.")
        kinds = make_kinds(row.kinds, {})
        self.patched.bind(best.tensors, kinds)
        try:
            test = self.score(self.parts.test, preprocessing)
        finally:
            self.patched.remove()
        learned = sum(best.tensors[name].numel() for kind in kinds for name in set(kind.trainable(self.base.network)))
        return {
            "row": row.name,
            "parameters": learned,
            "share": learned / self.base.parameters_count,
            "factor": best.factor,
            "tried": tried,
            "step_ms": 1e3 * best.step_s,
            "validation": best.validation.model_dump(),
            "test": test.model_dump(),
        }


def parts_of(data: str, resolution: int, options: argparse.Namespace, preprocessing: Preprocessing) -> Parts:
    """The three parts of a data set, the training part cut to `--samples`, validation and test to `--held-out`."""
    found = open_data(data)

    def part(samples: tuple[Sample, ...], most: int | None) -> Part:
        spec = TrainSpec(task="transfer", seed=options.seed, max_samples=most)
        loaded = Loading(subset(samples, spec), resolution, preprocessing).run(lambda: False)
        assert loaded is not None
        return loaded

    return Parts(
        len(found.labels),
        part(found.train, options.samples),
        part(found.validation, options.held_out),
        part(found.test, options.held_out),
    )


def preprocessing_of(data: str) -> Preprocessing:
    """Small pictures have no margin to cut away."""
    return Preprocessing(crop_fraction=1.0) if is_small(data) else Preprocessing()


def is_small(data: str) -> bool:
    """Whether its pictures have fewer pixels than any input."""
    return any(Path(data).name.startswith(name) for name in SMALL_PICTURES)


def probe(row: Row, resolution: int, options: argparse.Namespace) -> float:
    """MB that two steps of a row take beyond what was there before, in a process of its own."""
    command = [sys.executable, __file__, "--probe", row.name, "--resolution", str(resolution), "--base", options.base]
    command += ["--device", str(options.device), "--threads", str(torch.get_num_threads())]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def run_probe(row: Row, options: argparse.Namespace) -> float:
    """What `probe` starts: two steps on noise; the high-water mark of memory is reset before them."""
    device = torch.device(options.device)
    base = load_base(options.base)
    base.network.to(device)
    noise = torch.randint(256, (BATCH, options.resolution, options.resolution, 3), dtype=torch.uint8)
    part = Part(noise.repeat(PROBE_STEPS, 1, 1, 1), torch.zeros(PROBE_STEPS * BATCH, dtype=torch.int64))
    fitting = Fitting(base, Parts(10, part, Part(noise[:1], part.classes[:1]), part), device, 1, 0)
    features = fitting.features(part, Preprocessing()) if row.head_only else None
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fitting.fit(row, 1.0, Preprocessing(), features)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    fitting.fit(row, 1.0, Preprocessing(), features)
    return (memory("VmHWM") - before) / 1e6


def memory(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def measure(options: argparse.Namespace, rows: Sequence[Row], keep: Any) -> dict[str, Any]:
    """All rows on all data sets; `keep` is called with what there is after each row."""
    device = torch.device(options.device)
    base = load_base(options.base)
    base.network.to(device)
    memories: dict[tuple[str, int], float] = {}
    result: dict[str, Any] = {"device": str(device), "threads": torch.get_num_threads(), "sets": {}}
    result |= {"epochs": options.epochs, "factors": options.factors, "base": options.base}
    for data in options.data:
        resolution = options.resolution if not is_small(data) else min(options.resolution, options.small_resolution)
        preprocessing = preprocessing_of(data)
        parts = parts_of(data, resolution, options, preprocessing)
        name = Path(data).name.removesuffix(".d")
        say(f"{name}: {len(parts.train.classes)} images to train, {len(parts.validation.classes)} to choose, "
            f"{len(parts.test.classes)} to score, {resolution} px")  # fmt: skip
        fitting = Fitting(base, parts, device, options.epochs, options.seed)
        found: list[dict[str, Any]] = []
        result["sets"][name] = {"resolution": resolution, "train": len(parts.train.classes), "rows": found}
        for row in rows:
            if (row.name, resolution) not in memories:
                memories[row.name, resolution] = probe(row, resolution, options)
            made = fitting.row(row, options.factors, preprocessing)
            found.append({**made, "memory_mb": memories[row.name, resolution]})
            keep(result)
        show(name, resolution, found)
    return result


def show(name: str, resolution: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """One data set's table."""
    print(f"\n{name}, {resolution} px")
    print_table(
        ("what is learned", "parameters", "of base", "step ms", "peak MB", "rates", "val.", "test [95 %]"),
        [
            (
                row["row"],
                row["parameters"],
                f"{row['share']:.2%}",
                round(row["step_ms"], 1),
                round(row["memory_mb"]),
                f"x{row['factor']:g}",
                f"{row['validation']['accuracy']:.1%}",
                f"{row['test']['accuracy']:.1%} [{row['test']['low']:.1%}, {row['test']['high']:.1%}]",
            )
            for row in rows
        ],
    )


def main() -> None:
    """Measure and print."""
    made = parser(__doc__)
    made.add_argument("--data", nargs="+", default=[DIGITS], metavar="D", help="data sets [sklearn:digits]")
    made.add_argument("--base", default="lite0")
    made.add_argument("--resolution", type=int, default=128, help="pixels [128]")
    made.add_argument("--small-resolution", type=int, default=96, help="of digits and cifar10 [96]")
    made.add_argument("--samples", type=int, default=640, help="training images at most [640]")
    made.add_argument("--held-out", type=int, default=None, help="validation and test images at most, each [all]")
    made.add_argument("--epochs", type=int, default=4)
    made.add_argument("--factors", type=float, nargs="+", default=[0.3, 1.0, 3.0], help="of the default rates")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--device", default="cpu", help="cpu, or cuda")
    made.add_argument("--quick", action="store_true", help="48 images, one epoch, one rate: does it work?")
    made.add_argument("--probe", choices=[row.name for row in ROWS], help=argparse.SUPPRESS)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    if options.probe:
        print(run_probe(next(row for row in ROWS if row.name == options.probe), options))
        return
    if options.quick:
        options.samples, options.held_out, options.epochs, options.factors = 48, 32, 1, [1.0]
        options.resolution = options.small_resolution = 64

    def keep(result: Mapping[str, Any]) -> None:
        if options.output is not None:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps({"unfinished": result}, indent=2) + "\n", encoding="utf-8")

    finish("transfer", measure(options, ROWS, keep), options.output)


if __name__ == "__main__":
    main()
