"""What training costs, as tables: part by part of a base, and what slices showed of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import render

if TYPE_CHECKING:
    from ...policies.training_costs import PassCost, ResolutionCosts, TrainingCosts
    from ..api.schemas import TrainingProfile
    from ..training_records import MeasuredTraining

NOTHING = (
    "Nothing has been measured yet: plans follow the costs that patchd ships. A job measures before its first slice; "
    "so does `patchctl profile --training --run`."
)


def costs_text(profile: TrainingProfile) -> str:
    """All measured bases, each resolution with its units."""
    if not profile.measured:
        return "\n".join(render.wrap(NOTHING, render.width()))
    return "\n".join(_measured(measured) for measured in profile.measured)


def _measured(measured: MeasuredTraining) -> str:
    costs = measured.costs
    threads = f"{costs.threads} thread" + ("s" if costs.threads > 1 else "")
    when = render.ABSENT if costs.measured_s is None else render.clock(costs.measured_s)
    parts = [
        render.heading(f"Training {costs.base} with {threads}, {costs.precision}"),
        render.fields(
            [
                ("measured", f"{when}, in {render.duration(costs.seconds)}"),
                ("on", f"{measured.processor}, torch {measured.torch}"),
                ("a step", _step(costs)),
                ("the head", _head(costs)),
            ]
        ),
    ]
    parts += [_resolution(at) for at in costs.at]
    if costs.corrections:
        parts.append(_corrections(costs))
    return "\n".join(parts)


def _step(costs: TrainingCosts) -> str:
    step = costs.step
    return (
        f"{render.milliseconds(step.fixed_ms)}, and {step.tensor_ms * 1e3:.0f} us for each tensor that trains, "
        f"{step.parameter_ms * 1e6:.1f} ms for a million parameters"
    )


def _head(costs: TrainingCosts) -> str:
    head = costs.head
    return (
        f"forward {head.forward_ms * 1e3:.0f} us and backward {head.backward_ms * 1e3:.0f} us a pass; "
        f"{head.forward_class_ms * 1e6:.0f} and {head.backward_class_ms * 1e6:.0f} ns for an image and a class"
    )


def _resolution(at: ResolutionCosts) -> str:
    """One line a unit: milliseconds of an image, and what it keeps for the backward pass."""
    rows = [
        (
            unit.name,
            f"{unit.frozen_ms:.3f}",
            f"{unit.plain.forward_ms:.3f}",
            f"{unit.plain.input_gradient_ms:.3f}",
            f"{_gradients_ms(unit.plain):.3f}",
            render.bytes_(unit.plain.kept_bytes),
            render.ABSENT if unit.lean is None else render.bytes_(unit.lean.kept_bytes),
        )
        for unit in at.units
    ]
    header = ("unit", "frozen", "forward", "backward", "gradients", "kept", "lean keeps")
    first = f"{at.resolution} px: an image, ms of processor time; making its input {render.milliseconds(at.input_ms)}"
    return render.heading(first) + "\n" + render.table(header, rows, right=(1, 2, 3, 4, 5, 6))


def _gradients_ms(way: PassCost) -> float:
    """Of all tensors of a unit, where everything trains."""
    return sum(tensor.gradient_ms for tensor in way.tensors)


def _corrections(costs: TrainingCosts) -> str:
    rows = [
        (
            f"{seen.resolution} px",
            ("lean" if seen.lean else "plain") + (", bf16" if seen.bf16 else ""),
            "kept" if seen.keep_features else "computed",
            f"{seen.time:.2f}",
            f"{seen.memory:.2f}",
            str(seen.slices),
        )
        for seen in costs.corrections
    ]
    header = ("input", "way", "features", "time", "memory", "slices")
    return (
        render.heading("What slices showed: predictions are multiplied by")
        + "\n"
        + render.table(header, rows, right=(0, 3, 4, 5))
    )
