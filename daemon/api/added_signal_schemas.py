"""Bodies of the routes by which applications post signals of their own."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ...policies.snapshot import Frozen

DEFAULT_TTL_S, MAX_TTL_S = 60.0, 86_400.0


class SignalPost(Frozen):
    """A signal's value, and how long it holds unless it is posted again."""

    value: Annotated[float, Field(strict=True, allow_inf_nan=False)]
    unit: str = Field("", max_length=32, description="'share' is from 0 to 1, '0 or 1' is one of the two")
    meaning: str = Field("", max_length=200, description="in a few words, for those who read reasons")
    ttl_s: float = Field(DEFAULT_TTL_S, ge=1, le=MAX_TTL_S, description="seconds after which it is absent")


class PostedSignal(Frozen):
    """A signal as it is known now."""

    name: str
    value: float
    unit: str
    meaning: str
    source: str = Field(description="who posted it")
    taken_s: float = Field(description="Unix time at which it was posted")
    ttl_s: float
