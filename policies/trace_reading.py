"""From a trace file's bytes to a checked trace. Whatever is wrong is said with file and line."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn, get_type_hints

from pydantic import TypeAdapter, ValidationError

from .errors import TraceError
from .snapshot import Snapshot
from .trace import LATEST_S, MAX_RECORDS, MINOR, SECTIONS, VERSION, WORK, DaemonWork, Trace, TraceHeader, TraceRecord

MAX_TEXT_BYTES = 1 << 29  # of a compressed file, once it is plain: what a day of many sensors takes, many times over
HINT = "The format is described in docs/traces.md."
_GZIP = b"\x1f\x8b"
_EITHER_GZIP_OR_ZLIB_OFF = 31  # zlib.decompressobj: a gzip header and trailer, the largest window
_MISSING = object()

_HINTS = get_type_hints(Snapshot)
_ADAPTERS: Mapping[str, TypeAdapter[Any]] = {
    **{name: TypeAdapter(_HINTS[name]) for name in SECTIONS},
    WORK: TypeAdapter(DaemonWork),
}


def parse_trace(text: str, file: str) -> Trace:
    """Check a trace's text. Raises TraceError naming file and line."""
    return _Reader(file).read(text, cut=False)


def read_trace(data: bytes, file: str) -> Trace:
    """Check a trace file's bytes, compressed with gzip or not. Raises TraceError naming file and line.

    What a killed recording left half written at the end is left out, and a note says so.
    """
    text, cut = trace_text(data, file)
    return _Reader(file).read(text, cut=cut)


def trace_text(data: bytes, file: str) -> tuple[str, bool]:
    """The text of a trace file's bytes, and whether its end is missing. Raises TraceError."""
    cut = False
    if data.startswith(_GZIP):
        data, cut = _unzipped(data, file)
    whole = data.rstrip(b"\0")  # what a file system leaves of the last block after a power cut
    if len(whole) < len(data):
        data, cut = whole, True
    try:
        return data.decode("utf-8"), cut
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        if b"\n" not in data[error.start :] and line > 1:  # within the last line, which was not finished
            return data[: data.rfind(b"\n") + 1].decode("utf-8"), True
        raise TraceError(f"{file}:{line}: is not UTF-8 text.", hint=HINT) from error


def _unzipped(data: bytes, file: str) -> tuple[bytes, bool]:
    parts: list[bytes] = []
    size = 0
    while data:
        stream = zlib.decompressobj(_EITHER_GZIP_OR_ZLIB_OFF)
        try:
            part = stream.decompress(data, MAX_TEXT_BYTES + 1 - size)
        except zlib.error as error:
            if parts and not data.startswith(_GZIP):  # what follows the last whole member is not of this file
                return b"".join(parts), True
            raise TraceError(f"{file}:1: the compressed file is damaged: {error}.", hint="Copy it again.") from error
        parts.append(part)
        size += len(part)
        if size > MAX_TEXT_BYTES:
            limit = MAX_TEXT_BYTES >> 20
            raise TraceError(f"{file}:1: is larger than {limit} MiB once it is unpacked.", hint="Cut it.")
        if not stream.eof:
            return b"".join(parts), True
        data = stream.unused_data
    return b"".join(parts), False


