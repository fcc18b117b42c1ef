"""Training costs that ship with patchd, for devices where none have been measured yet."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from .training_costs import PassCost, TensorCost, TrainingCosts, UnitCost

SHIPPED = "lite0"  # measured with one thread on an AVX-512 processor (docs/training.md)
# The other bases by multiply-adds over Lite0's at one resolution. Shares hardly depend on it; times and memory do.
_SCALES = {"lite0": 1.0, "lite1": 1.35, "lite2": 1.64}


@cache
def default_costs(base: str = SHIPPED) -> TrainingCosts:
    """The costs of Lite0, scaled by the size of `base`; unknown bases count as Lite0."""
    text = files(__package__).joinpath("training_costs_lite0.json").read_text(encoding="utf-8")
    costs = TrainingCosts.model_validate_json(text)
    scale = _SCALES.get(base, 1.0)
    if scale == 1.0:
        return costs
    at = tuple(one.model_copy(update={"units": tuple(_scaled(unit, scale) for unit in one.units)}) for one in costs.at)
    return costs.model_copy(update={"base": base, "at": at})


def _scaled(unit: UnitCost, scale: float) -> UnitCost:
    return unit.model_copy(
        update={
            "frozen_ms": unit.frozen_ms * scale,
            "frozen_transient_bytes": round(unit.frozen_transient_bytes * scale),
            "output_bytes": round(unit.output_bytes * scale),
            "plain": _pass(unit.plain, scale),
            "lean": None if unit.lean is None else _pass(unit.lean, scale),
        }
    )


def _pass(way: PassCost, scale: float) -> PassCost:
    return way.model_copy(
        update={
            "forward_ms": way.forward_ms * scale,
            "input_gradient_ms": way.input_gradient_ms * scale,
            "kept_bytes": round(way.kept_bytes * scale),
            "transient_bytes": round(way.transient_bytes * scale),
            "tensors": tuple(_tensor(tensor, scale) for tensor in way.tensors),
        }
    )


def _tensor(tensor: TensorCost, scale: float) -> TensorCost:
    return tensor.model_copy(
        update={
            "parameters": round(tensor.parameters * scale),
            "gradient_ms": tensor.gradient_ms * scale,
            "kept_bytes": round(tensor.kept_bytes * scale),
            "kept_beside_norms_bytes": round(tensor.kept_beside_norms_bytes * scale),
            "reach_bytes": round(tensor.reach_bytes * scale),
        }
    )
