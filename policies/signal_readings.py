"""Every signal at one moment with its unit, source and age, and the reason where it is absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import Field

from .added_signals import is_added, whose
from .signals import SIGNALS, signals
from .snapshot import Frozen, Snapshot

# Sections of a snapshot that are not called like the first word of their signals' names.
SECTIONS: Mapping[str, str] = {"battery": "power", "temperature": "temperatures", "gpu": "gpus"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the monitor reads a signal, and why the signal is absent where it is."""

    source: str
    absent_because: str | None = None


class SignalReading(Frozen):
    """One signal: its value with where and when it was read, or why there is none."""

    name: str
    value: float | None = Field(description="null where the signal is absent")
    unit: str
    meaning: str
    source: str | None = Field(description="file, interface, trace or application that tells it; null where unknown")
    read_s: float | None = Field(description="Unix time at which it was read; null where it is absent")
    age_s: float | None = Field(ge=0, description="seconds since then")
    absent_because: str | None = Field(description="the reason, in words, where there is no value")


def readings(snapshot: Snapshot, origins: Mapping[str, Origin], now_s: float) -> tuple[SignalReading, ...]:
    """All signals of `snapshot` as seen at `now_s`, absent ones too, in the order of the table of signals.

    `origins` tells of the device's own signals, by name.
    """
    return (*_built_in(snapshot, origins, now_s), *_added(snapshot, origins, now_s))


def read_s(name: str, snapshot: Snapshot) -> float:
    """The Unix time at which a signal of this snapshot was read: a slow source keeps its own."""
    first = name.partition(".")[0]
    if SECTIONS.get(first, first) in snapshot.traced:
        return snapshot.time_s
    return snapshot.read_s.get(name, snapshot.read_s.get(first, snapshot.time_s))


def _built_in(snapshot: Snapshot, origins: Mapping[str, Origin], now_s: float) -> Iterator[SignalReading]:
    values = signals(snapshot)
    for name, spec in SIGNALS.items():
        value, origin = values.get(name), _origin(name, snapshot, origins)
        read = None if value is None else read_s(name, snapshot)
        yield SignalReading(
            name=name,
            value=value,
            unit=spec.unit,
            meaning=spec.meaning,
            source=origin.source or None,
            read_s=read,
            age_s=None if read is None else max(0.0, now_s - read),
            absent_because=None if value is not None else origin.absent_because or _unexplained(origin),
        )


def _origin(name: str, snapshot: Snapshot, origins: Mapping[str, Origin]) -> Origin:
    first = name.partition(".")[0]
    if SECTIONS.get(first, first) in snapshot.traced:
        return Origin(snapshot.source, f"{snapshot.source} does not tell it")
    return origins.get(name, Origin(""))


def _unexplained(origin: Origin) -> str:
    return f"{origin.source} told nothing of it at the last sample" if origin.source else "nothing here tells it"


def _added(snapshot: Snapshot, origins: Mapping[str, Origin], now_s: float) -> Iterator[SignalReading]:
    """Those that others give, and those that they gave or should give."""
    for told in snapshot.added:
        yield SignalReading(
            name=told.name,
            value=told.value,
            unit=told.unit,
            meaning=told.meaning,
            source=told.source or None,
            read_s=told.taken_s,
            age_s=max(0.0, now_s - told.taken_s),
            absent_because=None,
        )
    present = {told.name for told in snapshot.added}
    for name, origin in origins.items():
        if is_added(name) and name not in present:
            yield SignalReading(
                name=name,
                value=None,
                unit="",
                meaning=whose(name),
                source=origin.source,
                read_s=None,
                age_s=None,
                absent_because=origin.absent_because,
            )
