"""Signals from plug-ins: entry points of the group `patchd.signals`, each read in a thread of its own.

A plug-in is a callable without arguments that returns readings, mappings with `name`, `value` and optionally `unit` and
`meaning`. Its attribute `period_s` says how often to call it. One that hangs, or raises, makes its own signals absent
and nothing else: the daemon looks at what the thread has left, and never waits for it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from pydantic import Field, ValidationError

from ...policies.added_signals import NAME_RULE, PLUGGED, is_added
from ...policies.signal_readings import Origin
from ...policies.snapshot import AddedReading, Frozen

GROUP = "patchd.signals"
LIMIT_S = 5.0  # of one call; a plug-in that takes longer is taken for one that hangs
DEFAULT_PERIOD_S, LEAST_PERIOD_S, MOST_PERIOD_S = 10.0, 0.5, 3600.0
MOST_READINGS = 32  # of one plug-in

Plugin = Callable[[], Iterable[Mapping[str, object]]]


class PluginReading(Frozen):
    """One reading as a plug-in gives it; a value of None says that there is none now."""

    name: str
    value: float | None = Field(allow_inf_nan=False)
    unit: str = Field("", max_length=32)
    meaning: str = Field("", max_length=200)


class PluginError(Exception):
    """A plug-in did not keep to what is asked of it; the text says how."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the last call left: readings, or why there are none."""

    readings: tuple[AddedReading, ...] = ()
    absent: Mapping[str, str] | None = None  # signals without a value, and why
    failed: str | None = None


NOT_YET = _Seen(failed="it has not answered yet")


class _Reader:
    """One plug-in and its thread. What the thread writes is replaced whole, so no lock is needed."""

    def __init__(self, name: str, load: Callable[[], Plugin], limit_s: float) -> None:
        self.name, self._load, self._limit_s = name, load, limit_s
        self.seen = NOT_YET
        self._began_s: float | None = None
        self._known: set[str] = set()
        self._stopped = threading.Event()
        # A daemon thread: one that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=f"signals-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def now(self) -> _Seen:
        """What there is of it now."""
        began_s = self._began_s
        busy_s = 0.0 if began_s is None else time.monotonic() - began_s
        return _Seen(failed=f"it has not answered for {busy_s:.0f} s") if busy_s > self._limit_s else self.seen

    def known(self) -> frozenset[str]:
        """Every signal that it has ever given."""
        return frozenset(self._known)

    def _run(self) -> None:
        plugin: Plugin | None = None
        wait_s = DEFAULT_PERIOD_S
        while not self._stopped.is_set():
            self._began_s = time.monotonic()
            try:
                plugin = plugin or self._load()
                wait_s = _period(plugin)
                self.seen = self._taken(plugin())
                self._known |= {reading.name for reading in self.seen.readings}
            except BaseException as error:  # whatever it throws, SystemExit too, is its own failure
                self.seen = _Seen(failed=_sentence(error))
            self._began_s = None
            self._stopped.wait(wait_s)

    def _taken(self, given: object) -> _Seen:
        if not isinstance(given, Iterable) or isinstance(given, str | bytes | Mapping):
            raise PluginError(f"it returned {type(given).__name__}, not a list of readings")
        readings, absent = [], {}
        for each in given:
            told = PluginReading.model_validate(each)
            name = f"{PLUGGED}.{self.name}.{told.name}"
            if not is_added(name):
                raise PluginError(f"'{name}' is no name of a signal: {NAME_RULE}")
            if told.value is None:
                absent[name] = "the plug-in has no value for it now"
                continue
            readings.append(
                AddedReading(
                    name=name,
                    value=told.value,
                    unit=told.unit,
                    meaning=told.meaning,
                    source=f"plug-in {self.name}",
                    taken_s=time.time(),
                )
            )
            if len(readings) + len(absent) > MOST_READINGS:
                raise PluginError(f"it gives more than {MOST_READINGS} signals")
        if len({reading.name for reading in readings} | set(absent)) < len(readings) + len(absent):
            raise PluginError("it gives one signal twice")
        return _Seen(tuple(readings), absent)


class SignalPlugins:
    """The plug-ins that the configuration names. `on_failure` hears of each new reason, with the plug-in's name."""

    def __init__(
        self,
        names: Iterable[str],
        on_failure: Callable[[str, str], None],
        *,
        limit_s: float = LIMIT_S,
        find: Callable[[str], Callable[[], Plugin]] | None = None,
    ) -> None:
        self._on_failure = on_failure
        self._readers = [_Reader(name, (find or _entry_point)(name), limit_s) for name in dict.fromkeys(names)]
        self._told: dict[str, str] = {}

    def start(self) -> None:
        """Begin to read them."""
        for reader in self._readers:
            reader.start()

    def stop(self) -> None:
        """Read them no more; one that hangs is left to the end of the process."""
        for reader in self._readers:
            reader.stop()

    def readings(self, _now_s: float) -> tuple[AddedReading, ...]:
        """What all of them have given last."""
        found: list[AddedReading] = []
        for reader in self._readers:
            seen = reader.now()
            found += seen.readings
            if seen is not NOT_YET:
                self._tell(reader.name, seen.failed)
        return tuple(found)

    def origins(self) -> dict[str, Origin]:
        """Why signals of theirs are absent; a plug-in that has never given one stands for itself."""
        found: dict[str, Origin] = {}
        for reader in self._readers:
            seen, source = reader.now(), f"plug-in {reader.name}"
            found |= {name: Origin(source, why) for name, why in (seen.absent or {}).items()}
            if seen.failed is not None:
                names = reader.known() or {f"{PLUGGED}.{reader.name}"}
                found |= {name: Origin(source, f"plug-in {reader.name}: {seen.failed}") for name in names}
        return found

    def _tell(self, name: str, failed: str | None) -> None:
        """Say once that a plug-in fails, and again only after it has worked."""
        if failed is None:
            self._told.pop(name, None)
        elif name not in self._told:
            self._told[name] = failed
            self._on_failure(name, failed)


def _entry_point(name: str) -> Callable[[], Plugin]:
    """How to load the plug-in of that name."""

    def load() -> Plugin:
        from importlib.metadata import entry_points  # only where a plug-in is asked for: it takes memory

        found = entry_points(group=GROUP)
        chosen = next((each for each in found if each.name == name), None)
        if chosen is None:
            there = ", ".join(sorted({each.name for each in found})) or "none"
            raise PluginError(f"it is not installed; of the group {GROUP} there is {there}")
        plugin = chosen.load()
        if not callable(plugin):
            raise PluginError(f"{chosen.value} is {type(plugin).__name__}, which cannot be called")
        return plugin  # type: ignore[no-any-return]

    return load


def _period(plugin: Plugin) -> float:
    period_s = getattr(plugin, "period_s", DEFAULT_PERIOD_S)
    if isinstance(period_s, bool) or not isinstance(period_s, int | float):
        raise PluginError(f"its period_s is {period_s!r}, not seconds")
    if not LEAST_PERIOD_S <= period_s <= MOST_PERIOD_S:
        raise PluginError(f"its period_s is {period_s:g}, not from {LEAST_PERIOD_S:g} to {MOST_PERIOD_S:g} s")
    return float(period_s)


def _sentence(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "a reading"
        return f"it gave a reading that cannot be used: {where}: {first['msg']}"
    text = " ".join(str(error).split())
    return f"it raised {type(error).__name__}{f': {text}' if text else ''}"[:300]
