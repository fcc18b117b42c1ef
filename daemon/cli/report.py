"""`patchctl report`: the history of a period as one HTML file, or as JSON."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...policies.errors import BadInputError, ConflictError, StateError
from . import render
from .common import Moment, Settings, pass_settings, print_body

if TYPE_CHECKING:
    from ..api.history_schemas import History

DAY_S = 86400.0
HISTORY_TIMEOUT_S = 120.0  # 30 days of a daemon that is busy with others
POINTS = 720  # about as many as a screen has room for
HEAD_BYTES = 2000  # of a file, to see whether it is a report


class Length(click.ParamType[float]):
    """A length of time: 90m, 24h, 7d."""

    name = "length"
    _FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
    _SECONDS: Mapping[str, float] = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY_S, "w": 7 * DAY_S}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        found = self._FORM.fullmatch(str(value).strip().lower())
        if found is None or float(found[1]) == 0:
            self.fail(f"'{value}' is no length of time; write a number and s, m, h, d or w, such as 24h", param, ctx)
        return float(found[1]) * self._SECONDS[found[2]]


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl report                                 the last 24 hours, as patchd-report.html\n"
        "  patchctl report --since 7d -o week.html\n"
        "  patchctl report --from 08:00 --to 12:30         this morning\n"
        "  patchctl report --from 2026-11-30T22:00 --since 8h\n"
        "  patchctl report --state /mnt/backup/patchd      from a state directory, without its daemon\n"
        "  patchctl report --json | jq '.tasks'            the same figures for programs\n\n"
        "The file is self-contained: it loads nothing, works offline and without JavaScript (then without the charts), "
        "and is written whole or not at all. A file that is there already is replaced if it is a report."
    )
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write; - is the standard output.  [default: patchd-report.html]",
)
@click.option("--since", "length_s", type=Length(), metavar="LENGTH", help="How long a period.  [default: 24h]")
@click.option("--from", "from_s", type=Moment(), metavar="TIME", help="When it begins: 14:05, 2026-11-30T14:05, -2h.")
@click.option("--to", "to_s", type=Moment(), metavar="TIME", help="When it ends.  [default: now]")
@click.option(
    "--state",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Read this state directory instead of asking the daemon; nothing in it is changed.",
)
@click.option(
    "--points", type=click.IntRange(1, 5000), default=POINTS, show_default=True, help="About so many at most."
)
@click.option("--force", is_flag=True, help="Replace a file that is no report, too.")
@click.option("as_json", "--json", is_flag=True, help="Print the history as JSON instead.")
@pass_settings
def report(
    settings: Settings,
    output: Path | None,
    length_s: float | None,
    from_s: float | None,
    to_s: float | None,
    state: Path | None,
    points: int,
    force: bool,
    as_json: bool,
) -> None:
    """Show what was in a period: allocations, signals, resolutions, requests, training, cascades, events."""
    if as_json and output is not None:
        raise click.UsageError("--json and --output exclude each other.")
    now_s = time.time()
    first_s, last_s = period(now_s, length_s, from_s, to_s)
    target = Path("patchd-report.html") if output is None else output
    if not as_json and str(target) != "-":
        check_target(target, force)
    body = _history(settings, state, first_s, last_s, points, now_s)
    if as_json:
        print_body(body)
        return
    from ..api.history_schemas import History
    from ..report.page import page

    history = History.model_validate_json(body)
    text = page(history, host="" if state is not None else os.uname().nodename)
    if str(target) == "-":
        click.echo(text, nl=False)
        return
    write_whole(target, text)
    click.echo(told(history, target, len(text.encode())))


def period(now_s: float, length_s: float | None, from_s: float | None, to_s: float | None) -> tuple[float, float]:
    """Begin and end by what was given of begin, end and length. Raises UsageError where that is too much or nothing."""
    if length_s is not None and from_s is not None and to_s is not None:
        raise click.UsageError("Give two of --since, --from and --to, not all three.")
    if from_s is not None:
        first_s, last_s = from_s, (to_s if length_s is None else from_s + length_s)
        last_s = now_s if last_s is None else last_s
    else:
        last_s = now_s if to_s is None else to_s
        first_s = last_s - (DAY_S if length_s is None else length_s)
    if first_s >= now_s:
        raise click.UsageError(f"The period begins {render.clock(first_s)}, which is not yet.")
    if first_s >= last_s:
        raise click.UsageError(f"The period ends {render.clock(last_s)}, before it begins.")
    return first_s, last_s


def _history(settings: Settings, state: Path | None, from_s: float, to_s: float, points: int, now_s: float) -> bytes:
    """From a state directory, else from the daemon. Raises StateError or UnavailableError."""
    if state is not None:
        from ..history_reader import Period, read_history

        return read_history(state, Period(from_s, to_s, points), now_s)
    with settings.client() as client:
        query = {"from": from_s, "to": to_s, "points": points}
        return client.request("GET", "/v1/history", query=query, timeout_s=HISTORY_TIMEOUT_S)


def check_target(target: Path, force: bool) -> None:
    """Raise BadInputError where nothing can be written, ConflictError for a file that is no report."""
    if target.is_dir():
        raise BadInputError(f"{target} is a directory.", hint="Name a file in it: -o DIR/report.html.")
    if not target.parent.is_dir():
        raise BadInputError(f"{target}: there is no directory {target.parent}.")
    if not target.exists() or force:
        return
    from ..report.page import GENERATOR

    try:
        with target.open("rb") as file:
            known = f'name="generator" content="{GENERATOR}"'.encode() in file.read(HEAD_BYTES)
    except OSError as error:
        raise BadInputError(f"{target} cannot be read: {error.strerror}.") from error
    if not known:
        raise ConflictError(f"{target} is there already, and is no report.", hint="Replace it with --force.")


def write_whole(target: Path, text: str) -> None:
    """Put the text in place of the file at once, readable as a new file would be. Raises StateError."""
    umask = os.umask(0)
    os.umask(umask)
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        raise StateError(f"{target} cannot be written: {error.strerror}.") from error


def told(history: History, target: Path, size: int) -> str:
    """Where the file is and what it holds, in a line or two."""
    rows, events = len(history.rows), sum(history.events_by_kind.values())
    lines = [
        f"{target.resolve()}: {render.bytes_(size)}, {render.clock(history.from_s)} to {render.clock(history.to_s)}, "
        f"{history.trained.slices} training slices, {events} events"
    ]
    if not rows:
        lines.append("Nothing was recorded in this period.")
    return "\n".join(lines)
