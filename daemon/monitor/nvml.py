"""The few functions of NVML that are needed, by ctypes, under the names of NVIDIA's API reference.

The package nvidia-ml-py binds all of them, and takes 17 MB of memory for it: a quarter of what the daemon may hold.
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_int, c_uint, c_ulonglong, c_void_p
from dataclasses import dataclass

LIBRARY = "libnvidia-ml.so.1"
NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
SENSOR_GPU = 0  # NVML_TEMPERATURE_GPU


class NvmlError(Exception):
    """A call that did not succeed; the text is NVML's own."""


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", c_uint), ("memory", c_uint))


class _Memory(ctypes.Structure):
    _fields_ = (("total", c_ulonglong), ("free", c_ulonglong), ("used", c_ulonglong))


@dataclass(frozen=True, slots=True)
class MemoryInfo:
    """Bytes."""

    total: int
    free: int


class Nvml:
    """The library, open. Raises OSError where it cannot be loaded, and NvmlError where it does not start."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._library = ctypes.CDLL(library)
        self._library.nvmlErrorString.restype = c_char_p
        self._call("nvmlInit_v2")

    def shutdown(self) -> None:
        """Close it; nothing may be called after."""
        self._call("nvmlShutdown")

    def device_count(self) -> int:
        """How many graphics processors there are."""
        count = c_uint()
        self._call("nvmlDeviceGetCount_v2", byref(count))
        return count.value

    def device(self, index: int) -> c_void_p:
        """A handle of one."""
        handle = c_void_p()
        self._call("nvmlDeviceGetHandleByIndex_v2", c_uint(index), byref(handle))
        return handle

    def name(self, device: c_void_p) -> str:
        """Its product's name."""
        text = ctypes.create_string_buffer(NAME_BYTES)
        self._call("nvmlDeviceGetName", device, text, c_uint(NAME_BYTES))
        return text.value.decode(errors="replace")

    def busy_percent(self, device: c_void_p) -> int:
        """Percent of the last fraction of a second in which it computed."""
        rates = _Utilization()
        self._call("nvmlDeviceGetUtilizationRates", device, byref(rates))
        return int(rates.gpu)

    def memory(self, device: c_void_p) -> MemoryInfo:
        """Its own memory."""
        memory = _Memory()
        self._call("nvmlDeviceGetMemoryInfo", device, byref(memory))
        return MemoryInfo(int(memory.total), int(memory.free))

    def celsius(self, device: c_void_p) -> int:
        """Its temperature."""
        celsius = c_uint()
        self._call("nvmlDeviceGetTemperature", device, c_int(SENSOR_GPU), byref(celsius))
        return celsius.value

    def milliwatts(self, device: c_void_p) -> int:
        """Power of the whole board."""
        milliwatts = c_uint()
        self._call("nvmlDeviceGetPowerUsage", device, byref(milliwatts))
        return milliwatts.value

    def _call(self, function: str, *arguments: object) -> None:
        try:
            code = getattr(self._library, function)(*arguments)
        except AttributeError as error:
            raise NvmlError(f"{LIBRARY} has no {function}") from error
        if code != 0:
            said = self._library.nvmlErrorString(code)
            raise NvmlError(said.decode(errors="replace") if said else f"error {code} of {function}")
