"""The presets and traces that ship with patchd."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from .errors import NotFoundError
from .policy import Policy, parse_policy

if TYPE_CHECKING:
    from .trace import Trace


def _names(folder: str, suffix: str) -> tuple[str, ...]:
    found = files(__package__).joinpath(folder).iterdir()
    return tuple(sorted(entry.name.removesuffix(suffix) for entry in found if entry.name.endswith(suffix)))


def _text(folder: str, suffix: str, name: str, what: str) -> str:
    if name not in _names(folder, suffix):
        raise NotFoundError(f"There is no {what} named '{name}'.", hint=f"Known: {', '.join(_names(folder, suffix))}.")
    return files(__package__).joinpath(folder, name + suffix).read_text(encoding="utf-8")


@cache
def preset_names() -> tuple[str, ...]:
    """The names of the preset policies."""
    return _names("presets", ".toml")


def preset_text(name: str) -> str:
    """A preset's TOML. Raises NotFoundError."""
    return _text("presets", ".toml", name, "preset policy")


@cache
def load_preset(name: str) -> Policy:
    """A preset, checked. Raises NotFoundError."""
    return parse_policy(preset_text(name), f"preset:{name}")


def trace_names() -> tuple[str, ...]:
    """The names of the traces that ship with patchd."""
    return _names("traces", ".jsonl")


def trace_text(name: str) -> str:
    """A shipped trace's JSON lines. Raises NotFoundError."""
    return _text("traces", ".jsonl", name, "trace")


def load_trace(name: str) -> Trace:
    """A shipped trace, checked. Raises NotFoundError."""
    from .trace_reading import parse_trace

    return parse_trace(trace_text(name), name)
