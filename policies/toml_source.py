"""Where a key stands in a TOML text: tomllib gives no positions, and an error must name the line."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TABLE = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\"' -]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*(\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)\s*=")
_TOKEN = re.compile(
    r'''(?P<string>"""(?:\\.|[^\\])*?"""|\'\'\'.*?\'\'\'|"(?:\\.|[^"\\\n])*"|'[^'\n]*')'''
    r"|(?P<comment>#[^\n]*)|(?P<open>[\[{])|(?P<close>[\]}])|(?P<comma>,)|(?P<line>\n)",
    re.DOTALL,
)

Path = tuple[str | int, ...]
_Frame = tuple[str, Path, str | int]  # bracket, path of the container, index or key of what stands there now


def line_of(text: str, path: Path) -> int:
    """The 1-based line of the key at `path` (tables, array indices, keys); where it is not found, of the nearest above.

    A key that is missing is looked for in vain, so the line is that of the table it is missing from.
    """
    found = dict(_positions(text))
    for length in range(len(path), 0, -1):
        line = found.get(path[:length])
        if line is not None:
            return line
    return 1


def _positions(text: str) -> Iterator[tuple[Path, int]]:
    """Every table, key and array element with its line, in the order of the text."""
    current: Path = ()
    counts: dict[Path, int] = {}
    number, lines = 0, text.split("\n")
    while number < len(lines):
        line = lines[number]
        if header := _TABLE.match(line):
            name: Path = tuple(part.strip().strip("\"'") for part in header.group(2).split("."))
            if header.group(1) == "[[":
                counts[name] = counts.get(name, -1) + 1
                current = (*name, counts[name])
            else:
                current = name
            yield current, number + 1
        elif key := _KEY.match(line):
            path = (*current, key.group(1).strip("\"'"))
            yield path, number + 1
            rest = "\n".join([line[key.end() :], *lines[number + 1 :]])
            inside, more_lines = _value(rest, path, number + 1)
            yield from inside
            number += more_lines
        number += 1


def _value(text: str, path: Path, line: int) -> tuple[list[tuple[Path, int]], int]:
    """Positions inside one value, of array elements and keys of inline tables, and how many more lines it takes."""
    found: list[tuple[Path, int]] = []
    stack: list[_Frame] = []
    at, used = 0, 0
    while at < len(text):
        if stack and stack[-1][0] == "{" and (key := _KEY.match(text, at)):
            container, name = stack[-1][1], key.group(1).strip("\"'")
            stack[-1] = ("{", container, name)
            found.append(((*container, name), line + used + text.count("\n", at, key.start(1))))
            used += text.count("\n", at, key.end())
            at = key.end()
            continue
        token = _TOKEN.match(text, at)
        if token is None:
            at += 1
            continue
        at = token.end()
        kind = token.lastgroup
        if kind == "line":
            if not stack:
                break
            used += 1
        elif kind == "string":
            if stack and stack[-1][0] == "[":
                found.append((_element(stack[-1]), line + used))
            used += token.group().count("\n")
        elif kind == "open":
            inner = path if not stack else _element(stack[-1])
            stack.append((token.group(), inner, 0))
            if stack[:-1]:
                found.append((inner, line + used))
        elif kind == "close" and stack:
            stack.pop()
        elif kind == "comma" and stack:
            bracket, container, place = stack[-1]
            if isinstance(place, int):
                stack[-1] = (bracket, container, place + 1)
    return found, used


def _element(frame: _Frame) -> Path:
    return (*frame[1], frame[2])
