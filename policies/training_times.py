"""When training may run: windows of the day, mains, an idle user, a daily limit, heat. Pure: the clock is handed in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from pydantic import Field

from .signals import signals
from .snapshot import Frozen, Snapshot
from .windows import day_and_time, is_open, next_change, next_midnight

if TYPE_CHECKING:
    from .policy_tables import Training

COOL_DOWN_CELSIUS = 5.0  # training that was too hot goes on so far below its limit
HEEDED = ("power.on_mains", "user.idle_s", "temperature.max")  # all that a policy's `[training]` table speaks of


class Bar(StrEnum):
    """What keeps training from running: keys of the `[training]` table, and a rule with `training = false`."""

    PERMISSION = "permission"
    WINDOWS = "windows"
    ONLY_ON_MAINS = "only_on_mains"
    IDLE_FOR_S = "idle_for_s"
    MAX_MINUTES_PER_DAY = "max_minutes_per_day"
    MAX_CELSIUS = "max_celsius"


class Hindrance(Frozen):
    """One condition that keeps training from running, in words and numbers."""

    key: Bar
    text: str
    value: float | None = Field(None, description="what was seen, in the condition's unit")
    limit: float | None = Field(None, description="what the policy asks for")


class TrainingTimes(Frozen):
    """Whether training may run now; without hindrances it may."""

    hindrances: tuple[Hindrance, ...] = ()
    assumed: tuple[str, ...] = Field((), description="what was taken for granted where the machine does not tell")

    @property
    def text(self) -> str:
        """Why training waits; empty where it does not."""
        return "training waits: " + "; ".join(each.text for each in self.hindrances) if self.hindrances else ""


@dataclass(frozen=True, slots=True)
class TrainingDay:
    """The local time, and what training has used of the local day."""

    local: datetime  # aware, in the machine's zone
    used_s: float = 0.0  # processor seconds


def training_times(
    policy: Training,
    snapshot: Snapshot,
    day: TrainingDay | None,
    before: Collection[Bar] = (),
    forbidden: Sequence[str] = (),
) -> TrainingTimes:
    """Which conditions of the policy keep training from running; `forbidden` tells of rules that do not permit it.

    `before` names those that did so at the turn before: heat has a band. Without a `day`, as in a trace that does
    not tell the time of day, windows and the daily limit are left out.
    """
    seen = signals(snapshot, HEEDED)
    found = [
        *(Hindrance(key=Bar.PERMISSION, text=text) for text in forbidden),
        *(_of_the_day(policy, day) if day is not None else ()),
        *_of_the_device(policy, seen, Bar.MAX_CELSIUS in before),
    ]
    return TrainingTimes(hindrances=tuple(found), assumed=tuple(_assumed(policy, seen)))


def next_boundary(policy: Training, local: datetime) -> datetime | None:
    """When what training may do changes next by the clock alone: a window's bound, or the day's end; None for never."""
    change = next_change(policy.parsed_windows, local)
    midnight = next_midnight(local) if policy.max_minutes_per_day is not None else None
    return min((moment for moment in (change, midnight) if moment is not None), default=None)


def _of_the_day(policy: Training, day: TrainingDay) -> Iterator[Hindrance]:
    windows = policy.parsed_windows
    if not is_open(windows, day.local):
        opens = next_change(windows, day.local)
        when = "" if opens is None else f"; the next opens {day_and_time(opens)}"
        yield Hindrance(
            key=Bar.WINDOWS,
            text=f"{day_and_time(day.local)} is outside the policy's windows ({', '.join(policy.windows)}){when}",
        )
    limit = policy.max_minutes_per_day
    if limit is not None and day.used_s >= limit * 60:
        used = day.used_s / 60
        yield Hindrance(
            key=Bar.MAX_MINUTES_PER_DAY,
            value=used,
            limit=limit,
            text=f"training has used {used:.1f} of the {limit:g} processor minutes of this day",
        )


def _of_the_device(policy: Training, seen: dict[str, float], was_hot: bool) -> Iterator[Hindrance]:
    if policy.only_on_mains and seen.get("power.on_mains") == 0.0:
        yield Hindrance(key=Bar.ONLY_ON_MAINS, value=0.0, limit=1.0, text="the device is on battery")
    if policy.idle_for_s > 0:
        idle = seen.get("user.idle_s")
        if idle is None:
            yield Hindrance(
                key=Bar.IDLE_FOR_S,
                limit=policy.idle_for_s,
                text=f"it must be idle for {policy.idle_for_s:g} s, and this machine does not tell (no user.idle_s)",
            )
        elif idle < policy.idle_for_s:
            yield Hindrance(
                key=Bar.IDLE_FOR_S,
                value=idle,
                limit=policy.idle_for_s,
                text=f"the device was used {idle:.0f} s ago, and must be idle for {policy.idle_for_s:g} s",
            )
    heat = seen.get("temperature.max")
    if policy.max_celsius is not None and heat is not None:
        limit = policy.max_celsius - (COOL_DOWN_CELSIUS if was_hot else 0.0)
        if heat > limit:
            band = f" (it goes on at {policy.max_celsius - COOL_DOWN_CELSIUS:g})"
            yield Hindrance(
                key=Bar.MAX_CELSIUS,
                value=heat,
                limit=policy.max_celsius,
                text=f"the hottest sensor is at {heat:.0f} degrees Celsius, over {policy.max_celsius:g}{band}",
            )


def _assumed(policy: Training, seen: dict[str, float]) -> Iterator[str]:
    if policy.only_on_mains and "power.on_mains" not in seen:
        yield "only_on_mains: this machine has neither a battery nor an adapter to read, so it is on mains"
    if policy.max_celsius is not None and "temperature.max" not in seen:
        yield "max_celsius: this machine has no temperature to read, so none is too high"
