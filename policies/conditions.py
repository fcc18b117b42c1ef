"""The rules of a policy file: conditions on signals, and what holds while they do."""

from __future__ import annotations

import difflib

from pydantic import Field, model_validator

from .added_signals import NAME_RULE, claims_to_be_added
from .policy_tables import Number
from .signals import SIGNALS, signal_spec
from .snapshot import Frozen

DEFAULT_BAND = 0.1  # a missing leave threshold lies this share of the enter threshold away


class Condition(Frozen):
    """One condition on a signal: `above`, `below` (each with a leave threshold) or `is`."""

    signal: str
    above: Number | None = None
    leave_below: Number | None = None
    below: Number | None = None
    leave_above: Number | None = None
    equals: bool | None = Field(None, alias="is")
    for_s: Number = Field(0.0, ge=0, description="seconds it must hold before the condition is entered")
    leave_for_s: Number = Field(0.0, ge=0, description="seconds the leave threshold must be passed before it is left")

    @model_validator(mode="after")
    def _consistent(self) -> Condition:
        spec = signal_spec(self.signal)
        if spec is None and claims_to_be_added(self.signal):
            raise ValueError(f"'{self.signal}' is no name of an added signal: {NAME_RULE}")
        if spec is None:
            near = difflib.get_close_matches(self.signal, SIGNALS, 1)
            raise ValueError(f"unknown signal '{self.signal}'" + (f", did you mean '{near[0]}'?" if near else ""))
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


class Rule(Frozen):
    """One `[[rule]]`: while all its conditions hold, the allocations are at most these."""

    name: str = Field(min_length=1)
    when: tuple[Condition, ...] = Field(min_length=1)
    inference: Number | None = Field(None, ge=0, le=1)
    training: Number | None = Field(None, ge=0, le=1)

    @model_validator(mode="after")
    def _useful(self) -> Rule:
        if self.inference is None and self.training is None:
            raise ValueError("give at least one of inference and training")
        return self
