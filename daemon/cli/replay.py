"""`patchctl replay` and `record`: traces of the device's state, offline through policies or live into the daemon."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from ...policies.errors import BadInputError, ConflictError, TraceError
from . import render
from .common import Settings, Sides, pass_settings

if TYPE_CHECKING:
    from ...client import Client
    from ...policies.decision import Ladder
    from ...policies.replay import ReplayResult

PERIOD_S = 1.0  # the daemon samples once a second


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl replay demo                                what 'balanced' would do\n"
        "  patchctl replay laptop-day --policy balanced --policy ./my-policy.toml\n"
        "  patchctl replay my-trace.jsonl --measured           with the daemon's tasks\n"
        "  patchctl replay demo --live --speed 4 --wait        let the daemon live it\n"
        "  patchctl replay --stop                              end a live one\n\n"
        "TRACE is a file, or the name of a trace that ships with patchd. Offline, without --measured, each image is "
        "taken to cost in proportion to its pixels."
    )
)
@click.argument("trace", required=False)
@click.option("--policy", "policies", multiple=True, metavar="NAME|FILE", help="Decide by this one; may be repeated.")
@click.option(
    "--resolutions",
    type=Sides(),
    default="224,192,160,128,96",
    show_default=True,
    metavar="PX,PX",
    help="Offline: the rungs to choose from.",
)
@click.option("--measured", is_flag=True, help="Offline: the tasks of the daemon, with their measured costs.")
@click.option("--changes/--no-changes", default=None, help="Show each change.  [default: with one policy]")
@click.option("--live", is_flag=True, help="Feed the trace to the daemon in place of the device.")
@click.option(
    "--speed", type=click.FloatRange(0, 1000, min_open=True), default=1.0, show_default=True, help="Live: times faster."
)
@click.option("--wait", is_flag=True, help="Live: show what changes until the end; Ctrl-C stops the trace.")
@click.option("--stop", is_flag=True, help="End a live replay.")
@click.option("as_json", "--json", is_flag=True, help="Print the results as JSON, one line a policy.")
@pass_settings
def replay(
    settings: Settings,
    trace: str | None,
    policies: tuple[str, ...],
    resolutions: tuple[int, ...],
    measured: bool,
    changes: bool | None,
    live: bool,
    speed: float,
    wait: bool,
    stop: bool,
    as_json: bool,
) -> None:
    """Replay a trace of the device's state, offline through policies or live."""
    if stop:
        with settings.client() as client:
            client.stop_trace()
        click.echo("The device's own signals count again.")
        return
    if trace is None:
        raise click.UsageError("Missing argument 'TRACE'.")
    if live and (policies or measured):
        raise click.UsageError("--policy and --measured are for offline replays; use `patchctl policy use` first.")
    name, text = trace_source(trace)
    if live:
        from ...policies.trace import parse_trace
        from .live import play

        parse_trace(text, name)
        with settings.client() as client:
            play(client, name, text, speed, wait)
        return
    results = _offline(settings, name, text, policies or ("balanced",), resolutions, measured)
    if as_json:
        for result in results:
            click.echo(result.model_dump_json())
        return
    shown = len(results) == 1 if changes is None else changes
    click.echo("\n\n".join([*(changes_text(result) for result in results if shown), summary_text(results)]))


def _offline(
    settings: Settings, name: str, text: str, policies: tuple[str, ...], resolutions: tuple[int, ...], measured: bool
) -> list[ReplayResult]:
    from ...policies.replay import replay as decide_over
    from ...policies.trace import parse_trace
    from .policy import preset_or_file

    parsed = parse_trace(text, name)
    chosen = [preset_or_file(policy) for policy in policies]
    ladders = _measured_ladders(settings) if measured else _pixel_ladder(resolutions)
    return [decide_over(parsed, policy, ladders) for policy in chosen]


def _measured_ladders(settings: Settings) -> Mapping[str, Ladder]:
    with settings.client() as client:
        found = {view.spec.name: view.ladder for view in client.tasks().tasks if view.ladder is not None}
    if not found:
        raise ConflictError("No task of the daemon can answer yet.", hint="Train one, or leave --measured out.")
    return found


def _pixel_ladder(resolutions: tuple[int, ...]) -> Mapping[str, Ladder]:
    from ...policies.decision import Ladder, Rung

    return {"any task": Ladder(task="any task", rungs=tuple(Rung(resolution=side) for side in resolutions))}


