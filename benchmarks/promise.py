"""Does the promise of a cascade hold, and how long does the search take?

The promise: a large synthetic population of inputs, with rungs whose answers are right and wrong together as real ones
are, is the truth. Calibrations are drawn from it and planned; a promised cascade whose loss on the whole population
exceeds epsilon is a violation. Their share may be delta at most. The peer is the plain choice: the cheapest cascade
whose loss on the same calibration inputs, all of them searched, is at most epsilon.

The search: the time of a whole plan (fitting, searching, certifying) on tables of the given sizes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from common import finish, parser, print_table, spread
from patchd.models.cascades import FEATURES, CascadeCosts, ScoreTable, expected_cost, plan, read_logits, run, steps_of
from patchd.models.cascades.greedy import ALLOWANCES, search
from patchd.models.evaluation import wilson
from patchd.policies.cascade import RungId

CLASSES = 20
CHUNK = 20_000
BASES = ("lite0", "lite1", "lite2")
DELTA = 0.05
SEED = 1


@dataclass(frozen=True)
class Trial:
    """One calibration: what was promised, what the plain choice took, and the truth of both."""

    promised: bool
    violated: bool
    speedup: float  # reference's cost over the cascade's, on the population
    plain_violated: bool
    plain_speedup: float


def population(n: int, rungs: int, seed: int) -> tuple[ScoreTable, CascadeCosts]:
    """`n` inputs by `rungs` rungs, the last of them the best and the dearest; costs as on a slow processor."""
    random = np.random.default_rng(seed)
    ids = tuple(RungId(base=BASES[i % 3], resolution=96 + 32 * (i // 3)) for i in range(rungs))
    labels = random.integers(0, CLASSES, n).astype(np.int32)
    answers = np.empty((n, rungs), np.int32)
    features = np.empty((n, rungs, len(FEATURES)), np.float32)
    for start in range(0, n, CHUNK):
        part = slice(start, min(n, start + CHUNK))
        size = part.stop - part.start
        hardness = random.standard_normal(size)
        confuser = random.standard_normal((size, CLASSES))  # what all rungs take the input for
        for i in range(rungs):
            skill = 3.8 + 3.2 * (i + 1) / rungs
            logits = confuser + 0.8 * random.standard_normal((size, CLASSES))
            logits[np.arange(size), labels[part]] += skill - 1.8 * hardness
            answers[part, i], features[part, i] = read_logits(logits)
    sides = {rung.resolution for rung in ids}
    networks = {(r.base, r.resolution): 1.5 * (1 + 0.6 * int(r.base[-1])) * (r.resolution / 96) ** 2 for r in ids}
    costs = CascadeCosts(decode_ms=3.0, prepare_ms={side: side / 100 for side in sides}, network_ms=networks)
    return ScoreTable(ids, answers, features, labels), replace(costs, dispatch_ms=0.3)


def trial(truth: ScoreTable, costs: CascadeCosts, n: int, epsilon: float, seed: int) -> Trial:
    """Draw `n` inputs, plan, and look at the truth."""
    reference = truth.rungs[-1]
    drawn = truth.rows(np.random.default_rng((SEED, seed)).integers(0, len(truth), n))
    planned = plan(drawn, costs, reference, epsilon=epsilon, delta=DELTA, now_s=0.0, seed=seed).cascade
    alone = planned.reference_cost_ms
    outcome = run(steps_of(planned), truth, reference)
    cascades = search(drawn, costs, reference, [epsilon * share for share in ALLOWANCES]).cascades
    plain = min((p for p in cascades if p.loss <= epsilon), key=lambda point: point.cost_ms).steps
    plain_outcome = run(plain, truth, reference)
    return Trial(
        promised=planned.promise.holds,
        violated=planned.promise.holds and outcome.loss > epsilon,
        speedup=alone / expected_cost(steps_of(planned), outcome, costs),
        plain_violated=plain_outcome.loss > epsilon,
        plain_speedup=alone / expected_cost(plain, plain_outcome, costs),
    )


_truth: dict[bool, tuple[ScoreTable, CascadeCosts]] = {}


def _prepare(inputs: int, rungs: int) -> None:
    table, costs = population(inputs, rungs, SEED)
    _truth.update({True: (table, costs), False: (replace(table, labels=None), costs)})


def _one(labelled: bool, n: int, epsilon: float, seed: int) -> Trial:
    table, costs = _truth[labelled]
    return trial(table, costs, n, epsilon, seed)


def promises(arguments: argparse.Namespace) -> list[dict[str, object]]:
    """The table of violations, one row a basis, epsilon and sample size."""
    result: list[dict[str, object]] = []
    settings = (arguments.population, arguments.rungs)
    with ProcessPoolExecutor(arguments.processes, initializer=_prepare, initargs=settings) as pool:
        for labelled in (True, False):
            for epsilon in arguments.epsilon:
                for n in arguments.samples:
                    job = partial(_one, labelled, n, epsilon)
                    trials = list(pool.map(job, range(arguments.calibrations), chunksize=5))
                    found = {"basis": "labels" if labelled else "agreement", "epsilon": epsilon, "n": n}
                    result.append(found | summary(trials))
                    print(result[-1], file=sys.stderr, flush=True)
    return result


def summary(trials: Sequence[Trial]) -> dict[str, object]:
    """Shares with their 95 % intervals, and mean speed-ups."""
    count = len(trials)
    violated = wilson(sum(t.violated for t in trials), count)
    plain = wilson(sum(t.plain_violated for t in trials), count)
    return {
        "calibrations": count,
        "promised": sum(t.promised for t in trials) / count,
        "violations": violated.model_dump(include={"accuracy", "low", "high"}),
        "speedup": float(np.mean([t.speedup for t in trials])),
        "plain_violations": plain.model_dump(include={"accuracy", "low", "high"}),
        "plain_speedup": float(np.mean([t.plain_speedup for t in trials])),
    }


def timings(sizes: Sequence[int], rungs: int, repeats: int) -> list[dict[str, object]]:
    """Seconds of a whole plan."""
    result: list[dict[str, object]] = []
    for n in sizes:
        table, costs = population(n, rungs, SEED)
        seconds, points = [], 0
        for _ in range(repeats):
            start = time.perf_counter()
            planned = plan(table, costs, table.rungs[-1], epsilon=0.01, delta=DELTA, now_s=0.0)
            seconds.append(time.perf_counter() - start)
            points = len(planned.points)
        result.append({"n": n, "rungs": rungs, "points": points, "seconds": spread(seconds)})
    return result


def percent(interval: dict[str, float]) -> str:
    """A share with its interval, in percent."""
    return f"{100 * interval['accuracy']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--calibrations", type=int, default=1000, help="of each kind [default: 1000]")
    made.add_argument("--samples", type=int, nargs="*", default=[300, 1000, 3000], help="inputs of a calibration")
    made.add_argument("--epsilon", type=float, nargs="*", default=[0.01, 0.02])
    made.add_argument("--population", type=int, default=200_000, help="inputs that are the truth [default: 200000]")
    made.add_argument("--rungs", type=int, default=6, help="of the population [default: 6]")
    made.add_argument("--processes", type=int, default=2, help="to simulate with [default: 2]")
    made.add_argument("--sizes", type=int, nargs="*", default=[10_000, 50_000], help="inputs to time the search on")
    made.add_argument("--repeats", type=int, default=5, help="timed plans of each size [default: 5]")
    arguments = made.parse_args()
    timed = timings(arguments.sizes, 15, arguments.repeats)
    print("A whole plan, 15 rungs:\n")
    print_table(
        ("inputs", "points", "median s", "p75 s"),
        [(t["n"], t["points"], t["seconds"]["median"], t["seconds"]["p75"]) for t in timed],  # type: ignore[index]
    )
    promised = promises(arguments)
    print(f"\nViolations in percent of calibrations with their 95 % interval; {100 * DELTA:.0f} are allowed:\n")
    print_table(
        ("basis", "epsilon", "inputs", "promised %", "violations", "speed-up", "plain violations", "plain speed-up"),
        [
            (p["basis"], p["epsilon"], p["n"], 100 * p["promised"], percent(p["violations"]), p["speedup"],  # type: ignore[operator,arg-type]
             percent(p["plain_violations"]), p["plain_speedup"])  # type: ignore[arg-type]
            for p in promised
        ],
    )  # fmt: skip
    finish("promise", {"promises": promised, "timings": timed}, arguments.output)


if __name__ == "__main__":
    main()
