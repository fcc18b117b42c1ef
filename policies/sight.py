"""What a policy can tell apart in what the device shows: the moments it cannot tell apart need no deciding twice.

A condition with two thresholds has two sides, where it is entered or left whatever it was, and a band between them,
where it stays what it is. So all that counts of its signal is the side, and within the band the side it came from. A
curve is read at a value that follows its signal with a play, and that value counts. A signal that the policy uses in
any other way counts by its exact value: a new way of using one is never taken for an old one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel

from .added_signals import is_added
from .conditions import Condition
from .curves import Curve
from .policy import Policy
from .signals import SIGNALS
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
        curves: dict[Curve, None] = {}
        windows: dict[Window, None] = {}
        for part in _parts(policy):
            if isinstance(part, Curve):
                curves[part] = None
            elif isinstance(part, Condition) and part.equals is None:
                wait_s = max(part.for_s, part.leave_for_s)
                thresholds[_Thresholds(part.signal, part.enter, part.leave, part.below is not None, wait_s)] = None
            else:
                exact |= dict.fromkeys(_signals_named_by(part))
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
        self.curves = tuple(curves)
        minutes = {getattr(part, "max_minutes_per_day", None) for part in _parts(policy)}
        self.daily_limits_s = tuple(sorted(limit * 60.0 for limit in minutes if limit is not None))
        self._windows = tuple(windows)

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that the policy looks at."""
        by_curves = (curve.over for curve in self.curves)
        return tuple(dict.fromkeys([*self.exact, *by_curves, *(each.signal for each in self.thresholds)]))

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


class Seeing:
    """What a policy sees over time: sides that are known to hold, since when others were passed, curves' values."""

    def __init__(self, sight: Sight) -> None:
        self._waits = tuple(each.wait_s for each in sight.thresholds)
        self._passed: list[tuple[float | None, float]] = [(None, 0.0)] * len(self._waits)
        self._known: list[float | None] = [None] * len(self._waits)
        self._curves = sight.curves
        self._held: list[float | None] = [None] * len(sight.curves)

    def sides(self, sides: Key, t: float) -> Key:
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

    def curves(self, values: Mapping[str, float]) -> Key:
        """The values that curves are read at: each follows its signal with a play, so it has to be asked every time."""
        for at, curve in enumerate(self._curves):
            value = values.get(curve.over)
            self._held[at] = None if value is None else curve.held(value, self._held[at])
        return tuple(self._held)

    def decided(self, t: float) -> None:
        """A decision was made at `t`, the moment of the last sides: those passed for long enough hold from now on."""
        for at, (side, since) in enumerate(self._passed):
            if side in (ENTERED, LEFT) and t - since >= self._waits[at]:
                self._known[at] = side


def _signals_named_by(part: BaseModel) -> Iterator[str]:
    """Whatever a part of the policy names a signal for."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, str) and (value in SIGNALS or is_added(value)):
            yield value


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
