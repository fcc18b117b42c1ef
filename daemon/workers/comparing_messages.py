"""What a comparing worker says: each engine's answer and time on one image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...policies.snapshot import Frozen


class ComparedEngine(Frozen):
    """One engine beside the torch reference."""

    name: str
    ran: str = Field(description="the engine that gave the answer; another one than `name` stepped in for it")
    median_ms: float = Field(description="of one image, the network alone")
    difference: float = Field(description="largest distance of a logit from the reference's")
    remarks: tuple[str, ...] = Field((), description="why another one stepped in")


class Compared(Frozen):
    """The one message of a comparing worker."""

    type: Literal["compared"] = "compared"
    base: str
    resolution: int
    threads: int
    absent: str | None = Field(None, description="why OpenVINO is not among the engines")
    engines: tuple[ComparedEngine, ...]
