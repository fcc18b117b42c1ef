"""The rules of a policy file: conditions on signals, and what holds while they do."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from .curves import Curve, Drawn, Fixed, Level, level_kind
from .known_signals import SignalName, known_signal
from .policy_tables import Number, WindowText
from .sections import CascadeCaps, Pixels
from .signals import SIGNALS
from .snapshot import Frozen
from .windows import Window, windows_of

DEFAULT_BAND = 0.1  # a missing leave threshold lies this share of the enter threshold away


class Condition(Frozen):
    """One condition on a signal: `above`, `below` (each with a leave threshold) or `is`."""

    signal: SignalName = Field(description="the signal that it is about")
    above: Number | None = None
    leave_below: Number | None = None
    below: Number | None = None
    leave_above: Number | None = None
    equals: bool | None = Field(None, alias="is")
    for_s: Number = Field(0.0, ge=0, description="seconds it must hold before the condition is entered")
    leave_for_s: Number = Field(0.0, ge=0, description="seconds the leave threshold must be passed before it is left")

    @model_validator(mode="after")
    def _consistent(self) -> Condition:
        spec = known_signal(self.signal)
        given = [self.above is not None, self.below is not None, self.equals is not None]
        if sum(given) != 1:
            raise ValueError("give exactly one of above, below and is")
        thresholds = (self.above, self.below, self.leave_below, self.leave_above)
        if spec.unit == "share" and any(v is not None and not 0 <= v <= 1 for v in thresholds):
            raise ValueError(f"{self.signal} is a share from 0 to 1; write 0.2 for 20 %")
        if self.leave_below is not None and (self.above is None or self.leave_below > self.above):
            raise ValueError("leave_below goes with above and lies at or below it")
        if self.leave_above is not None and (self.below is None or self.leave_above < self.below):
            raise ValueError("leave_above goes with below and lies at or above it")
        return self

    @property
    def enter(self) -> float:
        """The threshold that enters the condition."""
        return next(v for v in (self.above, self.below, 0.5) if v is not None)

    @property
    def leave(self) -> float:
        """The threshold that leaves it; by default a tenth of the enter threshold away."""
        if self.above is not None:
            leave = self.above - DEFAULT_BAND * abs(self.above) if self.leave_below is None else self.leave_below
        elif self.below is not None:
            leave = self.below + DEFAULT_BAND * abs(self.below) if self.leave_above is None else self.leave_above
        else:
            return 0.5
        # A share never passes 1: a threshold beyond it could not be left again.
        spec = SIGNALS.get(self.signal)
        return min(1.0, leave) if spec is not None and spec.unit == "share" else leave


Forbidden = Annotated[Literal[False], Tag("permission")]


def _training_kind(value: object) -> str:
    return "permission" if isinstance(value, bool) else level_kind(value)


class Rule(Frozen):
    """One `[[rule]]`: while its conditions hold and one of its windows is open, nothing is more than it says."""

    name: str = Field(min_length=1)
    when: tuple[Condition, ...] = Field((), description="conditions on signals, all of which must hold")
    windows: tuple[WindowText, ...] = Field(
        (), description="local times at which it counts, such as 'mon-fri 08:00-18:00'; empty: at all times"
    )
    inference: Level | None = Field(None, description="inference allocation at most: a number or a curve")
    training: Annotated[Fixed | Drawn | Forbidden, Discriminator(_training_kind)] | None = Field(
        None, description="training allocation at most: a number or a curve; false: training is not permitted"
    )
    max_resolution: Pixels | None = Field(None, description="pixels; rungs above are not used")
    memory_bytes: Number | None = Field(None, ge=0, description="a training step takes at most this, beside the base")
    max_minutes_per_day: Number | None = Field(
        None, gt=0, le=100_000, description="processor minutes that training may have used of a local day"
    )
    keep_alive_s: Number | None = Field(None, gt=0, description="an inference worker idle for so long is unloaded")
    examples: bool = Field(True, strict=True, description="false: applications may not hand over examples")
    cascade: CascadeCaps = CascadeCaps()

    @model_validator(mode="after")
    def _useful(self) -> Rule:
        if not self.when and not self.windows and not any(self.curves):
            raise ValueError("say when it counts: give when or windows")
        if not self.model_fields_set - {"name", "when", "windows"}:
            raise ValueError("say what it restricts: give at least one of inference and training, or another result")
        return self

    @property
    def parsed_windows(self) -> tuple[Window, ...]:
        """The windows as spans of the wall clock."""
        return windows_of(self.windows)

    @property
    def curves(self) -> tuple[tuple[str, Curve], ...]:
        """The allocations that are curves, by name."""
        results = (("inference", self.inference), ("training", self.training))
        return tuple((name, level) for name, level in results if isinstance(level, Curve))
