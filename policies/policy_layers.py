"""Files of a policy laid over one another: what they include first, then the file, then the drop-ins in order.

Pure: whoever calls hands in a function that reads. Of each key it is known which file and line it comes from.
"""

from __future__ import annotations

import posixpath
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .errors import PatchdError, PolicyError
from .toml_source import Path, Position, nearest, positions

PRESET = "preset:"
MOST_LAYERS = 64  # files that include one another in ever new ways end here

Read = Callable[[str], str]  # a file's or preset's text by its name; raises PatchdError


class Origin(NamedTuple):
    """Where a key stands."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True)
class Layer:
    """One file, read: its keys without `include` and `remove_rules`, and where each stands."""

    file: str
    text: str
    data: dict[str, Any]
    places: dict[Path, Position]
    include: tuple[str, ...] = ()
    remove_rules: tuple[str, ...] = ()

    def where(self, path: Path) -> Origin:
        """The place of a key, or of the nearest table above it."""
        return Origin(self.file, *nearest(self.places, path))


@dataclass(frozen=True)
class Removal:
    """A rule that a file removes, and whether an earlier file had it."""

    rule: str
    origin: Origin
    found: bool


@dataclass
class Merged:
    """All layers in one: later keys over earlier ones."""

    layers: tuple[Layer, ...]
    data: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path, Origin] = field(default_factory=dict)
    removals: tuple[Removal, ...] = ()

    def where(self, path: Path) -> Origin:
        """The place of a key of the merged policy, or of the nearest table above it."""
        for length in range(len(path), 0, -1):
            if (origin := self.origins.get(path[:length])) is not None:
                return origin
        return Origin(self.layers[-1].file, 1, 1)

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in the order in which they count, each once."""
        return tuple(dict.fromkeys(layer.file for layer in self.layers))


def gather(file: str, text: str, read: Read, drop_ins: Sequence[str] = ()) -> Merged:
    """A file with all it includes, then `drop_ins` with all they include, merged.

    Raises PolicyError for what is no TOML, a file that cannot be read, or one that includes itself.
    """
    layers = list(_with_includes(file, text, read, ()))
    for name in drop_ins:
        layers += _with_includes(name, read(name), read, ())
    return merge(tuple(layers))


def read_layer(file: str, text: str) -> Layer:
    """One file's keys. Raises PolicyError for what is no TOML, or a wrong `include` or `remove_rules`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{_place_of(error, file, text)}: this is not TOML: {error}.") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, tables nested thousands deep
        raise PolicyError(f"{file}:1:1: this TOML cannot be read: {error}.") from error
    layer = Layer(file, text, data, positions(text))
    return Layer(
        file,
        text,
        {key: value for key, value in data.items() if key not in ("include", "remove_rules")},
        layer.places,
        _texts(layer, "include", "'preset:balanced' or 'site.toml'"),
        _texts(layer, "remove_rules", "names of rules of earlier files"),
    )


def merge(layers: tuple[Layer, ...]) -> Merged:
    """Later layers over earlier ones.

    Keys of tables are replaced one by one. Rules are added, one of an earlier rule's name takes its place; so it is
    with `[[retrain]]` of the same task and base. `remove_rules` takes away rules of the layers before.
    """
    merged = Merged(layers)
    rules, retrains = _Entries("rule"), _Entries("retrain")
    removals: list[Removal] = []
    for layer in layers:
        for index, name in enumerate(layer.remove_rules):
            removals.append(Removal(name, layer.where(("remove_rules", index)), rules.remove(name)))
        _merge_table(merged, merged.data, layer, layer.data, ())
        rules.take(layer, _rule_key)
        retrains.take(layer, _retrain_key)
    merged.removals = tuple(removals)
    rules.put(merged)
    retrains.put(merged)
    return merged


def _with_includes(file: str, text: str, read: Read, chain: tuple[str, ...]) -> Iterator[Layer]:
    chain, count = (*chain, file), 0
    layer = read_layer(file, text)
    for index, given in enumerate(layer.include):
        name = _resolve(file, given)
        way = " includes ".join((*chain, name))
        where = layer.where(("include", index))
        if name in chain:
            raise PolicyError(f"{where}: a file includes itself: {way}.", hint="Take one of the includes out.")
        try:
            included = read(name)
        except PatchdError as error:
            why = error.message.rstrip(".")
            raise PolicyError(f"{where}: '{given}' cannot be included: {why} ({way}).", hint=error.hint) from error
        for found in _with_includes(name, included, read, chain):
            count += 1
            if count >= MOST_LAYERS:
                raise PolicyError(f"{where}: {MOST_LAYERS} files and more are included: {way}.", hint="Include less.")
            yield found
    yield layer


def _resolve(file: str, given: str) -> str:
    if given.startswith(PRESET):
        return given
    return posixpath.normpath(posixpath.join(posixpath.dirname(file), given))


def _texts(layer: Layer, key: str, meaning: str) -> tuple[str, ...]:
    """A list of texts among a file's keys. Raises PolicyError for anything else."""
    given = layer.data.get(key, [])
    if not isinstance(given, list):
        raise PolicyError(f"{layer.where((key,))}: '{key}' is {given!r}, and must be a list: {meaning}.")
    for index, each in enumerate(given):
        if not isinstance(each, str) or not each or "\0" in each:
            raise PolicyError(f"{layer.where((key, index))}: '{key}' holds {each!r}, which is none of {meaning}.")
    return tuple(given)


