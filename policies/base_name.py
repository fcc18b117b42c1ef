"""Names of bases: `lite0` is a packaged one, `lite0@3fa9c01d` a version of it, called after its file's sha256.

Wherever a base is named, a version may be.
"""

from __future__ import annotations

import re

from .errors import BadInputError

DIGITS = 8  # of the sha256: a device holds a handful of versions

_NAME = re.compile(rf"([a-z0-9][a-z0-9_-]*)@([0-9a-f]{{{DIGITS}}})")


def version_name(base: str, sha256: str) -> str:
    """The name of the version of the packaged `base` whose file has this sha256 (hex)."""
    return f"{base}@{sha256[:DIGITS]}"


def parse_base(name: str) -> tuple[str, str | None]:
    """The packaged base that `name` is, or is a version of, and the digits of the version; None for a packaged one.

    Raises BadInputError for a name with an @ that is no version's.
    """
    if "@" not in name:
        return name, None
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadInputError(
            f"'{name}' is no name of a base version.", hint=f"It is a base, @ and {DIGITS} hexadecimal digits."
        )
    return found.group(1), found.group(2)


def packaged(name: str) -> str:
    """The packaged base that `name` is, or is a version of."""
    return name.partition("@")[0]
