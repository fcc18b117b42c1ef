"""How many rows of a terminal each panel gets."""

from __future__ import annotations

from collections.abc import Sequence


def rows(height: int, panels: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Heights of panels that want so many rows and need at least so many, in all `height` where that is enough.

    All get what they need, first come first served; what is left goes to those that want more, a row at a time in turn.
    What nobody wants goes to the last one.
    """
    given = [0] * len(panels)
    left = max(0, height)
    for place, (wanted, least) in enumerate(panels):
        given[place] = min(left, max(1, min(wanted, least)))
        left -= given[place]
    while left and any(given[place] < wanted for place, (wanted, _) in enumerate(panels)):
        for place, (wanted, _) in enumerate(panels):
            if left and given[place] < wanted:
                given[place] += 1
                left -= 1
    if given:
        given[-1] += left
    return tuple(given)
