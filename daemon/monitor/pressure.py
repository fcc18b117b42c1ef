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


class PressureReader:
    """Reads the files of the machine, and those of the control group's directory that it was given last."""

    def __init__(self, proc_root: Path, group: Path | None) -> None:
        self._system = {name: proc_root / "pressure" / name for name in RESOURCES}
        self.watch(group)

    def watch(self, group: Path | None) -> None:
        """Another group is this daemon's own."""
        self._own = None if group is None else {name: group / f"{name}.pressure" for name in RESOURCES}

    def read(self) -> Pressure:
        """What all of them tell; a kernel without PSI leaves all absent."""
        own = None if self._own is None else Stalls(**_stalls(self._own))
        return Pressure(**_stalls(self._system), own=own)


def _stalls(files: dict[str, Path]) -> dict[str, Stall | None]:
    return {name: parse_stall(read_text(file)) for name, file in files.items()}


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
    lines: dict[str, tuple[float, float]] = {}
    for line in (text or "").splitlines():
        kind, *fields = line.split()[:3] or ("",)
        if kind not in ("some", "full"):
            return None
        values = numbers([field.removeprefix(name) for field, name in zip(fields, ("avg10=", "avg60="), strict=False)])
        if values is None or len(values) < 2:
            return None
        lines[kind] = (min(1.0, values[0] / 100), min(1.0, values[1] / 100))
    if "some" not in lines:
        return None
    some, full = lines["some"], lines.get("full", (None, None))
    return Stall(some_avg10=some[0], some_avg60=some[1], full_avg10=full[0], full_avg60=full[1])
