"""Small calibration tables for the tests of cascades."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from patchd.models.cascades import FEATURES, CascadeCosts, ScoreTable, read_logits
from patchd.policies.cascade import RungId

CLASSES = 5
SIDES = (96, 128, 160, 224)
BASES = ("lite0", "lite1")


def rung_ids(count: int) -> tuple[RungId, ...]:
    """Rungs of growing cost, two bases at each resolution; the last one is meant as the reference."""
    return tuple(RungId(base=BASES[i % 2], resolution=SIDES[min(i // 2, 3)]) for i in range(count))


def realistic(n: int, rungs: int = 4, seed: int = 0, *, labelled: bool = True) -> ScoreTable:
    """Rungs of growing skill that find the same inputs hard."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, n).astype(np.int32)
    hardness = random.standard_normal(n)
    parts = []
    for i in range(rungs):
        logits = random.standard_normal((n, CLASSES))
        logits[np.arange(n), labels] += 4.0 + i - 1.5 * hardness
        parts.append(read_logits(logits))
    answers, features = (np.stack(part, axis=1) for part in zip(*parts, strict=True))
    return ScoreTable(rung_ids(rungs), answers, features, labels if labelled else None)


def costs_of(rungs: tuple[RungId, ...], seed: int = 0) -> CascadeCosts:
    """Costs that grow with base and resolution, unevenly."""
    random = np.random.default_rng(seed)
    sizes = {(r.base, r.resolution): (int(r.base[-1]) + 2) * (r.resolution / 96) ** 2 for r in rungs}
    networks = {key: size * random.uniform(1.0, 1.15) for key, size in sizes.items()}
    return CascadeCosts(2.0, {r.resolution: r.resolution / 200 for r in rungs}, networks, 0.25)


@st.composite
def tables(draw: st.DrawFn, most_rows: int = 30, most_rungs: int = 5) -> ScoreTable:
    """Tables without any sense: few classes, many equal scores, with and without labels."""
    n, m = draw(st.integers(1, most_rows)), draw(st.integers(2, most_rungs))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from((2, 5, 1000)))
    features = (random.integers(0, levels, (n, m, len(FEATURES))) / levels).astype(np.float32)
    answers = random.integers(0, draw(st.integers(1, 3)), (n, m)).astype(np.int32)
    labels = random.integers(0, 3, n).astype(np.int32) if draw(st.booleans()) else None
    return ScoreTable(rung_ids(m), answers, features, labels)