class _Reader:
    """Line after line: the sections as they stand, first as JSON, then checked."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._number = 0
        self._minor = MINOR
        self._version = VERSION
        self._raw: dict[str, Any] = {}
        self._given: dict[str, Any] = {}
        self._ignored: dict[str, None] = {}  # an ordered set: keys of a newer minor version

    def read(self, text: str, *, cut: bool) -> Trace:
        header: TraceHeader | None = None
        records: list[TraceRecord] = []
        notes: list[str] = []
        lines = text.split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            self._number = number
            unfinished = number == len(lines) and number > 1
            try:
                value = self._json(line)
            except ValueError as error:
                if unfinished and header is not None:
                    cut = True
                    break
                self._refuse(f"not a line of JSON: {error}.", error)
            if header is None:
                header = self._header(value)
                continue
            record = self._record(value, records[-1].t if records else None)
            records.append(record)
            if len(records) > MAX_RECORDS:
                self._refuse(f"a trace has at most {MAX_RECORDS} records.", hint="Cut it.")
        if header is None or not records:
            self._number = max(1, self._number)
            self._refuse("a trace needs a header line and at least one record.")
        if cut:
            notes.append(
                f"{self._file} ends in the middle of a line, as a recording does that was killed; "
                f"it is read up to second {records[-1].t:g}."
            )
        if self._ignored:
            notes.append(
                f"{self._file} is of format {header.version}.{header.minor} and this patchd reads "
                f"{VERSION}.{MINOR}: {', '.join(self._ignored)} is left out; update patchd to have it."
            )
        return Trace(header, tuple(records), tuple(notes))

    def _json(self, line: str) -> Any:
        """One line as JSON. Raises ValueError, in words."""
        try:
            return json.loads(line, parse_constant=_no_number, parse_float=_finite)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None

    def _header(self, value: Any) -> TraceHeader:
        if isinstance(value, dict) and value.get("format") == "patchd-trace":
            version = value.get("version")
            if isinstance(version, int) and version > VERSION:
                self._refuse(f"the trace is of format version {version}, and this patchd reads 1 to {VERSION}.")
            minor = value.get("minor", 0)
            if version == VERSION and isinstance(minor, int) and minor > MINOR:
                self._minor = minor
        try:
            header = self._checked(TypeAdapter(TraceHeader), value, "")
        except ValidationError as error:
            self._refuse(_first(error, "header"), error)
        assert isinstance(header, TraceHeader)
        self._version = header.version
        return header

    def _record(self, value: Any, before: float | None) -> TraceRecord:
        if not isinstance(value, dict):
            self._refuse('a record is a JSON object such as {"t": 1, "cpu": {...}}.')
        t, note = value.pop("t", None), value.pop("note", None)
        if isinstance(t, bool) or not isinstance(t, int | float) or not 0 <= t <= LATEST_S:
            self._refuse("a record needs 't', the seconds since the start, 0 or more.")
        if before is not None and t <= before:
            self._refuse(f"t is {t:g}, not after {before:g} of the record before.", hint=None)
        if note is not None and not isinstance(note, str):
            self._refuse("'note' is not a text.")
        if self._version == 1:  # every line of version 1 stands for itself
            self._raw, self._given = {}, {}
        if value:
            self._take(value)
        given = self._given
        work = given.get(WORK)
        if work is not None:
            given = {name: section for name, section in given.items() if name != WORK}
        return TraceRecord(float(t), given, work, note)

    def _take(self, changes: dict[str, Any]) -> None:
        """Bring a line's changes into what stands."""
        self._given = dict(self._given)  # records before this one keep what stood then
        for name, change in changes.items():
            adapter = _ADAPTERS.get(name)
            if adapter is None:
                if self._minor > MINOR:
                    self._ignored[name] = None
                    continue
                self._refuse(f"'{name}' is no section of a trace; known are {', '.join(_ADAPTERS)}.")
            if change is None:
                self._raw.pop(name, None)
                self._given.pop(name, None)
                continue
            try:
                self._raw[name] = merged(self._raw.get(name, _MISSING), change)
                self._given[name] = self._checked(adapter, self._raw[name], name)
            except ValidationError as error:
                self._refuse(_first(error, "record", name), error)
            except (ValueError, RecursionError) as error:
                self._refuse(f"not a trace record at '{name}': {error}.", error)

    def _checked(self, adapter: TypeAdapter[Any], value: Any, name: str) -> Any:
        """A value as its model; keys that a newer minor version added are left out."""
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            extra = [each["loc"] for each in error.errors(include_url=False) if each["type"] == "extra_forbidden"]
            if self._minor <= MINOR or len(extra) < error.error_count():
                raise
            for place in extra:
                self._ignored[".".join(str(part) for part in (name, *place) if part != "")] = None
            return adapter.validate_python(_without(value, extra))

    def _refuse(self, why: str, cause: Exception | None = None, hint: str | None = HINT) -> NoReturn:
        said = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in why)  # keys are whatever the file holds
        raise TraceError(f"{self._file}:{self._number}: {said}", hint=hint) from cause


def merged(old: Any, change: Any) -> Any:
    """`old` with a change: objects are changed key by key, null removes; of a list, places are changed. Pure.

    Raises ValueError where a place does not exist.
    """
    if not isinstance(change, dict):
        return change
    if isinstance(old, list):
        new: Any = list(old)
        for place, value in change.items():
            if not (place.isascii() and place.isdecimal()) or int(place) >= len(new):
                raise ValueError(f"there is no place '{place}' in a list of {len(new)}")
            new[int(place)] = merged(new[int(place)], value)
        return new
    new = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        else:
            new[key] = merged(new.get(key, _MISSING), value)
    return new


def _without(value: Any, places: list[tuple[int | str, ...]]) -> Any:
    copied = json.loads(json.dumps(value))
    for place in places:
        at = copied
        for part in place[:-1]:
            at = at[part]
        at.pop(place[-1], None)
    return copied


def _first(error: ValidationError, what: str, section: str = "") -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in (section, *first["loc"]) if part != "")
    at = f" at '{key}'" if key else ""
    said = first["msg"].removeprefix("Value error, ")
    return f"not a trace {what}{at}: {said}."


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
