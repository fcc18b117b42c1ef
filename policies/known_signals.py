"""The signal that somebody names in a policy; for what is none, a sentence that helps."""

from __future__ import annotations

import difflib
from typing import Annotated

from pydantic import WithJsonSchema

from .added_signals import ADDED, NAME_RULE, claims_to_be_added
from .signals import SIGNALS, SignalSpec, signal_spec

# For editors, which complete the names and show what they mean; `known_signal` is what checks.
_KNOWN = [{"const": spec.name, "description": f"{spec.meaning} ({spec.unit})"} for spec in SIGNALS.values()]
_ADDED = {"type": "string", "pattern": f"^{ADDED}$", "description": "a signal that an application or a plug-in adds"}
SignalName = Annotated[str, WithJsonSchema({"anyOf": [*_KNOWN, _ADDED]})]


def known_signal(name: str) -> SignalSpec:
    """The signal of a name. Raises ValueError with the nearest one."""
    spec = signal_spec(name)
    if spec is not None:
        return spec
    if claims_to_be_added(name):
        raise ValueError(f"'{name}' is no name of an added signal: {NAME_RULE}")
    near = difflib.get_close_matches(name, SIGNALS, 1)
    raise ValueError(f"unknown signal '{name}'" + (f", did you mean '{near[0]}'?" if near else ""))


def absent_in_words(name: str, spec: SignalSpec | None) -> str:
    """That a machine lacks a signal, and what that is."""
    return f"this machine has no {name}" + (f" ({spec.meaning})" if spec is not None else "")
