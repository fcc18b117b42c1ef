"""Errors as they cross a socket: by their stable code."""

from __future__ import annotations

from collections.abc import Iterator

from .errors import PatchdError


def _hierarchy(root: type[PatchdError]) -> Iterator[type[PatchdError]]:
    yield root
    for child in root.__subclasses__():
        yield from _hierarchy(child)


ERRORS: dict[str, type[PatchdError]] = {error.code: error for error in _hierarchy(PatchdError)}


def error_from_code(
    code: str, message: str, hint: str | None = None, retry_after_s: float | None = None
) -> PatchdError:
    """The exception that stands for `code`; PatchdError itself for a code this version does not know."""
    return ERRORS.get(code, PatchdError)(message, hint=hint, retry_after_s=retry_after_s)
