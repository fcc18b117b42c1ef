"""`[task.NAME]` and `[application.NAME]`: what a policy allows one task or one application, whatever it allows others.

A section only takes away. Where several things restrict the same, the most restrictive counts.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from .policy_mistakes import MistakeAtError
from .policy_tables import Number
from .snapshot import Frozen

MOST_PROGRAM_BYTES = 15  # the kernel keeps no more of a program's name (proc(5), comm)

Share = Annotated[Number, Field(ge=0, le=1)]
Pixels = Annotated[int, Field(strict=True, ge=32)]
ApplicationName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]


class CascadeCaps(Frozen):
    """Which cascades answers may pass: none, or none whose promise is weaker."""

    enabled: bool = Field(True, strict=True, description="false: one rung answers, by the decision")
    epsilon: Number | None = Field(None, gt=0, lt=0.5, description="no cascade that promises less than this is passed")
    delta: Number | None = Field(
        None, gt=0, lt=0.5, description="nor one whose promise is given wrongly more often than this"
    )


class Section(Frozen):
    """What both kinds of section restrict."""

    inference: Share | None = Field(None, description="inference allocation is at most this")
    min_resolution: Pixels | None = Field(None, description="pixels; rungs below are not used")
    max_resolution: Pixels | None = Field(None, description="pixels; rungs above are not used")
    training: bool = Field(True, strict=True, description="false: it may not be trained, or may not ask for training")
    examples: bool = Field(True, strict=True, description="false: no examples are taken for it, or from it")
    cascade: CascadeCaps = CascadeCaps()

    @model_validator(mode="after")
    def _ordered(self) -> Section:
        low, high = self.min_resolution, self.max_resolution
        if low is not None and high is not None and low > high:
            raise MistakeAtError(f"min_resolution {low} is above max_resolution {high}", "min_resolution")
        return self


class TaskSection(Section):
    """A `[task.NAME]` table."""

    keep_alive_s: Number | None = Field(
        None, gt=0, description="the inference worker stays so long after this task's last request"
    )


class ApplicationSection(Section):
    """An `[application.NAME]` table: whom it is for, and what it restricts. All that is given must match."""

    user: str | None = Field(None, min_length=1, description="Unix user, * and ? standing for any characters")
    unit: str | None = Field(
        None, min_length=1, description="systemd unit or another cgroup of the process, such as 'camera.service'"
    )
    program: str | None = Field(None, min_length=1, description="name of the program, as `ps -o comm` shows it")

    @model_validator(mode="after")
    def _matches_somebody(self) -> ApplicationSection:
        if self.user is None and self.unit is None and self.program is None:
            raise ValueError("say whom it is for: give user, unit or program")
        if self.program is not None and len(self.program.encode()) > MOST_PROGRAM_BYTES:
            short = self.program.encode()[:MOST_PROGRAM_BYTES].decode(errors="ignore")
            text = f"the kernel keeps {MOST_PROGRAM_BYTES} bytes of a program's name; write '{short}'"
            raise MistakeAtError(text, "program")
        return self

    @property
    def needs_process(self) -> bool:
        """Whether the caller's process has to be looked at, beside its user."""
        return self.unit is not None or self.program is not None

    def matches(self, user: str, units: tuple[str, ...], program: str | None) -> bool:
        """Whether it is for a caller: its user, the names of its cgroups, and its program's name."""
        return (
            (self.user is None or fnmatchcase(user, self.user))
            and (self.unit is None or any(fnmatchcase(name, self.unit) for name in units))
            and (self.program is None or (program is not None and fnmatchcase(program, self.program)))
        )
