"""How long nobody has used the device: terminals, keyboards and mice, told without a session or a display server.

Terminals: the kernel notes when input was last read from a terminal in the access time of its node, to 8 seconds
(drivers/tty/tty_io.c, tty_update_time); `w` tells idle times from the same. Keyboards and mice: the interrupts of the
PS/2 controller (i8042, built-in keyboards of most laptops too) and the transfers of USB devices with an interface of
class HID (Documentation/ABI/testing/sysfs-bus-usb, urbnum) are counters that move when a key or a mouse does.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...policies.signal_readings import Origin
from .files import numbers, read_int, read_text, subdirectories, whole

EVERY_S = 5.0  # idleness is asked for in minutes; terminals, of which there may be dozens, need no look each second
USB_CLASS_HID = "03"
_TERMINAL = re.compile(r"tty\d+")


class IdleReader:
    """Remembers the counters of the last look. What they say begins with the first look, so a fresh one says 0 s."""

    def __init__(self, proc_root: Path, sys_root: Path, dev_root: Path) -> None:
        self._proc, self._sys, self._dev = proc_root, sys_root, dev_root
        self._counters: dict[str, int] = {}
        self._used_up_s: float | None = None  # seconds after boot at which a counter last moved
        self._looked: tuple[float, float | None] | None = None  # when, and what was found
        self.discover()

    def discover(self) -> None:
        """Find terminals and USB devices: they come and go rarely."""
        self._terminals = [
            *(path for path in subdirectories(self._dev) if _TERMINAL.fullmatch(path.name)),
            *(path for path in subdirectories(self._dev / "pts") if path.name.isdigit()),
        ]
        interfaces = subdirectories(self._sys / "bus" / "usb" / "devices")
        names = {i.name.split(":")[0] for i in interfaces if read_text(i / "bInterfaceClass") == USB_CLASS_HID}
        self._usb = [self._sys / "bus" / "usb" / "devices" / name / "urbnum" for name in sorted(names)]

    def read(self, now_s: float) -> float | None:
        """Seconds since the device was last used, at most since it was started; None where nothing tells."""
        if self._looked is not None and 0 <= now_s - self._looked[0] < EVERY_S:
            looked_s, idle = self._looked
            return None if idle is None else idle + now_s - looked_s
        idle = self._look(now_s)
        self._looked = now_s, idle
        return idle

    @property
    def looked_s(self) -> float | None:
        """Unix time of the last look."""
        return None if self._looked is None else self._looked[0]

    def origins(self) -> dict[str, Origin]:
        """Where it is read that the device is used, and why nothing tells."""
        sources = [
            *([f"{len(self._terminals)} terminals under {self._dev}"] if self._terminals else []),
            *([f"{len(self._usb)} USB keyboards and mice"] if self._usb else []),
            *([f"{self._proc}/interrupts (i8042)"] if any("interrupt" in key for key in self._counters) else []),
        ]
        why = f"no terminal under {self._dev}, no PS/2 controller and no USB keyboard or mouse"
        return {"user.idle_s": Origin(", ".join(sources), why)}

    def _look(self, now_s: float) -> float | None:
        up_s = _uptime(read_text(self._proc / "uptime"))
        told = [now_s - used_s for path in self._terminals if (used_s := _accessed(path)) is not None]
        if up_s is not None and (counters := self._read_counters()):
            if self._used_up_s is None or counters != self._counters:
                self._used_up_s = up_s
            self._counters = counters
            told.append(up_s - self._used_up_s)
        if not told:
            return None
        idle = max(0.0, min(told))
        return idle if up_s is None else min(idle, up_s)  # a clock that was far behind says nothing about the user

    def _read_counters(self) -> dict[str, int]:
        found = {str(path): count for path in self._usb if (count := read_int(path)) is not None}
        for line in (read_text(self._proc / "interrupts") or "").splitlines():
            fields = line.split()
            if fields and fields[-1] == "i8042":
                counts = [whole(field) for field in fields[1:-1]]
                found[f"interrupt {fields[0]}"] = sum(count for count in counts if count is not None)
        return found


def _uptime(text: str | None) -> float | None:
    values = numbers((text or "").split()[:1])
    return values[0] if values else None


def _accessed(path: Path) -> float | None:
    try:
        return path.stat().st_atime
    except OSError:
        return None
