"""The rung that answers one request: the decided one, unless the caller may have less, or asks for one by name."""

from __future__ import annotations

from .choices import Terms
from .decision import Ladder, RungDecision
from .errors import ForbiddenError
from .restrictions import Restrictions


def rung_for(
    ladder: Ladder,
    decided: RungDecision | None,
    device: float,
    of_task: Restrictions,
    of_caller: Restrictions,
    slowdown: float = 1.0,
) -> RungDecision:
    """The rung for a request at the inference allocation `device`.

    `decided` is what the decision in force says of this ladder, `of_task` what restricts all requests to it, and
    `of_caller` this one alone. Costs are `slowdown` times those measured in calm.
    """
    if decided is not None and not of_caller.any:
        return decided
    whole = of_task.and_also(of_caller)
    chosen = Terms(whole.allocation(device), *whole.resolutions, slowdown).choose(ladder)
    if decided is not None:
        same = next((each for each in chosen.candidates if each.rung.resolution == decided.resolution), None)
        if same is not None and same.fits and same.within_caps:
            return decided
    return chosen.model_copy(update={"text": "; ".join((chosen.text, *whole.in_words(device)))})


def check_may_ask(ladder: Ladder, resolution: int, of_caller: Restrictions) -> None:
    """Raise ForbiddenError where a caller may not have the rung of this resolution, though it asks for it.

    The allocation that counts here is the caller's own limit: what the device can spare now binds nobody who names a
    rung.
    """
    high, low, most = of_caller.max_resolution, of_caller.min_resolution, of_caller.inference
    if high is not None and resolution > high.value:
        raise _refused(resolution, f"{high.by} allows it {high.value:g} px at most")
    if low is not None and resolution < low.value:
        raise _refused(resolution, f"{low.by} allows it {low.value:g} px at least")
    if most is None:
        return
    chosen = Terms(most.value, *of_caller.resolutions).choose(ladder)
    asked = next((each for each in chosen.candidates if each.rung.resolution == resolution), None)
    if asked is not None and not asked.fits and asked.rung.resolution != chosen.resolution:
        raise _refused(
            resolution,
            f"{most.by} allows it an allocation of {most.value:.2f} at most, a budget of {chosen.budget_ms:.1f} ms; "
            f"that rung costs {asked.cost_ms:.1f} ms",
        )


def _refused(resolution: int, why: str) -> ForbiddenError:
    return ForbiddenError(
        f"This application may not ask for {resolution} px: the policy's {why}.",
        hint="Leave the resolution to the policy, or ask for another one.",
    )
