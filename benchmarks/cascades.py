"""What a cascade costs and loses: against its reference, cheaper rungs and one plain threshold, on inputs it never saw.

Only images are used that no rung was trained on. They are halved at random, several times: on one half everything is
chosen (patchd parts it again, to search and to certify), on the other it is scored. Costs are medians of one image at
a time, measured in this run, on all processors unless told otherwise; decoding, resizing and dispatch count.

The first run trains the patches and asks all rungs, which takes minutes a set; `--work` keeps both, so that later runs
take seconds. For instance:

    benchmarks/cascades.py --work /tmp/cascades --task digits \\
        --data grocery imagenet_sample/test --index imagenet_sample/imagenet_index.tsv
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cascade_tables import KINDS, Subject, patched, unpatched
from common import finish, parser, print_table, quantile
from numpy.typing import NDArray
from patchd.models.cascades import CascadeCosts, ScoreTable, Step, plain_confidence, plan, row_costs, run, search
from patchd.models.cascades.greedy import ALLOWANCES, Point
from patchd.models.cascades.promise import binomial_tail
from patchd.models.cascades.simulation import steps_of
from patchd.models.datasets import DIGITS
from patchd.models.evaluation import Z95
from patchd.policies.cascade import AcceptRule, RuleKind, RungId
from patchd.policies.task import PatchKind

THRESHOLDS = np.linspace(0.02, 0.999, 60)  # on the largest probability
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Choice:
    """What a method takes, from the half that it may look at."""

    steps: tuple[Step, ...]
    promised: bool | None = None  # None: the method promises nothing
    missing: int = 0


@dataclass(frozen=True)
class Scored:
    """A choice on the other half."""

    choice: Choice
    costs_ms: NDArray[np.float64]  # [n]
    losses: NDArray[np.int8]  # [n], 1 a right answer lost, -1 one won
    by_reference: float  # share of inputs that the reference answered

    @property
    def significant(self) -> bool:
        """Whether more right answers were lost than won by more than chance: McNemar's exact test, two-sided."""
        lost, won = int((self.losses > 0).sum()), int((self.losses < 0).sum())
        return lost > won and 2 * binomial_tail(won, lost + won, 0.5) < SIGNIFICANT


class Chooser:
    """The methods, given one half and one reference."""

    def __init__(self, half: ScoreTable, costs: CascadeCosts, reference: RungId, delta: float, seed: int) -> None:
        self._half, self._costs, self._reference, self._delta, self._seed = half, costs, reference, delta, seed
        self._cheaper = [rung for rung in half.rungs if costs.marginal((), rung) < costs.marginal((), reference)]
        self._cheaper.sort(key=lambda rung: costs.marginal((), rung))

    def methods(self, epsilons: Sequence[float]) -> Iterator[tuple[str, Choice]]:
        """Name and choice of every method."""
        yield "reference", Choice((_always(self._reference),))
        yield "best cheaper rung", Choice((_always(min(self._cheaper, key=self._loss)),))
        for epsilon in epsilons:
            points = f"{100 * epsilon:g} points"
            yield f"cheapest rung, {points}", self._rung(epsilon)
            yield f"one threshold, {points}", self._threshold(epsilon)
            yield f"patchd, {points}", self._promised(epsilon)
            yield f"patchd uncertified, {points}", self._uncertified(epsilon)

    def _loss(self, rung: RungId) -> float:
        return float(self._half.losses(self._reference)[:, self._half.index(rung)].mean())

    def _rung(self, epsilon: float) -> Choice:
        within = (rung for rung in self._cheaper if self._loss(rung) <= epsilon)
        return Choice((_always(next(within, self._reference)),))

    def _threshold(self, epsilon: float) -> Choice:
        """The cheapest of cascades with one threshold on the largest probability: of one cheaper rung, or of all."""
        families = [[rung] for rung in self._cheaper] + [self._cheaper]
        points = []
        for rungs in families:
            points += plain_confidence(self._half, self._costs, self._reference, rungs, THRESHOLDS)
        return Choice(_cheapest(points, epsilon))

    def _promised(self, epsilon: float) -> Choice:
        cascade = plan(
            self._half, self._costs, self._reference,
            epsilon=epsilon, delta=self._delta, now_s=time.time(), seed=self._seed,
        ).cascade  # fmt: skip
        return Choice(steps_of(cascade), cascade.promise.holds, cascade.promise.missing)

    def _uncertified(self, epsilon: float) -> Choice:
        """What the search alone takes, with all of the half to search on and nothing to certify with."""
        allowances = [epsilon * share for share in ALLOWANCES]
        return Choice(_cheapest(search(self._half, self._costs, self._reference, allowances).cascades, epsilon))


