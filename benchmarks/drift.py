"""The drift test on audited answers: false alarms while nothing has changed, and the delay when something has.

The peers are detectors of river with its defaults, on the same streams, in an interpreter that has it:

    python3 -m venv /tmp/peer && /tmp/peer/bin/pip install river
    .venv/bin/python benchmarks/drift.py --peer-python /tmp/peer/bin/python --data DIR --index FILE

`--data DIR` holds CLASS/*.jpg and `--index FILE` maps each folder's name to its ImageNet index, as for top1.py. With
them the audits are those of real networks: a cascade of Lite0 at 128 px and, where the margin is too small, at 224 px,
which is the reference too. A third of the images gives the threshold (at most 1 % of answers unlike the reference's), a
third the bound, and a third the stream, which then changes: to blur, to noise, to far objects, or from animals to
everything else.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, parser, print_table, quantile
from patchd.models.bases import load_base
from patchd.models.preprocessing import decode_image, to_input
from patchd.policies.drift import DriftState, disagreement_bound, drifted, update
from patchd.policies.task import Preprocessing
from PIL import Image, ImageFilter
from top1 import index_of_classes, items

EVERY, DELTA = 1_000_000, 0.05
OURS = f"patchd, one in {EVERY}"
BOUNDS, JUMPS, SHARES = (0.005, 0.02, 0.1), (1.5, 2.0, 4.0, 10.0), (0.01, 0.05)
QUIET, BEFORE = 100_000, 2_000  # audits of a stream without a change; before a change
LOW, HIGH, MOST_LOST = 128, 224, 0.01
ANIMALS = 398  # ImageNet's first so many classes
SEED = 20261125

Edit = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Stream:
    """Audits as a string of 0 and 1, and the index of the first one after the change."""

    audits: str
    change: int


@dataclass(frozen=True)
class Outcome:
    """Alarms before the change, and audits from there to the first alarm; None without one."""

    early: int
    delay: int | None


def drawn(rate: float, count: int, random_: random.Random) -> str:
    """So many audits, each 1 with probability `rate`."""
    return "".join("1" if random_.random() < rate else "0" for _ in range(count))


def ours(stream: Stream, bound: float) -> Outcome:
    """What patchd's test does, which starts anew after an alarm."""
    state, early = DriftState(), 0
    for place, audit in enumerate(stream.audits):
        state = update(state, audit == "1", bound, float(place))
        if drifted(state, EVERY):
            if place >= stream.change:
                return Outcome(early, place - stream.change + 1)
            state, early = DriftState(), early + 1
    return Outcome(early, None)


def outcomes(streams: Sequence[Stream], bound: float, python: Path | None) -> dict[str, list[Outcome]]:
    """What each method does on the same streams."""
    found = {OURS: [ours(stream, bound) for stream in streams]}
    if python is not None:
        given = json.dumps([(stream.audits, stream.change) for stream in streams])
        script = Path(__file__).with_name("river_peer.py")
        answer = subprocess.run([python, script], input=given, capture_output=True, text=True, check=True).stdout
        found.update({name: [Outcome(*each) for each in seen] for name, seen in json.loads(answer).items()})
    return found


def false_alarms(count: int, python: Path | None) -> list[dict[str, Any]]:
    """Alarms per 100 000 audits of streams whose rate is the bound, and half of it."""
    rows = []
    for bound in BOUNDS:
        for part in (1.0, 0.5):
            random_ = random.Random(SEED)
            streams = [Stream(drawn(part * bound, QUIET, random_), QUIET) for _ in range(count)]
            for method, seen in outcomes(streams, bound, python).items():
                alarms = sum(each.early for each in seen)
                rows.append({"bound": bound, "rate": part * bound, "method": method, "audits": QUIET * count,
                             "alarms": alarms, "per_100000": alarms / count})  # fmt: skip
    return rows


def summary(seen: Sequence[Outcome]) -> dict[str, float | None]:
    """Delays after the change; streams without an alarm count as the longest, and a quantile among them is None."""
    delays = [math.inf if each.delay is None else float(each.delay) for each in seen]
    median, p90 = (value if math.isfinite(value) else None for value in (quantile(delays, 0.5), quantile(delays, 0.9)))
    return {"median": median, "p90": p90, "missed": delays.count(math.inf),
            "early": sum(each.early for each in seen), "n": len(seen)}  # fmt: skip


