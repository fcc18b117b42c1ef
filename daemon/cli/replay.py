"""`patchctl replay`: traces of the device's state, offline through policies or live into the daemon."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...policies.errors import ConflictError, TraceError
from .common import Settings, Sides, pass_settings
from .replay_table import changes_text, comparison_text, library_text

if TYPE_CHECKING:
    from ...policies.decision import Ladder
    from ...policies.replay import ReplayResult, ReplayTerms
    from ...policies.trace import Trace
    from ...policies.training_costs import TrainingSituation


class Offset(click.ParamType[float]):
    """A moment of a trace, from its start: seconds, M:SS or H:MM:SS."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        text = str(value)
        if re.fullmatch(r"\d+(\.\d+)?", text):
            return float(text)
        if not re.fullmatch(r"(\d+:)?\d{1,2}:\d{2}", text):
            self.fail(f"'{text}' is no moment of a trace; write seconds, 12:30 or 1:12:30", param, ctx)
        *hours, minutes, seconds = (int(part) for part in text.split(":"))
        return float((hours[0] if hours else 0) * 3600 + minutes * 60 + seconds)


class Rate(click.ParamType[float]):
    """Predictions by time: 5/s, 30/min, 100/h; without a unit, a second."""

    name = "rate"
    _SECONDS: Mapping[str, float] = {"s": 1.0, "min": 60.0, "h": 3600.0}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Predictions a second."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(s|min|h))?", str(value))
        if found is None:
            self.fail(f"'{value}' is no rate; write 5/s, 30/min or 100/h", param, ctx)
        return float(found[1]) / self._SECONDS[found[2] or "s"]


class Start(click.ParamType[datetime]):
    """A local date and time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """With the offset from UTC that holds here, where none is given."""
        if isinstance(value, datetime):
            return value
        try:
            given = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"'{value}' is no date and time; write 2026-07-06T07:30", param, ctx)
        return given if given.tzinfo is not None else given.astimezone()


@click.command(
    epilog=(
        "\b\nExamples:\n"
        "  patchctl replay --list                              the traces that ship with patchd\n"
        "  patchctl replay demo                                what 'balanced' would do\n"
        "  patchctl replay laptop-day --policy balanced --policy ./my-policy.toml\n"
        "  patchctl replay kiosk-summer --from 12:00:00 --until 18:00:00 --rate 30/min\n"
        "  patchctl replay my-trace.jsonl.gz --measured        with the daemon's tasks\n"
        "  patchctl replay demo --live --speed 4 --wait        let the daemon live it\n"
        "  patchctl replay --stop                              end a live one\n\n"
        "TRACE is a file, or the name of a trace that ships with patchd. Offline, without --measured, each image is "
        "taken to cost in proportion to its pixels. docs/traces.md has a worked example."
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
@click.option(
    "--rate", type=Rate(), metavar="N/s", help="Predictions of each task.  [default: those of the trace, else 1/s]"
)
@click.option(
    "--watts-per-core",
    type=click.FloatRange(0, 1000),
    metavar="W",
    help="What a busy processor takes.  [default: as the trace tells, else no energy]",
)
@click.option("--from", "from_", type=Offset(), metavar="H:MM:SS", help="Begin there.  [default: at the start]")
@click.option("--until", type=Offset(), metavar="H:MM:SS", help="End there.  [default: at the end]")
@click.option(
    "--start", type=Start(), metavar="TIME", help="Local time at which the trace began.  [default: as the trace tells]"
)
@click.option("--changes/--no-changes", default=None, help="Show each change.  [default: with one policy]")
@click.option("--live", is_flag=True, help="Feed the trace to the daemon in place of the device.")
@click.option(
    "--speed", type=click.FloatRange(0, 1000, min_open=True), default=1.0, show_default=True, help="Live: times faster."
)
@click.option("--wait", is_flag=True, help="Live: show what changes until the end; Ctrl-C stops the trace.")
@click.option("--stop", is_flag=True, help="End a live replay.")
@click.option("--list", "listed", is_flag=True, help="List the traces that ship with patchd, with their stories.")
@click.option("as_json", "--json", is_flag=True, help="Print the results as JSON, one line a policy or trace.")
@pass_settings
def replay(
    settings: Settings,
    trace: str | None,
    policies: tuple[str, ...],
    resolutions: tuple[int, ...],
    measured: bool,
    rate: float | None,
    watts_per_core: float | None,
    from_: float | None,
    until: float | None,
    start: datetime | None,
    changes: bool | None,
    live: bool,
    speed: float,
    wait: bool,
    stop: bool,
    listed: bool,
    as_json: bool,
) -> None:
    """Replay a trace of the device's state, offline through policies or live."""
    if stop:
        with settings.client() as client:
            client.stop_trace()
        click.echo("The device's own signals count again.")
        return
    if listed:
        _list(as_json)
        return
    if trace is None:
        raise click.UsageError("Missing argument 'TRACE'.")
    only_offline = policies or measured or from_ is not None or until is not None or start or rate or watts_per_core
    if live and only_offline:
        raise click.UsageError(
            "--policy, --measured, --rate, --watts-per-core, --from, --until and --start are for offline replays; "
            "choose a policy with `patchctl policy use` first."
        )
    name, data = trace_source(trace)
    if live:
        _live(settings, name, data, speed, wait)
        return
    from ...policies.replay import ReplayTerms

    parsed = _read(data, name)
    terms = ReplayTerms(from_s=from_ or 0.0, until_s=until, rate=rate, watts_per_core=watts_per_core, measured=measured)
    results = _offline(
        settings, parsed if start is None else parsed.with_start(start), policies or ("balanced",), resolutions, terms
    )
    if as_json:
        for result in results:
            click.echo(result.model_dump_json())
        return
    shown = len(results) == 1 if changes is None else changes
    texts = [*(changes_text(result) for result in results if shown), comparison_text(results, resolutions)]
    click.echo("\n\n".join(texts))


