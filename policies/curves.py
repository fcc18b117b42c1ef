"""An allocation as a curve over a signal: straight lines between points, the ends held on, without flapping."""

from __future__ import annotations

import bisect
from typing import Annotated

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from .known_signals import SignalName, known_signal
from .policy_mistakes import MistakeAtError
from .policy_tables import Number
from .signals import SWITCH
from .snapshot import Frozen

BAND = 0.02  # of the curve's width: a signal that swings by no more on either side is taken to stand still
STEP = 0.05  # of the allocation; between points a curve is taken in such steps, downwards


class Curve(Frozen):
    """`{ over = "battery.charge", points = [[0.1, 0.2], [0.5, 1.0]] }`."""

    over: SignalName = Field(description="the signal")
    points: tuple[tuple[Number, Number], ...] = Field(
        min_length=2, description="pairs of a value of the signal, which grows, and an allocation from 0 to 1"
    )

    @field_validator("over")
    @classmethod
    def _known(cls, over: str) -> str:
        if (spec := known_signal(over)).unit == SWITCH:
            raise ValueError(f"{spec.name} is true or false; write a rule with a condition on it")
        return over

    @model_validator(mode="after")
    def _drawn(self) -> Curve:
        share = known_signal(self.over).unit == "share"
        for index, (x, y) in enumerate(self.points):
            if index and x <= self.points[index - 1][0]:
                text = f"the signal's values must grow, and {x:g} does not come after {self.points[index - 1][0]:g}"
                raise MistakeAtError(text, "points", index)
            if share and not 0 <= x <= 1:
                raise MistakeAtError(f"{self.over} is a share from 0 to 1; write 0.2 for 20 %", "points", index)
            if not 0 <= y <= 1:
                raise MistakeAtError(f"an allocation lies from 0 to 1, and {y:g} does not", "points", index)
        return self

    def at(self, x: float) -> float:
        """The height of the curve; before the first point and after the last it goes on level."""
        xs = [point[0] for point in self.points]
        place = bisect.bisect_right(xs, x)
        if place == 0:
            return self.points[0][1]
        if place == len(xs):
            return self.points[-1][1]
        (x0, y0), (x1, y1) = self.points[place - 1], self.points[place]
        # Between both heights, whatever rounding does.
        return min(max(y0, y1), max(min(y0, y1), y0 + (y1 - y0) * ((x - x0) / (x1 - x0))))

    def level(self, x: float) -> float:
        """The allocation at a value of the signal: the height, rounded down to a step or to that of a point."""
        height = self.at(x)
        step = round(int(height / STEP + 1e-9) * STEP, 6)
        return max([y for _, y in self.points if y <= height] + ([step] if step <= height + 1e-9 else []), default=0.0)

    def held(self, x: float, before: float | None) -> float:
        """The value that the curve is read at: `before`, until the signal is further from it than the band.

        This is the play of a gear: what swings within the band around any mean moves nothing.
        """
        if before is None:
            return x
        band = BAND * (self.points[-1][0] - self.points[0][0])
        return min(max(before, x - band), x + band)


def level_kind(value: object) -> str:
    """Which of the two a result is written as."""
    return "curve" if isinstance(value, dict | Curve) else "number"


Fixed = Annotated[Number, Field(ge=0, le=1), Tag("number")]
Drawn = Annotated[Curve, Tag("curve")]
Level = Annotated[Fixed | Drawn, Discriminator(level_kind)]