def longest(rate: float, bound: float) -> int:
    """Audits after a change that are three times what a test that knew the new rate would need on average."""
    information = rate * math.log(rate / bound)
    if rate < 1.0:
        information += (1 - rate) * math.log((1 - rate) / (1 - bound))
    return math.ceil(3 * math.log(6 * EVERY) / information)


def delays(count: int, python: Path | None) -> list[dict[str, Any]]:
    """Audits from a jump of the rate, from half the bound to a multiple of it, to the alarm."""
    rows = []
    for bound in BOUNDS:
        for jump in JUMPS:
            random_, rate = random.Random(SEED), min(1.0, jump * bound)
            length = longest(rate, bound)
            streams = [
                Stream(drawn(bound / 2, BEFORE, random_) + drawn(rate, length, random_), BEFORE) for _ in range(count)
            ]
            for method, seen in outcomes(streams, bound, python).items():
                rows.append({"bound": bound, "rate": rate, "method": method, "watched": length, **summary(seen)})
    return rows


def blurred(image: Image.Image) -> Image.Image:
    """Out of focus: a Gaussian of a fiftieth of the shorter side."""
    return image.filter(ImageFilter.GaussianBlur(min(image.size) / 50))


def noisy(deviation: float) -> Edit:
    """Gaussian noise in each pixel and channel, of so many of 255."""

    def edit(image: Image.Image) -> Image.Image:
        pixels = np.asarray(image, np.float32)
        noise = np.random.default_rng(SEED).normal(0.0, deviation, pixels.shape)
        return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))

    return edit


