"""What is wrong with a policy, in one sentence that names file, line, column and key."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from .errors import PolicyError
from .snapshot import Frozen
from .toml_source import Path


class MistakeAtError(ValueError):
    """What a check of several keys finds wrong, with the path of the key to point at, from the checked table on."""

    def __init__(self, message: str, *path: str | int) -> None:
        super().__init__(message)
        self.path: Path = path


def explain_mistakes(
    error: ValidationError, model: type[Frozen], data: Any, where: Callable[[Path], object]
) -> PolicyError:
    """The first of pydantic's complaints about `data`, and how many more there are."""
    problems = error.errors(include_url=False)
    first, more = problems[0], len(problems) - 1
    path = _in_file(tuple(first["loc"]), data, absent=first["type"] in ("missing", "extra_forbidden"))
    found = first.get("ctx", {}).get("error")
    if isinstance(found, MistakeAtError):
        path = (*path, *found.path)
    key = ".".join(str(part) for part in path) or "policy"
    place, hint = where(path), None
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        sentence = f"{place}: unknown key '{key}'"
        hint = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(known)}."
    elif first["type"] == "missing":
        sentence = f"{place}: the key '{key}' is missing"
    elif first["type"] == "value_error":
        sentence = f"{place}: '{key}': {first['ctx']['error']}"
    elif first["type"] == "literal_error" and first["input"] is True:
        sentence = f"{place}: '{key}' is true; write false, or leave it out"
    else:
        sentence = f"{place}: '{key}' is {first['input']!r}: {first['msg']}"
    sentence += f" (and {more} more)." if more else "."
    return PolicyError(sentence, hint=hint)


def _in_file(loc: Path, data: Any, absent: bool) -> Path:
    """pydantic's location without what stands in no file: names of union members. `absent`: nor does its last key."""
    path: list[str | int] = []
    for place, part in enumerate(loc):
        if isinstance(data, dict) and (part in data or (absent and place == len(loc) - 1)):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        path.append(part)
    return tuple(path)


def _known_keys(model: type[Frozen], path: Path) -> list[str]:
    """The keys of the table at `path`."""
    names = iter(part for part in path if isinstance(part, str))
    for name in names:
        annotation = next(
            (field.annotation for known, field in model.model_fields.items() if (field.alias or known) == name), None
        )
        inner, named = _inner(annotation)
        if inner is None:
            break
        model = inner
        if named:  # [task.NAME]: the name is no key
            next(names, None)
    return [field.alias or name for name, field in model.model_fields.items()]


def _inner(annotation: Any) -> tuple[type[Frozen] | None, bool]:
    """The model in an annotation, and whether it is the value of a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation, False
    for argument in get_args(annotation):
        inner, named = _inner(argument)
        if inner is not None:
            return inner, named or get_origin(annotation) is dict
    return None, False
