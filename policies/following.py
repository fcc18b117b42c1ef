"""An allocation follows what the rules ask for: it falls at once, and rises late, in steps of a limited slope."""

from __future__ import annotations

from pydantic import Field

from .snapshot import Frozen

BACK_OFF_WINDOW_S = 60.0  # a fall this soon after a rise says that the rise was too early
BACK_OFF_FACTOR, BACK_OFF_MAX = 2.0, 32.0


class HoldState(Frozen):
    """Memory of one allocation: its value, what has been asked for since when, and the back-off in force."""

    value: float | None = None
    target: float | None = None
    target_since_s: float = 0.0
    allowed_since_s: float | None = Field(None, description="since when more has been allowed, or the last step up")
    allowed: float | None = Field(None, description="the least that has been allowed since then")
    raised_s: float | None = None
    back_off: float = 1.0

    def rebased(self, now: float) -> HoldState:
        """The memory after the clock was set back to `now`: no span measured across that counts."""
        return self.model_copy(
            update={
                "allowed_since_s": None if self.allowed_since_s is None else now,
                "raised_s": None if self.raised_s is None else now,
                "target_since_s": now,
            }
        )


def follow(
    hold: HoldState, target: float, *, raise_after_s: float, rise_per_s: float, now: float, last_s: float | None
) -> tuple[float, HoldState, float | None]:
    """The value that follows `target`, what to remember, and the seconds it still waits where it is to rise.

    It falls at once and rises after `raise_after_s` times the back-off, by at most `rise_per_s` for each second since
    its last change; `last_s` is the time of the sample before. A fall soon after a rise doubles the back-off; only a
    target that has stood still for a while ends it, so a signal that swings for hours is followed ever more rarely.
    """
    if hold.value is None:
        return target, HoldState(value=target, target=target, target_since_s=now), None
    since = hold.target_since_s if target == hold.target else now
    back_off = 1.0 if now - since >= BACK_OFF_WINDOW_S else hold.back_off
    seen = HoldState(value=hold.value, target=target, target_since_s=since, raised_s=hold.raised_s, back_off=back_off)
    if target < hold.value:
        if hold.raised_s is not None and now - hold.raised_s < BACK_OFF_WINDOW_S * back_off:
            back_off = min(BACK_OFF_MAX, back_off * BACK_OFF_FACTOR)
        return target, seen.model_copy(update={"value": target, "back_off": back_off}), None
    if target == hold.value:
        return target, seen, None
    rising_since = now if hold.allowed_since_s is None else hold.allowed_since_s
    allowed = target if hold.allowed is None else min(target, hold.allowed)
    left = raise_after_s * back_off - (now - rising_since)
    waiting = {"allowed_since_s": rising_since, "allowed": allowed}
    if left > 0:
        return hold.value, seen.model_copy(update=waiting), left
    began = rising_since if last_s is None else min(rising_since, last_s)
    value = min(allowed, round(hold.value + rise_per_s * (now - began), 6))
    if value <= hold.value:  # two looks at one moment
        return hold.value, seen.model_copy(update=waiting), 0.0
    risen = seen.model_copy(update={"value": value, "raised_s": now})
    if value == target:
        return value, risen, None
    # What was allowed only lately waits its own time, and so does the rest of a rise that the slope cut.
    return value, risen.model_copy(update={"allowed_since_s": now, "allowed": target}), raise_after_s * back_off