def far_away(image: Image.Image) -> Image.Image:
    """The image at two fifths of its size, in the middle of grey."""
    width, height = image.size
    small = image.resize((2 * width // 5, 2 * height // 5))
    made = Image.new("RGB", image.size, (128, 128, 128))
    made.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return made


EDITS: dict[str, Edit] = {"blur": blurred, "noise of 40": noisy(40.0), "noise of 80": noisy(80.0), "far away": far_away}


@dataclass(frozen=True)
class Answers:
    """Of each image: the margin of the low resolution, and whether the two answers differ."""

    margin: np.ndarray[Any, Any]
    differ: np.ndarray[Any, Any]

    def at(self, places: Sequence[int]) -> Answers:
        """Those of some images."""
        return Answers(self.margin[list(places)], self.differ[list(places)])

    def audits(self, threshold: float) -> np.ndarray[Any, Any]:
        """Where the cascade's answer differs from the reference's: the low resolution was sure, and not of the same."""
        wrong: np.ndarray[Any, Any] = (self.margin >= threshold) & self.differ
        return wrong


def answers(files: Sequence[Path], edit: Edit | None) -> Answers:
    """Both resolutions of Lite0 on the images."""
    network, pre = load_base("lite0").network, Preprocessing()
    margins, differ = [], []
    with torch.inference_mode():
        for batch in _batches(files, 32):
            images = [decode_image(file.read_bytes()) for file in batch]
            edited = [edit(image) for image in images] if edit else images
            low, high = (network(torch.stack([to_input(image, side, pre) for image in edited])) for side in (LOW, HIGH))
            best = low.softmax(1).topk(2).values
            margins.append((best[:, 0] - best[:, 1]).numpy())
            differ.append((low.argmax(1) != high.argmax(1)).numpy())
    return Answers(np.concatenate(margins), np.concatenate(differ))


def _batches(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (files[start : start + size] for start in range(0, len(files), size))


def threshold_of(clean: Answers) -> float:
    """The smallest margin to accept from that at most MOST_LOST of the answers differ."""
    for threshold in sorted({0.0, *clean.margin.tolist()}):
        if clean.audits(threshold).mean() <= MOST_LOST:
            return float(threshold)
    return math.inf


def real(data: Path, index: Path, count: int, python: Path | None) -> list[dict[str, Any]]:
    """The delay where the images of real networks change."""
    listed = items(data, index_of_classes(index), None)
    random.Random(SEED).shuffle(listed)
    files = [file for file, _ in listed]
    clean = answers(files, None)
    places = list(range(len(files)))
    animals = [place for place in places if listed[place][1] < ANIMALS]
    others = [place for place in places if listed[place][1] >= ANIMALS]
    stream = places[2::3]
    chosen = [files[place] for place in stream]
    rows = []
    for name, edit in EDITS.items():
        rows += _changed(name, clean, places, answers(chosen, edit), count, python)
    return rows + _changed("animals to others", clean, animals, clean.at(others), count, python)


def _changed(
    name: str, clean: Answers, places: Sequence[int], after: Answers, count: int, python: Path | None
) -> list[dict[str, Any]]:
    """Streams drawn with replacement: from a third of the clean images, then from those of after the change."""
    threshold = threshold_of(clean.at(places[0::3]))
    certifying = clean.at(places[1::3]).audits(threshold)
    bound = disagreement_bound(int(certifying.sum()), len(certifying), DELTA)
    before = clean.at(places[2::3])
    rates = float(before.audits(threshold).mean()), float(after.audits(threshold).mean())
    random_ = random.Random(SEED)
    length = longest(rates[1], bound) if rates[1] > bound else 10_000
    streams = [
        Stream(drawn(rates[0], BEFORE, random_) + drawn(rates[1], length, random_), BEFORE) for _ in range(count)
    ]
    sure = [float((each.margin >= threshold).mean()) for each in (before, after)]
    return [
        {"change": name, "images": len(after.margin), "threshold": threshold, "certifying": len(certifying),
         "sure_before": sure[0], "sure_after": sure[1], "bound": bound, "before": rates[0], "after": rates[1],
         "method": method, "watched": length, **summary(seen)}
        for method, seen in outcomes(streams, bound, python).items()
    ]  # fmt: skip


def tables(result: dict[str, list[dict[str, Any]]]) -> None:
    """Print what was found."""
    print("False alarms while nothing has changed")
    rows = [(r["bound"], r["rate"], r["method"], r["per_100000"], r["alarms"], r["audits"]) for r in result["false"]]
    print_table(("bound", "rate", "method", "per 100 000 audits", "alarms", "audits"), rows)
    requests = [f"requests at {share}" for share in SHARES]
    print("\nAudits from a jump to the alarm; before it the rate is half the bound")
    header = ("bound", "rate", "method", "median", "p90", *requests, "missed", "early", "n")
    print_table(header, [_row((r["bound"], r["rate"]), r) for r in result["delays"]])
    if "real" in result:
        print(f"\nReal images: Lite0 at {LOW} px, then {HIGH} px, accepted from a margin")
        first = ("change", "sure_before", "sure_after", "bound", "before", "after")
        print_table((*first, *header[2:]), [_row(tuple(r[key] for key in first), r) for r in result["real"]])


def _row(first: tuple[object, ...], r: dict[str, Any]) -> tuple[object, ...]:
    median, p90 = r["median"], r["p90"]
    requests = ["none" if median is None else round(median / share) for share in SHARES]
    audits = ["none" if value is None else round(value) for value in (median, p90)]
    return (*first, r["method"], *audits, *requests, r["missed"], r["early"], r["n"])


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--peer-python", type=Path, help="an interpreter that has river")
    made.add_argument("--data", type=Path, help="directory of CLASS/*.jpg, for the part on real networks")
    made.add_argument("--index", type=Path, help="tab-separated: folder name, ImageNet index; needed with --data")
    made.add_argument("--quiet-streams", type=int, default=10, help="streams of 100 000 audits [default: 10]")
    made.add_argument("--streams", type=int, default=50, help="streams with a change, for each [default: 50]")
    arguments = made.parse_args()
    if arguments.data is not None and arguments.index is None:
        made.error("--data needs --index.")
    result = {
        "false": false_alarms(arguments.quiet_streams, arguments.peer_python),
        "delays": delays(arguments.streams, arguments.peer_python),
    }
    if arguments.data is not None:
        result["real"] = real(arguments.data, arguments.index, arguments.streams, arguments.peer_python)
    tables(result)
    finish("drift", result, arguments.output)


if __name__ == "__main__":
    main()
