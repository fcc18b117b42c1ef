"""`patchctl`: the top of the command line."""

from __future__ import annotations

from pathlib import Path

import click

from .common import EXIT_CODES, PatchctlGroup, Settings

_COMMANDS = {
    "status": "status:status",
    "top": "top:top",
    "explain": "explain:explain",
    "signals": "signals:signals",
    "signal": "posting:signal",
    "policy": "policy:policy",
    "task": "task:task",
    "base": "base:base",
    "patch": "patch:patch",
    "train": "train:train",
    "infer": "infer:infer",
    "examples": "examples:examples",
    "cascade": "cascade:cascade",
    "profile": "profile:profile",
    "events": "events:events",
    "replay": "replay:replay",
    "record": "record:record",
    "doctor": "doctor:doctor",
    "report": "report:report",
    "openapi": "status:openapi",
}

_EPILOG = (
    "\b\nFirst steps:\n"
    "  patchctl status                                what patchd sees and decides\n"
    "  patchctl infer --task imagenet photo.jpg       classify a photograph\n"
    "  patchctl task add digits --data sklearn:digits --resolutions 128,96,64\n"
    "  patchctl train submit --task digits --follow   train its patches\n"
    "  patchctl explain                               why it decides as it does\n\n"
    "\b\nExit codes:\n" + "\n".join(f"  {code:<4} {meaning}" for code, meaning in EXIT_CODES.items())
)


@click.command(
    cls=PatchctlGroup, lazy=_COMMANDS, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    envvar="PATCHD_SOCKET",
    show_envvar=True,
    metavar="PATH",
    help="The daemon's socket; otherwise its default place.",
)
@click.version_option(package_name="patchd", prog_name="patchctl")
@click.pass_context
def cli(ctx: click.Context, socket: Path | None) -> None:
    """See and steer patchd, the daemon that runs and trains model patches at the cost the device can spare.

    Every reading command has --json, which prints the API's answer unchanged. Errors are one line on stderr.
    """
    ctx.obj = Settings(socket)


def main() -> None:
    """Entry point of the `patchctl` program."""
    cli(prog_name="patchctl")


if __name__ == "__main__":
    main()
