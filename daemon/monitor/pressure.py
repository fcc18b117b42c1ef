"""Pressure stall information (Documentation/accounting/psi.rst); psutil has none."""

from __future__ import annotations

from pathlib import Path

from ...policies.snapshot import Pressure, Stall
from .files import numbers, read_text


def read_pressure(proc_root: Path) -> Pressure:
    """What /proc/pressure tells; a kernel without PSI leaves all three absent."""
    directory = proc_root / "pressure"
    return Pressure(**{name: parse_stall(read_text(directory / name)) for name in ("cpu", "memory", "io")})


def parse_stall(text: str | None) -> Stall | None:
    """One pressure file's text as shares of time, 0 to 1; None when it is missing or not of the known form."""
    lines: dict[str, dict[str, float]] = {}
    for line in (text or "").splitlines():
        kind, _, rest = line.partition(" ")
        pairs = [field.partition("=") for field in rest.split()]
        values = numbers([value for _, _, value in pairs])
        if values is None:
            return None
        lines[kind] = {key: value / 100 for (key, _, _), value in zip(pairs, values, strict=True)}
    some, full = lines.get("some"), lines.get("full", {})
    if some is None or "avg10" not in some or "avg60" not in some:
        return None
    return Stall(
        some_avg10=_share(some["avg10"]),
        some_avg60=_share(some["avg60"]),
        full_avg10=_share(full["avg10"]) if "avg10" in full else None,
        full_avg60=_share(full["avg60"]) if "avg60" in full else None,
    )


def _share(value: float) -> float:
    return min(1.0, value)