def _place_of(error: tomllib.TOMLDecodeError, file: str, text: str) -> Origin:
    found = re.search(r"line (\d+), column (\d+)", str(error))
    if found:
        return Origin(file, int(found[1]), int(found[2]))
    lines = text.rstrip().split("\n")  # it ends too early
    return Origin(file, len(lines), len(lines[-1]) + 1)


def _merge_table(merged: Merged, into: dict[str, Any], layer: Layer, over: dict[str, Any], path: Path) -> None:
    for key, value in over.items():
        here = (*path, key)
        if here in (("rule",), ("retrain",)) and isinstance(value, list):
            continue
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge_table(merged, into[key], layer, value, here)
            continue
        into[key] = deepcopy(value)
        for known in [known for known in merged.origins if known[: len(here)] == here]:
            del merged.origins[known]
        merged.origins.update(
            {known: Origin(layer.file, *place) for known, place in layer.places.items() if known[: len(here)] == here}
        )


class _Entries:
    """The entries of an array of tables, over all layers: each with the layer and the index that it comes from."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._found: list[tuple[object, Any, Layer, int]] = []

    def take(self, layer: Layer, key: Callable[[Any], object]) -> None:
        """Add a layer's entries; one of an earlier layer with the same key is replaced where it stands."""
        given = layer.data.get(self._name)
        earlier = {known: place for place, (known, *_) in enumerate(self._found) if known is not None}
        for index, value in enumerate(given if isinstance(given, list) else ()):
            entry = (key(value), deepcopy(value), layer, index)
            place = earlier.get(entry[0])
            if place is None:
                self._found.append(entry)
            else:
                self._found[place] = entry

    def remove(self, key: object) -> bool:
        """Drop the entry with a key; whether there was one."""
        before = len(self._found)
        self._found = [entry for entry in self._found if entry[0] != key]
        return len(self._found) < before

    def put(self, merged: Merged) -> None:
        """Write the entries into the merged policy, with their origins."""
        if not self._found:
            return
        merged.data[self._name] = [value for _, value, _, _ in self._found]
        for place, (_, _, layer, index) in enumerate(self._found):
            own = (self._name, index)
            for path, position in layer.places.items():
                if path[:2] == own:
                    merged.origins[(self._name, place, *path[2:])] = Origin(layer.file, *position)


def _rule_key(value: Any) -> object:
    return value.get("name") if isinstance(value, dict) and isinstance(value.get("name"), str) else None


def _retrain_key(value: Any) -> object:
    if not isinstance(value, dict) or not isinstance(value.get("task"), str):
        return None
    return value["task"], str(value.get("base", ""))
