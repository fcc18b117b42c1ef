"""How many times as long as measured calm predictions take now: one factor that scales the costs of all rungs.

The idea is that of ALERT (Wan, Santriaji, Rogers, Hoffmann, Maire, Lu: Accurate Learning for Energy and Timeliness,
USENIX ATC 2020): other work slows every network by about the same factor, so the measured time of whichever ran
corrects what is expected of all. The factor is followed by a scalar Kalman filter whose process noise adapts to its
innovations, so that it is steady under noise and moves within a few measurements when the device does.

ALERT takes the filtered factor as it is. Here a band and the slow rise of an allocation stand between the filter and
the choice of a rung: the inverse of the factor is a speed, and that falls at once and rises late.
"""

from __future__ import annotations

from pydantic import Field

from .following import HoldState, follow
from .signals import signals
from .snapshot import Frozen, Snapshot

MEASURED_VARIANCE = 0.02  # of a second's median ratio around the factor: a seventh of it either way
LEAST_PROCESS_NOISE = 1e-3
FORGETTING = 0.3  # share of the process noise so far that stays when an innovation comes: ALERT's alpha
RATIO_MAX = 20.0  # a measurement beyond this tells of a stall, not of a slow device

ENTER, LEAVE = 1.5, 1.2  # what is slower by less may be cold caches between two requests
BAND = 1.25  # a factor in force stays while the filtered one is within this of it
CAUSES = {"cpu.busy_other": 0.3, "pressure.cpu.some": 0.1, "pressure.memory.some": 0.05, "cpu.steal": 0.05}
RAISE_AFTER_S = 10.0
FRESH_S = 10.0  # without a measurement for so long the factor begins to return to 1 ...
HALF_LIFE_S = 20.0  # ... and halves its distance from it in such a time


class Slowdown(Frozen):
    """Memory of the filter and of the factor in force."""

    mean: float = Field(1.0, description="the filtered factor")
    variance: float = Field(0.1, description="of the filtered factor")
    process: float = Field(0.1, description="variance by which the true factor is taken to move between measurements")
    measured_s: float | None = Field(None, description="when a prediction was last measured")
    time_s: float | None = None
    speed: HoldState = Field(HoldState(), description="one over the factor in force")

    @property
    def factor(self) -> float:
        """The factor in force: at least 1, for a device that is faster than measured is measured again."""
        return 1.0 if self.speed.value is None else 1.0 / self.speed.value

    def rebased(self, now: float) -> Slowdown:
        """The memory after the clock was set back to `now`: no span measured across that counts."""
        seen = None if self.measured_s is None else now
        return self.model_copy(update={"measured_s": seen, "time_s": now, "speed": self.speed.rebased(now)})


def counted(memory: Slowdown, measured: float | None, snapshot: Snapshot) -> float | None:
    """What is measured, unless it says that the device is slow while nothing on it could be the cause.

    A processor that clocks down between two requests, or a cache that something else has filled meanwhile, makes rare
    predictions slow on a device that has all the time in the world for them.
    """
    if measured is None or measured <= memory.mean:
        return measured
    causes = [value > CAUSES[name] for name, value in signals(snapshot, CAUSES).items()]
    return measured if any(causes) or not causes else None


def heed(memory: Slowdown, measured: float | None, now: float) -> Slowdown:
    """The memory after a turn in which predictions took `measured` times their calm cost; None: none was measured."""
    last_s = now if memory.time_s is None else memory.time_s
    filtered = _idled(memory, now - last_s, now) if measured is None else _corrected(memory, measured, now)
    target = _banded(filtered.mean, memory.speed.target)
    _, speed, _ = follow(
        memory.speed, target, raise_after_s=RAISE_AFTER_S, rise_per_s=1.0, now=now, last_s=memory.time_s
    )
    return filtered.model_copy(update={"time_s": now, "speed": speed})


def _corrected(memory: Slowdown, measured: float, now: float) -> Slowdown:
    """One step of the filter: its variance grows, a measurement corrects it, and the correction adapts its noise."""
    variance = memory.variance + memory.process
    gain = variance / (variance + MEASURED_VARIANCE)
    correction = gain * (min(measured, RATIO_MAX) - memory.mean)
    process = FORGETTING * memory.process + (1 - FORGETTING) * correction**2
    return memory.model_copy(
        update={
            "mean": memory.mean + correction,
            "variance": (1 - gain) * variance,
            "process": max(LEAST_PROCESS_NOISE, process),
            "measured_s": now,
        }
    )


def _idled(memory: Slowdown, elapsed_s: float, now: float) -> Slowdown:
    """What is known after some time without a measurement: less and less, and that most devices are calm."""
    if memory.measured_s is None or now - memory.measured_s <= FRESH_S or elapsed_s <= 0:
        return memory
    share = 0.5 ** (elapsed_s / HALF_LIFE_S)
    mean = 1.0 + (memory.mean - 1.0) * share
    known = Slowdown()  # as much as at the beginning
    if abs(mean - 1.0) < 1e-3:
        return memory.model_copy(
            update={"mean": 1.0, "variance": known.variance, "process": known.process, "measured_s": None}
        )
    variance = known.variance + (memory.variance - known.variance) * share
    process = known.process + (memory.process - known.process) * share
    return memory.model_copy(update={"mean": mean, "variance": variance, "process": process})


def _banded(mean: float, before: float | None) -> float:
    """The speed to go by: the one before while the filtered factor is near it, 1 while that is little above 1."""
    standing = 1.0 if before is None else 1.0 / before
    if mean < (ENTER if standing <= 1.0 else LEAVE):
        return 1.0
    if before is not None and standing > 1.0 and standing / BAND <= mean <= standing * BAND:
        return before
    return 1.0 / round(mean, 2)


def in_words(memory: Slowdown) -> str:
    """What is measured, and what follows, as one sentence without its full stop."""
    if memory.measured_s is None and memory.factor == 1.0:
        return "no prediction was measured lately; costs are taken as measured calm"
    about = f"predictions take {memory.mean:.1f} times as long as measured calm"
    if memory.factor == 1.0:
        return f"{about}; costs are not scaled below {ENTER:g} times"
    return f"{about}; costs are scaled by {memory.factor:.2f}"