def _always(rung: RungId) -> Step:
    return Step(rung, AcceptRule(kind=RuleKind.ALWAYS))


def _cheapest(points: Sequence[Point], epsilon: float) -> tuple[Step, ...]:
    return min((point for point in points if point.loss <= epsilon), key=lambda point: point.cost_ms).steps


def score(choice: Choice, half: ScoreTable, costs: CascadeCosts, reference: RungId) -> Scored:
    """A choice on the half that it was not made on."""
    outcome = run(choice.steps, half, reference)
    by_last = float((outcome.stage == len(choice.steps) - 1).mean())
    asked = by_last if choice.steps[-1].rung == reference else 0.0
    return Scored(choice, row_costs(choice.steps, outcome, costs), outcome.losses, asked)


def halves(table: ScoreTable, splits: int, share: float) -> Iterator[tuple[ScoreTable, ScoreTable]]:
    """`splits` random partings: `share` of the images to choose on, the others to score on."""
    count = round(share * len(table))
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(table))
        yield table.rows(order[:count]), table.rows(order[count:])


def compare(
    subject: Subject, costs: CascadeCosts, reference: RungId, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Every method against one reference, over all splits."""
    found: dict[str, list[Scored]] = {}
    for seed, (choosing, scoring) in enumerate(halves(subject.table, options.splits, options.share)):
        for name, choice in Chooser(choosing, costs, reference, options.delta, seed).methods(options.epsilon):
            found.setdefault(name, []).append(score(choice, scoring, costs, reference))
    alone = costs.marginal((), reference)
    return [summary(name, scored, alone) for name, scored in found.items()]


def summary(name: str, scored: Sequence[Scored], alone_ms: float) -> dict[str, Any]:
    """Means over the partings. The interval is that of one scored part: partings share images and do not narrow it."""
    points = [100 * float(each.losses.mean()) for each in scored]
    deviation = float(np.mean([each.losses.std(ddof=1) / len(each.losses) ** 0.5 for each in scored]))
    mean, half_width = float(np.mean(points)), 100 * Z95 * deviation
    times = np.concatenate([each.costs_ms for each in scored])
    promised = [each.choice.promised for each in scored]
    rungs = Counter(" > ".join(_short(step.rung) for step in each.choice.steps) for each in scored)
    return {
        "method": name,
        "cost_ms": float(times.mean()),
        "p50_ms": quantile(list(times), 0.5),
        "p99_ms": quantile(list(times), 0.99),
        "speed_up": alone_ms / float(times.mean()),
        "speed_up_range": [alone_ms / float(f(each.costs_ms.mean() for each in scored)) for f in (max, min)],
        "points_lost": mean,
        "interval": [mean - half_width, mean + half_width],
        "points_range": [min(points), max(points)],
        "significant": sum(each.significant for each in scored) / len(scored),
        "by_reference": float(np.mean([each.by_reference for each in scored])),
        "promised": None if promised[0] is None else sum(map(bool, promised)) / len(promised),
        "missing": max(each.choice.missing for each in scored),
        "points": points,
        "rungs": rungs.most_common(3),
    }


def _short(rung: RungId) -> str:
    return f"{rung.base}:{rung.resolution}"


def show(subject: Subject, reference: RungId, share: float, rows: Sequence[dict[str, Any]]) -> None:
    """The table of one reference."""
    n = len(subject.table)
    count = round(share * n)
    print(f"\n{subject.name}, reference {reference}, {count} images to choose on, {n - count} to score on\n")
    print_table(
        ("method", "ms", "p50", "p99", "speed-up", "range", "points lost", "95 %", "range", "significant loss",
         "beyond epsilon", "by reference", "promised", "commonest stages"),
        [
            (
                row["method"], row["cost_ms"], row["p50_ms"], row["p99_ms"], row["speed_up"],
                _range(row["speed_up_range"], 2), f"{row['points_lost']:.2f}", _range(row["interval"], 1),
                _range(row["points_range"], 1), f"{row['significant']:.0%}", _beyond(row),
                f"{row['by_reference']:.0%}", _promise(row), row["rungs"][0][0],
            )
            for row in rows
        ],
    )  # fmt: skip


def _range(values: Sequence[float], digits: int) -> str:
    return " to ".join(f"{value:.{digits}f}" for value in values)


def _beyond(row: dict[str, Any]) -> str:
    """The share of splits in which more was lost, on the scored half, than the method was asked for."""
    _, _, asked = row["method"].partition(", ")
    if not asked:
        return ""
    limit = float(asked.split()[0])
    return f"{sum(lost > limit + 1e-9 for lost in row['points']) / len(row['points']):.0%}"


def _promise(row: dict[str, Any]) -> str:
    if row["promised"] is None:
        return ""
    return f"needs {row['missing']} more" if row["missing"] else f"{row['promised']:.0%}"


def show_rungs(subject: Subject, costs: CascadeCosts) -> list[dict[str, Any]]:
    """What every rung costs and gets right."""
    table = subject.table
    assert table.labels is not None
    right = (table.answers == table.labels[:, None]).mean(0)
    rows = [
        (str(rung), costs.marginal((), rung), costs.network_ms[rung.base, rung.resolution],
         costs.prepare_ms[rung.resolution], 100 * float(share))
        for rung, share in zip(table.rungs, right, strict=True)
    ]  # fmt: skip
    print(f"\n{subject.name}: decoding {costs.decode_ms:.2f} ms, dispatch {costs.dispatch_ms:.2f} ms\n")
    keys = ("rung", "ms", "network_ms", "prepare_ms", "top1")
    print_table(keys, rows)
    return [dict(zip(keys, row, strict=True)) for row in rows]


def subjects(options: argparse.Namespace) -> Iterator[Subject]:
    """The sets asked for, one after the other. Raises SystemExit where an index is missing."""
    for task in options.task:
        yield trained(f"sklearn:{task}", options.work / task, options)
    for folder in options.data:
        if (folder / "train").is_dir():
            yield trained(str(folder), options.work / folder.name, options)
        elif options.index is None:
            raise SystemExit(f"{folder} has no train part: give --index with the ImageNet index of its folders.")
        else:
            yield unpatched(folder, options.index, options.work / "imagenet")


def trained(data: str, work: Path, options: argparse.Namespace) -> Subject:
    """A set under patches of its own."""
    return patched(data, work, options.epochs, options.samples, options.bases, options.kinds)


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--work", type=Path, required=True, help="folder that keeps patches and answers")
    made.add_argument("--task", nargs="*", default=[], choices=[DIGITS.partition(":")[2]], help="built-in sets")
    made.add_argument("--data", type=Path, nargs="*", default=[], help="directories of train/CLASS/*, or of CLASS/*")
    made.add_argument("--index", type=Path, help="for directories of CLASS/*: folder name and ImageNet index by line")
    made.add_argument("--splits", type=int, default=10, help="random partings [default: 10]")
    made.add_argument("--share", type=float, default=0.5, help="of the images, to choose on [default: 0.5]")
    made.add_argument("--epsilon", type=float, nargs="*", default=[0.005, 0.01, 0.02], help="losses to promise")
    made.add_argument("--delta", type=float, default=0.05, help="of the promise [default: 0.05]")
    made.add_argument("--epochs", type=int, default=3, help="of a rung's training [default: 3]")
    made.add_argument("--threads", type=int, help="of the networks whose cost is measured [default: all processors]")
    made.add_argument("--bases", nargs="*", metavar="BASE", help="train patches for these alone [default: all]")
    made.add_argument("--kinds", nargs="*", type=PatchKind, default=KINDS, help="of patches [default: scale_bias head]")
    made.add_argument("--samples", type=int, help="train on at most so many images")
    options = made.parse_args()
    result = []
    for subject in subjects(options):
        costs = subject.costs(options.threads)
        rungs = show_rungs(subject, costs)
        for reference in subject.references:
            rows = compare(subject, costs, reference, options)
            show(subject, reference, options.share, rows)
            case = {"data": subject.name, "n": len(subject.table), "reference": str(reference), "rungs": rungs}
            result.append(case | {"methods": rows})
    finish(
        "cascades",
        {"splits": options.splits, "share": options.share, "delta": options.delta, "cases": result},
        options.output,
    )


if __name__ == "__main__":
    main()
