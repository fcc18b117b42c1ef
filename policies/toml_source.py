"""Where a key stands in a TOML text: tomllib gives no positions, and an error must name the line."""

from __future__ import annotations

import re

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"(?:^|[{,])\s*(\"[^\"]*\"|'[^']*'|[A-Za-z0-9_-]+)\s*=")

Path = tuple[str | int, ...]


def line_of(text: str, path: Path) -> int:
    """The 1-based line of the key at `path` (table names, array indices, keys); its table's line when not found."""
    best = 1
    wanted = path
    current: Path = ()
    counts: dict[str, int] = {}
    depth_line: dict[Path, int] = {}
    inline: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        header = _TABLE.match(line)
        if header:
            name = header.group(2).strip()
            if header.group(1) == "[[":
                index = counts.get(name, 0)
                counts[name] = index + 1
                current = (*name.split("."), index)
            else:
                current = tuple(name.split("."))
            depth_line.setdefault(current, number)
            continue
        body = line.split("#", 1)[0] if '"' not in line else line
        for match in _KEY.finditer(body):
            key = match.group(1).strip("\"'")
            inline.setdefault((*current, key), number)
    for length in range(len(wanted), 0, -1):
        prefix = wanted[:length]
        if prefix in inline:
            best = inline[prefix]
            break
        if prefix in depth_line:
            best = depth_line[prefix]
            break
    last = next((part for part in reversed(wanted) if isinstance(part, str)), None)
    scope = wanted[:2] if len(wanted) > 1 and isinstance(wanted[1], int) else wanted[:1]
    return inline.get((*scope, last), best) if last is not None else best
