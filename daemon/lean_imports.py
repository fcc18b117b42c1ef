"""Keeps out of memory what libraries import at their top and patchd never uses.

A module that is None in `sys.modules` cannot be imported, which asyncio, hashlib and sqlite-utils provide for: they do
without. Where a library insists, it gets a hollow module in its place, with the names that it asks for and nothing
behind them.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

Modules = dict[str, types.ModuleType | None]


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Modules that cannot be imported meanwhile; those that are there already stay."""
    with _in_place(dict.fromkeys(names)):
        yield


@contextmanager
def hollow(name: str, *attributes: str) -> Iterator[None]:
    """A module that meanwhile has nothing but empty classes of these names."""
    with _in_place({name: _hollow(name, attributes)}):
        yield


def without_openssl() -> None:
    """For the life of the process: no TLS, which patchd does not speak, and Python's own hashes. Saves 5 MB.

    Call it before anything imports asyncio or hashlib; afterwards it does nothing.
    """
    if not sys.modules.keys().isdisjoint({"ssl", "_hashlib", "asyncio", "hashlib"}):
        return
    _modules()["_hashlib"] = None
    with without("ssl"):
        import asyncio  # noqa: F401 - as where Python was built without TLS
        import hashlib  # noqa: F401
    ssl = _hollow("ssl", ("SSLContext", "SSLObject", "SSLSocket", "MemoryBIO"))
    # uvicorn's defaults for what it is not asked for; the numbers are OpenSSL's.
    vars(ssl).update(PROTOCOL_TLS_SERVER=17, CERT_NONE=0)
    sys.modules["ssl"] = ssl


@contextmanager
def _in_place(stand_ins: Modules) -> Iterator[None]:
    modules = _modules()
    placed = [name for name in stand_ins if name not in modules]
    modules.update({name: stand_ins[name] for name in placed})
    try:
        yield
    finally:
        for name in placed:
            del modules[name]


def _modules() -> Modules:
    return sys.modules  # type: ignore[return-value]


def _hollow(name: str, attributes: tuple[str, ...]) -> types.ModuleType:
    module = types.ModuleType(name, "Names for a library that asks for them; patchd uses none of it.")
    for attribute in attributes:
        setattr(module, attribute, type(attribute, (), {}))
    return module
