"""Training costs at a resolution that was not measured, from those that were.

What an image costs and keeps grows with its pixels: the bytes of Lite0 at 128 and 192 px lie within 0.5 %
of the line through 96, 160 and 224 px.
"""

from __future__ import annotations

from collections.abc import Sequence

from .training_costs import PassCost, ResolutionCosts, TensorCost, UnitCost


def interpolated(at: Sequence[ResolutionCosts], resolution: int) -> ResolutionCosts:
    """The record of `resolution`, or one on the line by pixels through the two nearest; beyond all, in proportion."""
    exact = next((one for one in at if one.resolution == resolution), None)
    if exact is not None:
        return exact
    ordered = sorted(at, key=lambda one: one.resolution)
    pixels = resolution**2
    above = next((index for index, one in enumerate(ordered) if one.resolution > resolution), len(ordered) - 1)
    low, high = ordered[max(0, above - 1)], ordered[above]
    if high.resolution < resolution or low is high:  # outside what was measured: in proportion to the nearest
        low = high
        weights = (0.0, pixels / high.resolution**2)
    else:
        share = (pixels - low.resolution**2) / (high.resolution**2 - low.resolution**2)
        weights = (1.0 - share, share)
    return _mixed(low, high, weights, resolution)


def _mixed(
    low: ResolutionCosts, high: ResolutionCosts, weights: tuple[float, float], resolution: int
) -> ResolutionCosts:
    """Per-image figures weighed; per-pass ones, which pixels hardly change, from the nearer record."""
    near = high if weights[1] >= 0.5 else low

    def mix(a: float, b: float) -> float:
        return weights[0] * a + weights[1] * b

    def passes(a: PassCost, b: PassCost, c: PassCost) -> PassCost:
        return c.model_copy(
            update={
                "forward_ms": mix(a.forward_ms, b.forward_ms),
                "input_gradient_ms": mix(a.input_gradient_ms, b.input_gradient_ms),
                "kept_bytes": round(mix(a.kept_bytes, b.kept_bytes)),
                "transient_bytes": round(mix(a.transient_bytes, b.transient_bytes)),
                "tensors": tuple(tensor(x, y, z) for x, y, z in zip(a.tensors, b.tensors, c.tensors, strict=True)),
            }
        )

    def tensor(a: TensorCost, b: TensorCost, c: TensorCost) -> TensorCost:
        return c.model_copy(
            update={
                "gradient_ms": mix(a.gradient_ms, b.gradient_ms),
                "kept_bytes": round(mix(a.kept_bytes, b.kept_bytes)),
                "kept_beside_norms_bytes": round(mix(a.kept_beside_norms_bytes, b.kept_beside_norms_bytes)),
                "reach_bytes": round(mix(a.reach_bytes, b.reach_bytes)),
            }
        )

    def unit(a: UnitCost, b: UnitCost, c: UnitCost) -> UnitCost:
        lean = None
        if a.lean is not None and b.lean is not None and c.lean is not None:
            lean = passes(a.lean, b.lean, c.lean)
        return c.model_copy(
            update={
                "frozen_ms": mix(a.frozen_ms, b.frozen_ms),
                "frozen_transient_bytes": round(mix(a.frozen_transient_bytes, b.frozen_transient_bytes)),
                "output_bytes": max(1, round(mix(a.output_bytes, b.output_bytes))),
                "plain": passes(a.plain, b.plain, c.plain),
                "lean": lean,
            }
        )

    units = tuple(unit(a, b, c) for a, b, c in zip(low.units, high.units, near.units, strict=True))
    return ResolutionCosts(
        resolution=resolution, images=near.images, input_ms=mix(low.input_ms, high.input_ms), units=units
    )
