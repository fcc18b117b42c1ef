"""The value of a signal for people, by its unit."""

from __future__ import annotations

from .signals import SWITCH

_SIZES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def value_in_words(value: float, unit: str) -> str:
    """A value as sentences tell it: true or false, 0.72, 3.1 GB, 61 degrees Celsius."""
    if unit == SWITCH:
        return "true" if value >= 0.5 else "false"
    if unit == "share":
        return f"{value:.3g}"
    if unit == "bytes":
        size, name = next((each for each in _SIZES if abs(value) >= each[0]), (1.0, "bytes"))
        return f"{value / size:.3g} {name}"
    shown = f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{shown} {'s' if unit == 'seconds' else unit}".rstrip()
