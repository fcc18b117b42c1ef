"""Curves in the terminal: dots of Braille characters, four high and two wide in each (Unicode block U+2800)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from . import render

if TYPE_CHECKING:
    from ...policies.training_curve import CurvePoint

ROWS = 6  # character rows of a plot
_BRAILLE = 0x2800
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # row of dots from above, left and right
Line = Sequence[tuple[float, float]]


def curve_text(points: Sequence[CurvePoint]) -> str:
    """The plots of a job's loss and validation accuracy over its steps, rung after rung; empty without points."""
    rungs: dict[int, list[CurvePoint]] = {}
    for point in points:
        rungs.setdefault(point.rung, []).append(point)
    begins, at = {}, 0
    for rung, own in sorted(rungs.items()):
        begins[rung], at = at, at + own[-1].step
    places = {begins[rung]: f"{own[0].resolution} px" for rung, own in rungs.items()}
    parts = []
    for name, field, digits in (("loss", "loss", 2), ("validation accuracy", "validation", 2)):
        lines = [
            [(begins[rung] + p.step, value) for p in own if (value := getattr(p, field)) is not None]
            for rung, own in sorted(rungs.items())
        ]
        values = [value for line in lines for _, value in line]
        if values:
            title = f"{name}, now {values[-1]:.{digits + 1}f}"
            parts += [click.style(title, bold=True), plot(lines, at, places, digits)]
    return "\n".join([*parts, *_gradients(points, at, places)])


def _gradients(points: Sequence[CurvePoint], last: float, places: dict[int, str]) -> list[str]:
    """Of a job of several tasks: a plot of the length of each one's gradient on the base."""
    lines: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for point in points:
        for member in point.members:
            if member.gradient_norm is not None:
                line = lines.setdefault((member.task, member.resolution), [])
                line.append((point.step, member.gradient_norm))
    parts = []
    for (task, side), line in lines.items():
        title = f"gradient of {task} at {side} px on the base, now {line[-1][1]:.3g} (each counts as one)"
        parts += [click.style(title, bold=True), plot([line], last, places, 3)]
    return parts


def plot(lines: Sequence[Line], last: float, places: dict[int, str], digits: int = 2) -> str:
    """Lines over x from 0 to `last`, as wide as the terminal; `places` are named below the axis.

    Points of a line are joined; one alone is a dot. Values that are no numbers are left out.
    """
    values = [y for line in lines for _, y in line if math.isfinite(y)]
    if not values:
        return "nothing to draw yet"
    low, high = min(values), max(values)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    labels = [f"{value:.{digits}f}" for value in (high, (high + low) / 2, low)]
    margin = max(map(len, labels)) + 1
    columns = max(10, min(render.width(), 100) - margin - 1)
    grid = [[0] * columns for _ in range(ROWS)]
    for line in lines:
        finite = [(x, y) for x, y in line if math.isfinite(y)]
        dots = [_place(x, y, last, low, high, columns) for x, y in finite]
        for start, end in zip(dots, dots[1:] or dots, strict=False):
            for across, down in _between(start, end):
                grid[down // 4][across // 2] |= _DOTS[down % 4][across % 2]
    named = {0: labels[0], ROWS // 2: labels[1], ROWS - 1: labels[2]}
    rows = [
        f"{named.get(index, ''):>{margin - 1}} \u2502" + "".join(chr(_BRAILLE + cell) if cell else " " for cell in row)
        for index, row in enumerate(grid)
    ]
    return "\n".join([*(row.rstrip() for row in rows), _axis(places, last, columns, margin)])


def _place(x: float, y: float, last: float, low: float, high: float, columns: int) -> tuple[int, int]:
    across = round(x / max(last, 1e-9) * (2 * columns - 1))
    down = round((high - y) / (high - low) * (4 * ROWS - 1))
    return min(2 * columns - 1, max(0, across)), min(4 * ROWS - 1, max(0, down))


def _between(start: tuple[int, int], end: tuple[int, int]) -> Sequence[tuple[int, int]]:
    """The dots of a straight line, both ends included."""
    (x0, y0), (x1, y1) = start, end
    count = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(x0 + round((x1 - x0) * i / count), y0 + round((y1 - y0) * i / count)) for i in range(count + 1)]


def _axis(places: dict[int, str], last: float, columns: int, margin: int) -> str:
    """The names at their places, as far as they do not run into each other; the number of steps at the end."""
    end = f"{last:.0f} steps"
    text = " " * columns
    for place, name in sorted(places.items()):
        at = round(place / max(last, 1e-9) * (columns - 1))
        stop = at + len(name) + 1
        if stop <= columns - len(end) and not text[max(0, at - 1) : stop].strip():
            text = text[:at] + name + text[at + len(name) :]
    text = text[: columns - len(end)] + end
    return " " * margin + "\u2514" + text
