"""Where a key stands in a TOML text: tomllib gives no positions, and an error must name line and column."""

from __future__ import annotations

import bisect
import contextlib
import re
import tomllib
from typing import NamedTuple

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*\'''',
    re.DOTALL,
)
_SCALAR = re.compile(r"[^,\]}\n#]*")

Path = tuple[str | int, ...]


class Position(NamedTuple):
    """A place in a text, both counted from 1, columns in characters."""

    line: int = 1
    column: int = 1


def positions(text: str) -> dict[Path, Position]:
    """Every table, key and array element of a TOML text that tomllib accepts, by its path.

    An array element and an entry of an array of tables have their index in the path. What is nested too deep to follow
    is left out.
    """
    scanner = _Scanner(text)
    with contextlib.suppress(RecursionError, IndexError, ValueError):  # it is no TOML after all: what was found stands
        scanner.document()
    starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def position(offset: int) -> Position:
        line = bisect.bisect_right(starts, offset)
        return Position(line, offset - starts[line - 1] + 1)

    return {path: position(offset) for path, offset in scanner.found.items()}


def nearest(found: dict[Path, Position], path: Path) -> Position:
    """The position of `path`; where it is not there, of the nearest table above: a missing key stands nowhere."""
    for length in range(len(path), 0, -1):
        if (position := found.get(path[:length])) is not None:
            return position
    return Position()


class _Scanner:
    """Walks a valid TOML text once; `found` maps paths to offsets."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: dict[Path, int] = {}
        self._last: dict[Path, int] = {}  # index of the last entry of each array of tables

    def document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text.startswith("[", self.at):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        parts = self._key()
        self.at = self.text.index("]", self.at) + (2 if array else 1)
        path: Path = ()
        for place, (name, offset) in enumerate(parts):
            path = (*path, name)
            last = place == len(parts) - 1
            if array and last:
                self._last[path] = self._last.get(path, -1) + 1
            self.found.setdefault(path, offset)
            if path in self._last:
                path = (*path, self._last[path])
                self.found.setdefault(path, offset)
        return path

    def _pair(self, table: Path) -> None:
        path = table
        for name, offset in self._key():
            path = (*path, name)
            self.found.setdefault(path, offset)
        self.at = self.text.index("=", self.at) + 1
        self._value(path)

    def _key(self) -> list[tuple[str, int]]:
        """The parts of a dotted key with their offsets."""
        parts = []
        while True:
            self._skip(_SPACE)
            start = self.at
            token = _STRING.match(self.text, start) or _BARE_KEY.match(self.text, start)
            if token is None:
                raise ValueError("no key")
            self.at = token.end()
            name = token.group()
            quoted = name[0] in "\"'"
            parts.append((next(iter(tomllib.loads(f"{name} = 0"))) if quoted else name, start))
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return parts
            self.at += 1

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        opening = self.text[self.at]
        if (string := _STRING.match(self.text, self.at)) is not None:
            self.at = string.end()
        elif opening in "[{":
            self.at += 1
            closing, index = "]" if opening == "[" else "}", 0
            while self.text[self._skip(_BLANK)] != closing:
                if opening == "[":
                    self.found[(*path, index)] = self.at
                    self._value((*path, index))
                    index += 1
                else:
                    self._pair(path)
                if self.text[self._skip(_BLANK)] == ",":
                    self.at += 1
            self.at += 1
        else:
            self._skip(_SCALAR)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        found = pattern.match(self.text, self.at)
        self.at = self.at if found is None else found.end()
        return self.at
