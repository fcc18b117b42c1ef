"""Routing by domain: an image that has the form of a smaller rung already goes to that rung."""

from __future__ import annotations

from collections.abc import Sequence


def nearest_rung(width: int, height: int, sides: Sequence[int], decided: int) -> int:
    """The side of the rung for an image of `width` x `height` pixels where `decided` is the decision's.

    The rung, among `sides` no larger than `decided` and `decided` itself, that is nearest to the image's short side;
    of two equally near the larger. So a large image is converted to the decided domain, and a small one is never
    blown up past the rung that is nearest to it.
    """
    short = min(width, height)
    within = {side for side in sides if side <= decided} | {decided}
    return min(within, key=lambda side: (abs(side - short), -side))
