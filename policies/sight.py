"""What a policy can tell apart in what the device shows: the moments it cannot tell apart need no deciding twice.

A condition with two thresholds has two sides, where it is entered or left whatever it was, and a band between them,
where it stays what it is. So all that counts of its signal is the side, and within the band the side it came from. A
signal that the policy uses in any other way counts by its exact value: a new way of using one is never taken for an
old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from .conditions import Condition
from .policy import Policy
from .training_times import COOL_DOWN_CELSIUS
from .windows import Window, is_open, windows_of

ENTERED, LEFT, BAND = 1, -1, 0
Key = tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class _Thresholds:
    """Two thresholds on a signal, and how long it must have passed one before that counts."""

    signal: str
    enter: float
    leave: float
    falling: bool  # entered below `enter`, not above it
    wait_s: float

    def side(self, value: float) -> int:
        if self.falling:
            return ENTERED if value < self.enter else LEFT if value >= self.leave else BAND
        return ENTERED if value > self.enter else LEFT if value <= self.leave else BAND


class Sight:
    """What one policy looks at."""

    def __init__(self, policy: Policy) -> None:
        exact: dict[str, None] = {}
        thresholds: dict[_Thresholds, None] = {}
        windows: dict[Window, None] = {}
        for part in _parts(policy):
            signal = getattr(part, "signal", None)
            if isinstance(part, Condition) and part.equals is None:
                wait_s = max(part.for_s, part.leave_for_s)
                thresholds[_Thresholds(part.signal, part.enter, part.leave, part.below is not None, wait_s)] = None
            elif isinstance(signal, str):
                exact[signal] = None
            windows |= dict.fromkeys(windows_of(tuple(getattr(part, "windows", None) or ())))
        training = policy.training
        if training.only_on_mains:
            exact["power.on_mains"] = None
        if training.idle_for_s > 0:
            thresholds[_Thresholds("user.idle_s", training.idle_for_s, training.idle_for_s, True, 0.0)] = None
        if (hot := training.max_celsius) is not None:
            thresholds[_Thresholds("temperature.max", hot, hot - COOL_DOWN_CELSIUS, False, 0.0)] = None
        self.exact = tuple(exact)
        self.thresholds = tuple(thresholds)
        self._windows = tuple(windows)

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that the policy looks at."""
        return tuple(dict.fromkeys([*self.exact, *(each.signal for each in self.thresholds)]))

    def sides(self, values: Mapping[str, float]) -> Key:
        """On which side of each pair of thresholds the signals lie; None where the machine lacks one."""
        return tuple(
            None if (value := values.get(each.signal)) is None else each.side(value) for each in self.thresholds
        )

    def values(self, values: Mapping[str, float]) -> Key:
        """The signals that count by their exact value."""
        return tuple(values.get(name) for name in self.exact)

    def clock(self, local: datetime) -> tuple[bool, ...]:
        """What the policy sees of a local time; it is the same for a whole minute."""
        return tuple(is_open((window,), local) for window in self._windows)


class SidesSeen:
    """The sides over time: those that are known to hold for a condition, and since when others have been passed."""

    def __init__(self, sight: Sight) -> None:
        self._waits = tuple(each.wait_s for each in sight.thresholds)
        self._passed: list[tuple[float | None, float]] = [(None, 0.0)] * len(self._waits)
        self._known: list[float | None] = [None] * len(self._waits)

    def key(self, sides: Key, t: float) -> Key:
        """The sides at `t`, those within a band by the side they came from where that is known to hold."""
        passed, known = self._passed, self._known
        seen = []
        for at, side in enumerate(sides):
            if side != BAND or known[at] is None:
                if passed[at][0] != side:
                    passed[at] = (side, t)
                    known[at] = None
                seen.append(side)
            else:
                seen.append(known[at])
        return tuple(seen)

    def decided(self, t: float) -> None:
        """A decision was made at `t`, the moment of the last key: sides passed for long enough hold from now on."""
        for at, (side, since) in enumerate(self._passed):
            if side in (ENTERED, LEFT) and t - since >= self._waits[at]:
                self._known[at] = side


def _parts(value: Any) -> Iterator[BaseModel]:
    """A model and all models within it."""
    if isinstance(value, BaseModel):
        yield value
        for name in type(value).model_fields:
            yield from _parts(getattr(value, name))
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _parts(each)
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _parts(each)
