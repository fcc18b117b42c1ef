"""Signals that applications post: kept in memory, each until it expires, is posted again or removed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ..policies.added_signals import NAME_RULE, POSTED, is_added
from ..policies.errors import BadInputError, ConflictError, NotFoundError
from ..policies.signal_readings import Origin
from ..policies.signals import SWITCH
from ..policies.snapshot import AddedReading
from .api.added_signal_schemas import PostedSignal, SignalPost
from .sockets import Caller

MOST = 64  # signals at a time, so that an application gone wild costs neither memory nor time at every sample


@dataclass(frozen=True, slots=True)
class _Held:
    told: PostedSignal
    until_s: float  # on the clock that never goes back


class PostedSignals:
    """The signals named `app.…`. `clock` never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._expired: dict[str, _Held] = {}  # remembered to say why they are absent

    def post(self, name: str, given: SignalPost, caller: Caller) -> PostedSignal:
        """Take a signal's value. Raises BadInputError, or ConflictError when there are too many."""
        if not (is_added(name) and name.startswith(f"{POSTED}.")):
            raise BadInputError(
                f"'{name}' is no name for a signal that is posted.",
                hint=f"It is '{POSTED}.' and a name of yours: {NAME_RULE}.",
            )
        if given.unit == "share" and not 0 <= given.value <= 1:
            raise BadInputError(f"{name} is a share from 0 to 1, not {given.value:g}.", hint="Post 0.2 for 20 %.")
        if given.unit == SWITCH and given.value not in (0, 1):
            raise BadInputError(f"{name} is 0 or 1, not {given.value:g}.")
        self._expire()
        if name not in self._held and len(self._held) >= MOST:
            raise ConflictError(
                f"{MOST} signals are posted already.", hint=f"Remove one: patchctl signal rm {min(self._held)}"
            )
        by = caller.user if caller.pid is None else f"{caller.user} (process {caller.pid})"
        told = PostedSignal(name=name, source=f"posted by {by}", taken_s=time.time(), **given.model_dump())
        self._expired.pop(name, None)
        self._held[name] = _Held(told, self._clock() + given.ttl_s)
        return told

    def remove(self, name: str) -> None:
        """Forget a signal. Raises NotFoundError."""
        self._expire()
        if self._held.pop(name, None) is None:
            raise NotFoundError(f"There is no posted signal '{name}'.", hint="`patchctl signals app` shows them.")

    def readings(self, _now_s: float) -> tuple[AddedReading, ...]:
        """Those that hold now."""
        self._expire()
        return tuple(AddedReading(**held.told.model_dump(exclude={"ttl_s"})) for held in self._held.values())

    def origins(self) -> dict[str, Origin]:
        """Why those that have expired are absent."""
        self._expire()
        now_s = self._clock()
        return {
            name: Origin(
                held.told.source,
                f"it was posted for {held.told.ttl_s:g} s, which ended {now_s - held.until_s:.0f} s ago",
            )
            for name, held in self._expired.items()
        }

    def due_in_s(self) -> float | None:
        """Seconds until the next one expires; None where none will."""
        self._expire()
        return min((held.until_s - self._clock() for held in self._held.values()), default=None)

    def _expire(self) -> None:
        now_s = self._clock()
        for name in [name for name, held in self._held.items() if held.until_s <= now_s]:
            self._expired[name] = self._held.pop(name)
        while len(self._expired) > MOST:
            self._expired.pop(next(iter(self._expired)))