def trace_source(trace: str) -> tuple[str, str]:
    """Name and text of a trace: a file, or one that ships with patchd. Raises TraceError or NotFoundError."""
    file = Path(trace)
    if "/" in trace or trace.endswith(".jsonl") or file.is_file():
        try:
            return str(file), file.read_text(encoding="utf-8")
        except OSError as error:
            raise TraceError(f"{file}: cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise TraceError(f"{file}: is not UTF-8 text.") from error
    from ...policies.presets_loader import trace_text

    return trace, trace_text(trace)


def changes_text(result: ReplayResult) -> str:
    """Each change of a decision, with its moment."""
    rows = [
        (_moment(change.t), f"{change.inference:.2f}", f"{change.training:.2f}", " ".join(change.changed))
        for change in result.changes
    ]
    title = click.style(f"{result.trace} under '{result.policy}'", bold=True, underline=True)
    return title + "\n" + render.table(("at", "inference", "training", "what changed"), rows, right=(0, 1, 2))


def summary_text(results: list[ReplayResult]) -> str:
    """What each policy did over the whole trace."""
    rows = [
        (
            result.policy,
            str(len(result.changes) - 1),
            f"{result.mean_inference:.2f}",
            f"{result.mean_training:.2f}",
            render.percent(result.training_seconds / result.duration_s),
            _shares(result),
        )
        for result in results
    ]
    header = ("policy", "changes", "inference", "training", "training on", "time at each input")
    lines = [f"{results[0].trace}, {render.duration(results[0].duration_s)}; means over the whole trace:"]
    lines.append(render.table(header, rows, right=(1, 2, 3, 4)))
    for result in results:
        fired = ", ".join(
            f"{rule} {render.percent(seconds / result.duration_s)}" for rule, seconds in result.rule_seconds.items()
        )
        lines += render.wrap(
            f"rules of '{result.policy}', share of the time: {fired or 'none matched'}", render.width()
        )
    return "\n".join(lines)


def _shares(result: ReplayResult) -> str:
    parts = []
    for task, sides in result.seconds_at.items():
        named = f"{task}: " if len(result.seconds_at) > 1 else ""
        used = ", ".join(
            f"{side} px {render.percent(seconds / result.duration_s)}"
            for side, seconds in sorted(sides.items(), reverse=True)
        )
        parts.append(named + used)
    return "; ".join(parts)


def _moment(t: float) -> str:
    hours, rest = divmod(int(t), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl record unplugged.jsonl               until Ctrl-C\n"
        "  patchctl record unplugged.jsonl --seconds 60\n"
        "  patchctl replay unplugged.jsonl"
    )
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.  [default: at Ctrl-C]")
@click.option("--story", default="Recorded with `patchctl record`.", help="A sentence on what happened, for the file.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@pass_settings
def record(settings: Settings, file: Path, seconds: float | None, story: str, force: bool) -> None:
    """Record the device's state to a trace FILE, once a second. Ctrl-C ends it in order."""
    from ...policies.trace import header_line

    name = re.sub(r"[^a-z0-9_-]+", "-", file.stem.lower()).strip("-_")[:64] or "trace"
    with settings.client() as client:
        client.snapshot()
        try:
            with file.open("w" if force else "x", encoding="utf-8") as out:
                out.write(header_line(name, story, PERIOD_S) + "\n")
                lines = _record(client, out, seconds)
        except FileExistsError as error:
            raise ConflictError(f"{file} exists already.", hint="Choose another name, or add --force.") from error
        except OSError as error:
            raise BadInputError(f"{file}: cannot be written: {error.strerror}.") from error
    click.echo(f"{file}: {lines} moments recorded.")


def _record(client: Client, out: TextIO, seconds: float | None) -> int:
    """Write snapshots as they are taken, until `seconds` have passed or Ctrl-C; the number written."""
    from ...policies.trace import record_line

    lines = 0
    first_s = last_s = 0.0
    until = None if seconds is None else time.monotonic() + seconds
    with suppress(KeyboardInterrupt):
        while until is None or time.monotonic() < until:
            seen = client.snapshot()
            if lines == 0 or round(seen.time_s - first_s, 3) > last_s:
                first_s = first_s or seen.time_s
                last_s = round(seen.time_s - first_s, 3)
                out.write(record_line(last_s, seen) + "\n")
                out.flush()
                lines += 1
            time.sleep(PERIOD_S)
    return lines
