"""Classify many photographs at once while listening for what changes: python_async.py TASK IMAGE..."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from patchd.client import AsyncClient
from patchd.policies.errors import PatchdError


async def listen(patchd: AsyncClient) -> None:
    """Print every event as it happens."""
    async for event in patchd.follow_events():
        print(f"event {event.kind}: {event.message}")


async def main(task: str, *files: str) -> None:
    """Print the answers in the order of the files, which are read and sent four at a time."""
    async with AsyncClient() as patchd:
        listening = asyncio.create_task(listen(patchd))
        images = (Path(file).read_bytes() for file in files)
        names = iter(files)
        async for answer in patchd.infer_many(task, images, top_k=1):
            best = answer.predictions[0]
            print(f"{next(names)}: {best.label} ({best.probability:.0%}), {answer.resolution} px")
        status = await patchd.status()
        if status.decision is not None:
            print(f"inference allocation {status.decision.inference.value:.2f} under policy {status.policy.name}")
        listening.cancel()


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except PatchdError as error:
        sys.exit(str(error))
