"""Whether a cascade's answers have come to differ from its reference's more often than they did at calibration.

An audit is an answer that the reference gave again. No labels are needed and none are there: what is counted is whether
the two answers differ. The hypothesis is that at each audit, whatever went before, they do so with a probability of at
most `bound`, the upper confidence limit from calibration.

The test is an e-detector (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change
detection", 2023): from each audit on somebody bets against the hypothesis, at odds that make no money while it holds,
and the winnings of all of them are summed (Shiryaev and Roberts). While the hypothesis holds, the sum less the number
of audits is a supermartingale, so the mean number of audits until it reaches N is at least N, at whatever moments one
looks.
"""

from __future__ import annotations

import math

from pydantic import Field

from .cascade import Promise
from .errors import BadInputError
from .snapshot import Frozen

# A bet is on odds of differing that are so many times those of the bound; their winnings are averaged.
BETS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
_COUNT = len(BETS)


class Start(Frozen):
    """A moment between two audits: what had been counted until then, and the time of the audit that follows."""

    audits: int = Field(0, ge=0)
    disagreed: int = Field(0, ge=0)
    at_s: float = 0.0


class DriftState(Frozen):
    """What the test remembers, by bet in the order of BETS. Without arguments it is that of a new test."""

    audits: int = Field(0, ge=0)
    disagreed: int = Field(0, ge=0, description="audits where the two answers differed")
    log_sums: tuple[float, ...] = Field(
        (0.0,) * _COUNT, min_length=_COUNT, max_length=_COUNT, description="logarithm of one plus the bet's winnings"
    )
    evidence: tuple[float, ...] = Field(
        (0.0,) * _COUNT,
        min_length=_COUNT,
        max_length=_COUNT,
        description="logarithm of what the bet won since the start that suits it best (Page 1954)",
    )
    starts: tuple[Start, ...] = Field((Start(),) * _COUNT, min_length=_COUNT, max_length=_COUNT)


class Onset(Frozen):
    """When a change most likely began, and what was seen since."""

    at_s: float = Field(description="time of the first audit after the change")
    audits: int = Field(gt=0, description="since then")
    disagreed: int = Field(ge=0, description="since then")

    @property
    def rate(self) -> float:
        """The share of answers unlike the reference's since then."""
        return self.disagreed / self.audits


def disagreement_bound(disagreed: int, samples: int, delta: float) -> float:
    """The upper limit of a share, `disagreed` of `samples` seen, wrong with a probability of at most `delta`.

    One-sided and exact: the share at which so few would be seen with a probability of `delta` (Clopper and Pearson
    1934). Without samples it is 1. Raises BadInputError for impossible counts and for a delta outside (0, 1).
    """
    if not 0 <= disagreed <= samples:
        raise BadInputError(
            f"{disagreed} disagreements among {samples} samples cannot be.", hint="Give a count from 0 to the samples."
        )
    if not 0 < delta < 1:
        raise BadInputError(f"The probability of a wrong bound cannot be {delta}.", hint="Give one between 0 and 1.")
    if disagreed == samples:
        return 1.0
    low, high = disagreed / samples, 1.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(disagreed, samples, middle) > delta else (low, middle)
    return high


def calibrated_bound(promise: Promise) -> float:
    """The bound of the disagreement that a cascade's certifying inputs give, at the promise's delta."""
    return disagreement_bound(round(promise.disagreement * promise.samples), promise.samples, promise.delta)


def update(state: DriftState, disagreed: bool, bound: float, at_s: float) -> DriftState:
    """The state after one more audit, at `at_s` seconds; `bound` is a share. Time and memory do not grow.

    A bet on m times the odds of the bound multiplies its stake by m / (1 + (m - 1) bound) where the answers differ and
    by 1 / (1 + (m - 1) bound) where they do not: one on average at the bound, less below it.
    """
    start: Start | None = None
    log_sums, evidence, starts = [], [], []
    for place, odds in enumerate(BETS):
        gain = math.log((odds if disagreed else 1.0) / (1.0 + (odds - 1.0) * bound))
        log_sums.append(_log_one_plus_exp(state.log_sums[place] + gain))
        before, since = state.evidence[place], state.starts[place]
        if before <= 0.0:
            start = start or Start.model_construct(audits=state.audits, disagreed=state.disagreed, at_s=at_s)
            before, since = 0.0, start
        evidence.append(before + gain)
        starts.append(since)
    return DriftState.model_construct(  # valid by the above; checking would take longer than the test itself
        audits=state.audits + 1,
        disagreed=state.disagreed + disagreed,
        log_sums=tuple(log_sums),
        evidence=tuple(evidence),
        starts=tuple(starts),
    )


def drifted(state: DriftState, false_alarm_every: float) -> bool:
    """Whether to raise the alarm: on average at least `false_alarm_every` audits apart while nothing has changed.

    Against a small bound many audits without a difference raise the winnings a little as well. So some bet must have
    seen differences that speak for it; that only makes alarms rarer.
    """
    peak = max(state.log_sums)
    mean = peak + math.log(sum(math.exp(each - peak) for each in state.log_sums) / _COUNT)
    return mean >= math.log1p(false_alarm_every) and max(state.evidence) > 0.0


def onset(state: DriftState) -> Onset | None:
    """The likeliest change by the bet with the most evidence; None where nothing speaks for one."""
    place = max(range(_COUNT), key=lambda each: state.evidence[each])
    if state.evidence[place] <= 0.0:
        return None
    start = state.starts[place]
    return Onset(at_s=start.at_s, audits=state.audits - start.audits, disagreed=state.disagreed - start.disagreed)


def describe(state: DriftState, bound: float) -> str:
    """One sentence on what was seen."""
    found = onset(state)
    if found is None:
        return (
            f"{state.disagreed} of {state.audits} audited answers differ from the reference's, and nothing speaks for "
            f"more than the {bound:.2%} that calibration allows"
        )
    return (
        f"{found.disagreed} of the last {found.audits} audited answers ({found.rate:.2%}) differ from the reference's, "
        f"where calibration allows {bound:.2%}"
    )


def _at_most(count: int, samples: int, share: float) -> float:
    """The probability of at most `count` of `samples`, each with probability `share` in (count / samples, 1)."""
    if share >= 1.0:
        return 0.0
    combinations = math.lgamma(samples + 1) - math.lgamma(count + 1) - math.lgamma(samples - count + 1)
    term = math.exp(combinations + count * math.log(share) + (samples - count) * math.log1p(-share))
    total = 0.0
    for k in range(count, -1, -1):
        total += term
        if term <= 1e-18 * total:  # terms fall from here on, for the share is above count / samples
            break
        term *= k * (1.0 - share) / ((samples - k + 1) * share)
    return total


def _log_one_plus_exp(value: float) -> float:
    return max(value, 0.0) + math.log1p(math.exp(-abs(value)))
