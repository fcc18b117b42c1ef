"""`patchctl doctor`: examine the installation, the machine and the daemon, and say what to do."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import render
from .common import Settings, pass_settings

if TYPE_CHECKING:
    from ..doctor.check import Check, Checkup, Finding

CHECK_COLUMNS, LEVEL_COLUMNS = 14, 9
COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "failure": "red"}


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl doctor                       everything; about ten seconds\n"
        "  patchctl doctor --quick               without running the engines; about a second\n"
        "  patchctl doctor --only disk,database  some checks\n"
        "  sudo patchctl doctor                  sees what belongs to the daemon's user as well\n"
        "  patchctl doctor --json | jq '.findings[] | select(.level == \"failure\")'\n\n"
        "\b\nLevels, and the exit status:\n"
        "  ok        as it should be\n"
        "  note      worth knowing, nothing is wrong\n"
        "  warning   patchd works, and worse than it could\n"
        "  failure   something does not work: the exit status is 1, else 0\n\n"
        "It needs no daemon and changes nothing. docs/doctor.md tells what each check looks at."
    )
)
@click.option("--quick", is_flag=True, help="Leave out the checks that take seconds.")
@click.option("--only", metavar="NAME,...", help="These checks alone.")
@click.option("--strict", is_flag=True, help="End with status 1 after a warning as well.")
@click.option(
    "--state", type=click.Path(path_type=Path), metavar="DIR", help="State directory; otherwise the daemon's own."
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Configuration that the daemon gets.")
@click.option("as_json", "--json", is_flag=True, help="Print all findings as one JSON document at the end.")
@pass_settings
def doctor(
    settings: Settings,
    quick: bool,
    only: str | None,
    strict: bool,
    state: Path | None,
    config: Path | None,
    as_json: bool,
) -> int:
    """Examine the installation, the machine and the daemon; each finding says what to do.

    Checks run side by side, and each is told of as soon as it is done.
    """
    from ... import __version__
    from ...client.common import socket_path
    from ..doctor.check import Checkup, Level, run_all
    from ..doctor.checks import CHECKS
    from ..doctor.subject import examine

    chosen = _chosen(CHECKS, quick, only)
    start = time.perf_counter()
    subject = examine(socket_path(settings.socket), state, config)
    findings: list[Finding] = []
    progress = sys.stderr.isatty() and not as_json
    if not as_json:
        click.echo(_subject_line(subject.daemon_pid, str(subject.socket), str(subject.state_dir)))
    for _, found, _ in run_all(chosen, subject, _announce if progress else lambda _: None):
        findings += found
        if not as_json:
            for finding in found:
                click.echo(finding_text(finding))
    checkup = Checkup(
        version=__version__,
        socket=str(subject.socket),
        state_dir=str(subject.state_dir),
        daemon=subject.daemon_pid,
        quick=quick,
        seconds=time.perf_counter() - start,
        findings=tuple(findings),
    )
    click.echo(checkup.model_dump_json() if as_json else summary_text(checkup, len(chosen)))
    return int(checkup.worst is Level.FAILURE or (strict and checkup.worst is Level.WARNING))


def _chosen(checks: tuple[Check, ...], quick: bool, only: str | None) -> list[Check]:
    """The checks that are asked for. Raises UsageError for a name that none has."""
    names = [check.name for check in checks]
    wanted = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted or ():
        if name not in names:
            raise click.UsageError(f"There is no check '{name}'; they are {', '.join(names)}.")
    return [check for check in checks if (wanted is None or check.name in wanted) and not (quick and check.heavy)]


def _announce(check: Check) -> None:
    if check.heavy:
        click.echo(click.style(f"{check.name}: this takes some seconds ...", dim=True), err=True)


def _subject_line(pid: int | None, socket: str, state_dir: str) -> str:
    which = f"a daemon answers, process {pid}" if pid is not None else "no daemon answers"
    return "\n".join(render.wrap(f"At {socket} {which}. State directory: {state_dir}.", render.width())) + "\n"


def finding_text(finding: Finding) -> str:
    """A finding as lines: its level and check, what was found, and below it what to do."""
    lead = LEVEL_COLUMNS + CHECK_COLUMNS
    columns = max(24, render.width() - lead)
    head = click.style(finding.level.value.ljust(LEVEL_COLUMNS), fg=COLOURS[finding.level.value], bold=True)
    first, *rest = render.wrap(finding.found, columns)
    lines = [head + finding.check.ljust(CHECK_COLUMNS) + first, *(" " * lead + line for line in rest)]
    if finding.todo is not None:
        first, *rest = render.wrap(finding.todo, columns - 3)
        lines += [" " * lead + "-> " + first, *(" " * (lead + 3) + line for line in rest)]
    return "\n".join(lines)


def summary_text(checkup: Checkup, checks: int) -> str:
    """How many findings of which level, and how long it took."""
    words = {"ok": ("ok", "ok"), "note": ("note", "notes"), "warning": ("warning", "warnings")}
    words["failure"] = ("failure", "failures")
    told = ", ".join(f"{count} {words[level.value][count != 1]}" for level, count in checkup.counts().items())
    return f"\n{checks} check{'' if checks == 1 else 's'} in {checkup.seconds:.1f} s: {told}."
