"""NVIDIA graphics processors through NVML, the library that comes with NVIDIA's driver.

A laptop's second graphics processor sleeps while nothing uses it, and asking would wake it
(Documentation/power/runtime_pm.rst: power/control, power/runtime_status).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ...policies.signal_readings import Origin
from ...policies.snapshot import Gpu
from .files import read_text, subdirectories

if TYPE_CHECKING:
    from .nvml import Nvml

T = TypeVar("T")
EVERY_S = 5.0
EVERY_MANAGED_S = 60.0  # where it may sleep: looked at more often it never would
VENDOR, CLASS_DISPLAY = "0x10de", "0x03"
SIGNALS = ("gpu.busy", "gpu.memory_free", "gpu.celsius", "gpu.watts")


def open_nvml() -> Nvml:
    """NVML, which is loaded on machines that have it alone. Raises OSError and NvmlError."""
    from .nvml import Nvml

    return Nvml()


class GpuReader:
    """Opens NVML at the first reading; one that has failed is tried again at the next."""

    def __init__(self, proc_root: Path, sys_root: Path, open_library: Callable[[], Nvml] = open_nvml) -> None:
        self._driver = proc_root / "driver" / "nvidia" / "version"
        self._sys, self._open = sys_root, open_library
        self._nvml: Nvml | None = None
        self._why = "it has not been asked yet"

    @property
    def present(self) -> bool:
        """Whether NVIDIA's driver is loaded."""
        return self._driver.exists()

    @property
    def every_s(self) -> float:
        """Seconds between two readings."""
        return EVERY_MANAGED_S if any(read_text(d / "power/control") == "auto" for d in self._devices()) else EVERY_S

    def read(self) -> tuple[Gpu, ...]:
        """Every graphics processor; none where NVML does not answer. May take a second: not for the event loop."""
        devices = self._devices()
        managed = any(read_text(device / "power/control") == "auto" for device in devices)
        if managed and all(read_text(device / "power/runtime_status") == "suspended" for device in devices):
            self._why = "the graphics processor sleeps, and asking would wake it"
            return ()
        from .nvml import NvmlError

        try:
            nvml = self._nvml = self._nvml or self._open()
            found = tuple(_read_one(nvml, index) for index in range(nvml.device_count()))
        except OSError as error:
            self._why = f"NVML cannot be loaded: {error}"
            return ()
        except NvmlError as error:
            self._why, self._nvml = f"NVML: {error}", None
            return ()
        self._why = "NVML finds no graphics processor" if not found else "NVML does not tell it of this one"
        if managed:
            self._nvml = None
            nvml.shutdown()
        return found

    def origins(self) -> dict[str, Origin]:
        """Where graphics processors are read, and why they are not."""
        why = self._why if self.present else f"no NVIDIA driver: there is no {self._driver}"
        return {name: Origin("NVML" if self.present else "", why) for name in SIGNALS}

    def _devices(self) -> list[Path]:
        return [
            device
            for device in subdirectories(self._sys / "bus" / "pci" / "drivers" / "nvidia")
            if read_text(device / "vendor") == VENDOR and (read_text(device / "class") or "").startswith(CLASS_DISPLAY)
        ]


def _read_one(nvml: Nvml, index: int) -> Gpu:
    device = nvml.device(index)
    memory, busy = _told(lambda: nvml.memory(device)), _told(lambda: nvml.busy_percent(device))
    celsius, milliwatts = _told(lambda: nvml.celsius(device)), _told(lambda: nvml.milliwatts(device))
    return Gpu(
        name=_told(lambda: nvml.name(device)) or f"GPU {index}",
        busy=None if busy is None else min(1.0, busy / 100),
        memory_total_bytes=None if memory is None else memory.total,
        memory_free_bytes=None if memory is None else memory.free,
        celsius=None if celsius is None else float(celsius),
        watts=None if milliwatts is None else milliwatts / 1000,
    )


def _told(ask: Callable[[], T]) -> T | None:
    """The answer; None where this device does not support the question."""
    from .nvml import NvmlError

    try:
        return ask()
    except NvmlError:
        return None
