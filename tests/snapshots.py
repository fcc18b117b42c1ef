"""Snapshots of any device, made from the model: a section that it gains is made too."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
from hypothesis import strategies as st
from patchd.policies.snapshot import Snapshot
from patchd.policies.trace import SECTIONS
from pydantic import BaseModel


def of_type(kind: Any, bounds: dict[str, float]) -> st.SearchStrategy[Any]:
    """Values of an annotation within its bounds."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of([of_type(part, bounds) for part in parts])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        return st.lists(of_type(parts[0], bounds), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=8), of_type(parts[1], bounds), max_size=3)
    if kind is type(None):
        return st.none()
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.text(max_size=8)
    if kind is int:
        return st.integers(int(bounds.get("low", -(2**40))), int(bounds.get("high", 2**40)))
    if kind is float:
        return st.floats(bounds.get("low", -1e9), bounds.get("high", 1e9), allow_nan=False)
    assert issubclass(kind, BaseModel), kind
    return of_model(kind)


def of_model(model: type[BaseModel], only: tuple[str, ...] | None = None) -> st.SearchStrategy[Any]:
    """Records of a model; fields with a default may be left out."""
    hints = get_type_hints(model)
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name, field in model.model_fields.items():
        if only is not None and name not in only:
            continue
        bounds: dict[str, float] = {}
        for fact in field.metadata:
            if isinstance(fact, annotated_types.Ge):
                bounds["low"] = fact.ge  # type: ignore[assignment]
            elif isinstance(fact, annotated_types.Gt):
                bounds["low"] = fact.gt + 1  # type: ignore[operator]
            elif isinstance(fact, annotated_types.Le):
                bounds["high"] = fact.le  # type: ignore[assignment]
        (required if field.is_required() else optional)[name] = of_type(hints[name], bounds)
    return st.fixed_dictionaries(required, optional=optional).map(model.model_validate)


SNAPSHOTS: st.SearchStrategy[Snapshot] = of_model(Snapshot, ("time_s", *SECTIONS))
