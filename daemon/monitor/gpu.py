"""NVIDIA graphics processors through NVML, NVIDIA's library, where the optional package nvidia-ml-py is installed.

Functions and units are those of NVIDIA's NVML API reference. A laptop's second graphics processor sleeps while nothing
uses it, and asking would wake it (Documentation/power/runtime_pm.rst: power/control, power/runtime_status).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...policies.signal_readings import Origin
from ...policies.snapshot import Gpu
from .files import read_text, subdirectories

EVERY_S = 5.0
EVERY_MANAGED_S = 60.0  # where it may sleep: looked at more often it never would
VENDOR, CLASS_DISPLAY = "0x10de", "0x03"
SIGNALS = ("gpu.busy", "gpu.memory_free", "gpu.celsius", "gpu.watts")


def load_nvml() -> Any:
    """The package's module. Raises ImportError."""
    return importlib.import_module("pynvml")


class GpuReader:
    """Opens NVML at the first reading; one that has failed is tried again at the next."""

    def __init__(self, proc_root: Path, sys_root: Path, load: Callable[[], Any] = load_nvml) -> None:
        self._driver = proc_root / "driver" / "nvidia" / "version"
        self._sys, self._load = sys_root, load
        self._nvml: Any = None
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
        try:
            if self._nvml is None:
                nvml = self._load()
                nvml.nvmlInit()
                self._nvml = nvml
            found = tuple(self._one(index) for index in range(self._nvml.nvmlDeviceGetCount()))
        except ImportError:
            self._why = "the Python package nvidia-ml-py is not installed beside patchd"
            return ()
        except Exception as error:  # NVMLError is a class of the package, which may not be there to name it
            self._why, self._nvml = f"NVML: {error}", None
            return ()
        self._why = "NVML finds no graphics processor" if not found else "NVML does not tell it of this one"
        if managed:
            self._close()
        return found

    def origins(self) -> dict[str, Origin]:
        """Where graphics processors are read, and why they are not."""
        why = self._why if self.present else f"no NVIDIA driver: there is no {self._driver}"
        return {name: Origin("NVML" if self.present else "", why) for name in SIGNALS}

    def _one(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        power = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        busy = self._ask(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        celsius = self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        name = self._ask(lambda: nvml.nvmlDeviceGetName(handle))
        return Gpu(
            name=name.decode(errors="replace") if isinstance(name, bytes) else str(name or f"GPU {index}"),
            busy=None if busy is None else min(1.0, busy / 100),
            memory_total_bytes=None if memory is None else memory.total,
            memory_free_bytes=None if memory is None else memory.free,
            celsius=None if celsius is None else float(celsius),
            watts=None if power is None else power / 1000,
        )

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The answer, or None where this device does not support the question."""
        try:
            return question()
        except self._nvml.NVMLError:
            return None

    def _close(self) -> None:
        nvml, self._nvml = self._nvml, None
        nvml.nvmlShutdown()

    def _devices(self) -> list[Path]:
        return [
            device
            for device in subdirectories(self._sys / "bus" / "pci" / "drivers" / "nvidia")
            if read_text(device / "vendor") == VENDOR and (read_text(device / "class") or "").startswith(CLASS_DISPLAY)
        ]
