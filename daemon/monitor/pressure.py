"""Pressure stall information (Documentation/accounting/psi.rst), of the machine and of a control group.

psutil has none. A group of version 2 has cpu.pressure, memory.pressure and io.pressure (cgroup-v2.rst).
"""

from __future__ import annotations

from pathlib import Path

from ...policies.signal_readings import Origin
from ...policies.snapshot import Pressure, Stall, Stalls
from .files import numbers, read_text, why_absent

RESOURCES = ("cpu", "memory", "io")
NO_PSI = "no PSI: the kernel was built without CONFIG_PSI, or psi=1 is missing on its command line"


def read_pressure(proc_root: Path, group: Path | None) -> Pressure:
    """What /proc/pressure and the control group's directory tell; a kernel without PSI leaves all absent."""
    own = None if group is None else _stalls({name: group / f"{name}.pressure" for name in RESOURCES})
    system = _stalls({name: proc_root / "pressure" / name for name in RESOURCES})
    return Pressure(cpu=system.cpu, memory=system.memory, io=system.io, own=own)


def _stalls(files: dict[str, Path]) -> Stalls:
    return Stalls(**{name: parse_stall(read_text(file)) for name, file in files.items()})


def origins(proc_root: Path, group: Path | None) -> dict[str, Origin]:
    """Where each signal of pressure is read, and why one is absent."""
    found = {}
    for name in RESOURCES:
        file = proc_root / "pressure" / name
        system = Origin(str(file), why_absent(file) if file.parent.is_dir() else NO_PSI)
        if group is None:
            own = Origin("", "patchd runs in no control group of version 2, and only those have pressure")
        else:
            of_group = group / f"{name}.pressure"
            own = Origin(str(of_group), why_absent(of_group))
        for kind in ("some", "full"):
            found[f"pressure.{name}.{kind}"], found[f"pressure.own.{name}.{kind}"] = system, own
    return found


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
