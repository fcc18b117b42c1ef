"""Python programs talk to patchd with this: typed, standard library only, pydantic where an answer is read.

    from patchd.client import Client

    with Client() as patchd:
        answer = patchd.infer("imagenet", Path("cat.jpg").read_bytes())
        print(answer.predictions[0].label, answer.timing.total_ms)

`AsyncClient` has the same methods, awaited. Errors are those of `patchd.policies.errors`; docs/client.md tells more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .sync_client import Client

if TYPE_CHECKING:
    from .async_client import AsyncClient

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """`AsyncClient` when it is asked for: asyncio takes longer to import than the whole synchronous client."""
    if name != "AsyncClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .async_client import AsyncClient

    return AsyncClient
