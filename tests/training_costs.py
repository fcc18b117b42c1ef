"""Training costs of an invented network, for tests of what is planned with them."""

from __future__ import annotations

from patchd.policies.training_costs import (
    HeadCost,
    PassCost,
    ResolutionCosts,
    StepCost,
    TensorCost,
    TensorKind,
    TrainingCosts,
    UnitCost,
)

UNITS = 6
SIDES = (96, 160, 224)


def tensor(unit: int, leaf: str, kind: TensorKind, parameters: int, ms: float, reach: float, kept: int) -> TensorCost:
    return TensorCost(
        name=f"unit{unit}.{leaf}",
        kind=kind,
        parameters=parameters,
        gradient_ms=ms,
        gradient_call_ms=ms / 4,
        kept_bytes=0,
        kept_beside_norms_bytes=0,
        reach_share=reach,
        reach_bytes=kept,
    )


def one_pass(unit: int, scale: float, *, lean: bool) -> PassCost:
    kept, slower = (5_000_000, 1.2) if lean else (10_000_000, 1.0)
    return PassCost(
        forward_ms=1.1 * scale,
        forward_call_ms=0.3,
        input_gradient_ms=1.5 * scale * slower,
        input_gradient_call_ms=0.2,
        kept_bytes=round(kept * scale),
        transient_bytes=round(100_000 * scale),
        tensors=(
            tensor(unit, "conv.weight", TensorKind.WEIGHT, 1000 * (unit + 1), 0.5 * scale, 0.9, round(kept * scale)),
            tensor(unit, "norm.weight", TensorKind.SCALE, 10, 0.02 * scale, 0.4, round(kept * scale * 0.5)),
            tensor(unit, "norm.bias", TensorKind.BIAS, 10, 0.01 * scale, 0.4, round(kept * scale * 0.1)),
        ),
    )


def unit(index: int, scale: float) -> UnitCost:
    return UnitCost(
        name=f"unit{index}",
        frozen_ms=scale,
        frozen_call_ms=0.3,
        frozen_transient_bytes=round(40_000 * scale),
        output_bytes=round(16_000 * scale),
        plain=one_pass(index, scale, lean=False),
        lean=one_pass(index, scale, lean=True),
    )


def costs(units: int = UNITS, base: str = "lite0") -> TrainingCosts:
    """Lower units cost more, as in a network that grows narrower."""
    return TrainingCosts(
        base=base,
        measured_s=1.0,
        at=tuple(
            ResolutionCosts(
                resolution=side,
                images=8,
                input_ms=0.05,
                units=tuple(unit(index, (units - index) * (side / 224) ** 2) for index in range(units)),
            )
            for side in SIDES
        ),
        head=HeadCost(
            features=128,
            classes=1000,
            forward_ms=0.05,
            backward_ms=0.05,
            forward_class_ms=1e-4,
            backward_class_ms=1e-4,
        ),
        step=StepCost(
            fixed_ms=0.1,
            tensor_ms=0.02,
            parameter_ms=1e-6,
            read_ms_per_byte=1e-7,
            write_ms_per_byte=1e-7,
            workspace_bytes=1_000_000,
        ),
    )