def _list(as_json: bool) -> None:
    from ...policies.presets_loader import load_trace, trace_names

    traces = [load_trace(name) for name in trace_names()]
    if as_json:
        for each in traces:
            click.echo(each.header.model_copy().model_dump_json(exclude_none=True))
        return
    click.echo(library_text(traces))


def _read(data: bytes, name: str) -> Trace:
    """Check a trace; what could not be read of it is said on stderr. Raises TraceError."""
    from ...policies.trace_reading import read_trace

    parsed = read_trace(data, name)
    for note in parsed.notes:
        click.echo(f"patchctl: {note}", err=True)
    return parsed


def _live(settings: Settings, name: str, data: bytes, speed: float, wait: bool) -> None:
    from ...policies.trace_reading import trace_text
    from .live import play

    _read(data, name)
    text, _ = trace_text(data, name)
    with settings.client() as client:
        play(client, name, text, speed, wait)


def _offline(
    settings: Settings, trace: Trace, policies: tuple[str, ...], resolutions: tuple[int, ...], terms: ReplayTerms
) -> tuple[ReplayResult, ...]:
    from ...policies.replay import replay as decide_over
    from .policy import preset_or_file

    chosen = [preset_or_file(policy) for policy in policies]
    if not terms.measured:
        return decide_over(trace, chosen, _pixel_ladder(resolutions), terms=terms)
    ladders, training, threads = _measured(settings)
    return decide_over(trace, chosen, ladders, training, terms=terms.model_copy(update={"threads": threads}))


def _measured(settings: Settings) -> tuple[dict[str, Ladder], TrainingSituation | None, float]:
    """The daemon's ladders, what training costs there where that has been measured, and the threads of predictions."""
    from ...policies.training_costs import TrainingSituation

    with settings.client() as client:
        found = {view.spec.name: view.ladder for view in client.tasks().tasks if view.ladder is not None}
        costs = next((each.costs for each in client.training_profile().measured), None)
        workers = client.status().workers
    if not found:
        raise ConflictError("No task of the daemon can answer yet.", hint="Train one, or leave --measured out.")
    unmeasured = sorted(n for n, ladder in found.items() if any(rung.cost_ms is None for rung in ladder.rungs))
    if unmeasured:
        raise ConflictError(
            f"What a prediction costs has not been measured for task '{unmeasured[0]}'.",
            hint="Run `patchctl profile --run`, or leave --measured out.",
        )
    threads = next((worker.threads for worker in workers if worker.name == "inference" and worker.threads), 1)
    return found, None if costs is None else TrainingSituation(costs=costs), float(threads)


def _pixel_ladder(resolutions: tuple[int, ...]) -> dict[str, Ladder]:
    from ...policies.decision import Ladder, Rung

    return {"any task": Ladder(task="any task", rungs=tuple(Rung(resolution=side) for side in resolutions))}


def trace_source(trace: str) -> tuple[str, bytes]:
    """Name and bytes of a trace: a file, or one that ships with patchd. Raises TraceError or NotFoundError."""
    file = Path(trace)
    if "/" in trace or trace.endswith((".jsonl", ".gz")) or file.is_file():
        try:
            return str(file), file.read_bytes()
        except OSError as error:
            raise TraceError(f"{file}: cannot be read: {error.strerror}.") from error
    from ...policies.presets_loader import trace_text

    return trace, trace_text(trace).encode()
