"""`patchd`: run the daemon in the foreground."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..policies.errors import PatchdError
from .lean_imports import without_openssl

if TYPE_CHECKING:
    from .config import DaemonConfig

EPILOG = """
examples:
  patchd                                     run with the defaults, policy 'balanced'
  patchd --state /tmp/p --socket /tmp/p.sock run beside another one
  patchd --policy ./my-policy.toml           run under a policy file; it is re-read when it changes

signals: SIGTERM and SIGINT drain and stop within 10 s, SIGHUP looks at the policy file at once.
exit status: 0 stopped in order, 1 could not start (one sentence on stderr says why), 2 wrong usage.
"""


def parser() -> argparse.ArgumentParser:
    """The command line of `patchd`."""
    made = argparse.ArgumentParser(
        prog="patchd",
        description="One pretrained network, many model patches, at the cost the device can spare: the daemon.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--config", type=Path, metavar="FILE", help="configuration (TOML); see docs/install.md")
    made.add_argument("--state", type=Path, metavar="DIR", help="state directory (created when missing)")
    made.add_argument("--socket", type=Path, metavar="PATH", help="Unix socket to serve on")
    made.add_argument("--policy", metavar="NAME|FILE", help="policy to start with; later `patchctl policy use` wins")
    made.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    made.add_argument("--version", action="version", version=f"patchd {__version__}")
    return made


def merged(arguments: argparse.Namespace) -> DaemonConfig:
    """The configuration file with the command line's options over it."""
    from .config import load_config

    given = {"state": arguments.state, "socket": arguments.socket, "policy": arguments.policy}
    overrides = {key: value for key, value in given.items() if value is not None}
    return load_config(arguments.config).model_copy(update=overrides)


def _names_plugins(config: Path | None) -> bool:
    """Whether a configuration file asks for plug-ins. What is wrong with it is said when it is read in full."""
    if config is None:
        return False
    try:
        return bool(tomllib.loads(config.read_text(encoding="utf-8")).get("signal_plugins"))
    except (OSError, ValueError):
        return False


async def serve(config: DaemonConfig) -> None:
    """Build the daemon, listen, run, and remove the socket."""
    from . import sockets
    from .app import Daemon, listen
    from .config import resolved
    from .loopback import bind_loopback

    state_dir = resolved(config)
    path = config.socket.absolute() if config.socket else sockets.default_socket_path(os.environ)
    daemon = Daemon(config, state_dir, path)
    loopback = None if config.listen is None else bind_loopback(config.listen)
    listener, ours = listen(config, path)
    try:
        await daemon.run(listener, loopback)
    finally:
        if ours:
            sockets.remove(path)


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = parser().parse_args(argv)
    if not _names_plugins(arguments.config):  # they are others' code, and may speak TLS
        without_openssl()
    import asyncio

    logging.basicConfig(
        stream=sys.stderr, level=arguments.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    # It warns whenever a job is still at work at its next turn, which is how long jobs are meant to be here.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    try:
        asyncio.run(serve(merged(arguments)))
    except PatchdError as error:
        print(f"patchd: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
