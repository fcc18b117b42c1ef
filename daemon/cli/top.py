"""`patchctl top`: a live screen of what patchd sees, decides, serves and trains."""

from __future__ import annotations

import asyncio
import os
import sys

import click

from ...policies.errors import BadInputError
from .common import Settings, pass_settings


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl top                     ? shows all keys, q ends it\n"
        "  ssh -t robot patchctl top        over the network\n"
        "  NO_COLOR=1 patchctl top          without colours\n\n"
        "Keys: p another policy, t pause or resume training, e explain, Enter look at a line, Tab the next panel."
    )
)
@pass_settings
def top(settings: Settings) -> None:
    """Watch the daemon live. Signals, allocations and why, tasks, training, events."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInputError(
            "`patchctl top` needs a terminal.", hint="Use `patchctl status` or `patchctl events --follow`."
        )
    with settings.client() as client:
        client.request("GET", "/v1/health")  # an error that is there from the start ends it with its sentence
    asyncio.run(_show(settings))


async def _show(settings: Settings) -> None:
    from ...client import AsyncClient
    from .screen.app import TopApp
    from .screen.glyphs import BARE_TERMINALS

    if os.environ.get("TERM", "") in BARE_TERMINALS:
        os.environ["NO_COLOR"] = "1"
    async with AsyncClient(settings.socket, retries=0) as client:
        await TopApp(client).run_async(mouse=False)
