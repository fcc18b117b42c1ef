"""A merged policy as one TOML text, each key with the file and line that it comes from."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .policy_layers import Merged
from .toml_source import Path

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def effective_text(merged: Merged) -> str:
    """The policy that the files make together; read as a policy file, it is the same policy."""
    name = merged.data.get("policy", {}).get("name", "unnamed")
    said = [f"# Policy '{name}'" + (", of one file:" if len(merged.files) == 1 else ", later files over earlier ones:")]
    said += [f"#   {file}" for file in map(_in_comment, merged.files)]
    said += [
        f"# {_in_comment(str(removal.origin))} removes the rule '{_in_comment(removal.rule)}'"
        for removal in merged.removals
        if removal.found
    ]
    return "\n".join([*said, *_table(merged, merged.data, ())]).rstrip() + "\n"


def _table(merged: Merged, data: Mapping[str, Any], path: Path) -> Iterator[str]:
    """The lines of a table's own keys, then those of the tables in it."""
    inner = {key: value for key, value in data.items() if _has_header(path, value)}
    for key, value in data.items():
        if key not in inner:
            yield from _pair(merged, (*path, key), value)
    for key, value in inner.items():
        here = (*path, key)
        if isinstance(value, dict):
            # A table of tables alone needs no header of its own.
            if not value or not all(_has_header(here, each) for each in value.values()):
                yield f"\n[{_header(here)}]"
            yield from _table(merged, value, here)
            continue
        for index, entry in enumerate(value):
            yield f"\n[[{_header(here)}]]{_origin(merged, (*here, index))}"
            for name, inside in entry.items():
                yield from _pair(merged, (*here, index, name), inside)


def _has_header(path: Path, value: object) -> bool:
    """Whether a value is written as a table of its own, or as several."""
    entries = not path and isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
    return isinstance(value, dict) or entries


def _pair(merged: Merged, path: Path, value: object) -> Iterator[str]:
    name = _key(str(path[-1]))
    if not isinstance(value, list) or not value or not all(isinstance(each, dict) for each in value):
        yield f"{name} = {_value(value)}{_origin(merged, path)}"
        return
    yield f"{name} = ["
    for index, each in enumerate(value):
        yield f"    {_value(each)},{_origin(merged, (*path, index))}"
    yield "]"


def _header(path: Path) -> str:
    return ".".join(_key(str(part)) for part in path)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        inside = ", ".join(f"{_key(name)} = {_value(each)}" for name, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return repr(value)  # a number; no key of a policy takes anything else


def _origin(merged: Merged, path: Path) -> str:
    found = merged.where(path)
    return f"  # {_in_comment(found.file)}:{found.line}"


def _in_comment(text: str) -> str:
    """Without the control characters that no comment may hold."""
    return "".join(character if character.isprintable() else "?" for character in text)
