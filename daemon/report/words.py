"""Numbers, times and lists as the report writes them; times are those of the device's own zone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, tzinfo

ABSENT = "\u2013"
_ZONE_LOOK_S = 900.0  # clocks change on quarters of an hour everywhere


def thousands(count: float) -> str:
    """12345 -> '12 345', with blanks that do not break."""
    return f"{count:,.0f}".replace(",", "\u202f")


def percent(share: float | None) -> str:
    """0.125 -> '12.5 %'; what is neither nothing nor all is never written so."""
    if share is None:
        return ABSENT
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 1:
        return "> 99.9 %"
    return f"{share * 100:.{0 if share >= 0.1 else 1}f} %".replace(".0 ", " ")


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits, without exponents."""
    if value is None:
        return ABSENT
    if abs(value) >= 1000:
        return thousands(value)
    return f"{float(f'{value:.{digits}g}'):g}"


def milliseconds(value: float | None) -> str:
    """12.34 -> '12.3 ms'."""
    if value is None:
        return ABSENT
    return f"{number(value)} ms" if value < 1000 else f"{number(value / 1000)} s"


def duration(seconds: float) -> str:
    """4000 -> '1 h 7 min'."""
    if seconds < 60:
        return f"{number(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def size(count: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{number(count)} {unit}"


def in_unit(value: float | None, unit: str) -> str:
    """A signal's value with its unit."""
    if value is None:
        return ABSENT
    match unit:
        case "share":
            return percent(value)
        case "bytes":
            return size(value)
        case "seconds":
            return duration(value)
        case "degrees Celsius":
            return f"{number(value)} °C"
        case "0 or 1":
            return {0.0: "no", 1.0: "yes"}.get(value, number(value))
        case _:
            return f"{number(value)} {unit}".rstrip()


def counted(count: float, one: str, many: str | None = None) -> str:
    """1 -> '1 slice', 2000 -> '2 000 slices'."""
    return f"{thousands(count)} {one if count == 1 else many or one + 's'}"


def listed(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def moment(time_s: float, zone: tzinfo | None = None, *, seconds: bool = True, year: bool = True) -> str:
    """Unix time -> '2026-11-30 14:05:09' in the zone."""
    form = f"{'%Y-' if year else ''}%m-%d %H:%M{':%S' if seconds else ''}"
    return datetime.fromtimestamp(time_s, UTC).astimezone(zone).strftime(form)


def offsets(from_s: float, to_s: float, zone: tzinfo | None = None) -> Iterator[tuple[float, int]]:
    """From when on which offset to UTC in seconds is in force: the first, and each that a change of clocks brings."""
    known: int | None = None
    at_s = from_s
    while at_s <= to_s:
        told = datetime.fromtimestamp(at_s, UTC).astimezone(zone).utcoffset()
        offset = 0 if told is None else int(told.total_seconds())
        if offset != known:
            yield at_s, offset
            known = offset
        at_s = (at_s // _ZONE_LOOK_S + 1) * _ZONE_LOOK_S


def zone_name(from_s: float, to_s: float, zone: tzinfo | None = None) -> str:
    """'UTC+01:00', or both where clocks change in the period."""
    names = []
    for _, offset in offsets(from_s, to_s, zone):
        hours, minutes = divmod(abs(offset) // 60, 60)
        names.append(f"UTC{'-' if offset < 0 else '+'}{hours:02}:{minutes:02}" if offset else "UTC")
    return ", then ".join(names)
