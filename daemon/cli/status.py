"""`patchctl status` and `openapi`: what patchd sees and what it decided."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import render
from .common import Settings, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ...policies.decision import AllocationDecision, RungDecision
    from ...policies.snapshot import Snapshot
    from ..api.example_schemas import ExampleSummary
    from ..api.sampling_schemas import SamplingState
    from ..api.schemas import PolicyState, Status, WorkerStatus


@click.command(
    epilog="\b\nExamples:\n  patchctl status\n  patchctl status --json | jq .decision.inference.value",
)
@json_option
@pass_settings
def status(settings: Settings, as_json: bool) -> None:
    """Show the daemon at a glance: device, allocations, chosen rungs, workers."""
    with settings.client() as client:
        if as_json:
            print_body(client.request("GET", "/v1/status"))
            return
        click.echo(status_text(client.status()))


@click.command(epilog="\b\nExample:\n  patchctl openapi > openapi.json")
@pass_settings
def openapi(settings: Settings) -> None:
    """Print the OpenAPI document of the daemon's local API."""
    with settings.client() as client:
        print_body(client.request("GET", "/v1/openapi.json"))


def status_text(state: Status) -> str:
    """The daemon at a glance, as text."""
    pairs = [
        ("patchd", f"{state.version}, process {state.pid}, up {render.duration(state.now_s - state.started_s)}"),
        ("socket", state.socket),
        *([("listen", state.listen)] if state.listen else []),
        ("state", state.state_dir),
        ("policy", policy_line(state.policy)),
    ]
    if state.policy.error:
        pairs.append(("", click.style(f"newer version refused: {state.policy.error}", fg="red")))
    if state.trace:
        pairs.append(("trace", f"{state.trace} is being replayed in place of the device"))
    pairs.append(("device", device_line(state.snapshot) if state.snapshot else "not sampled yet"))
    if state.sampling is not None:
        pairs.append(("sampling", sampling_line(state.sampling)))
    if state.decision:
        pairs.append(("inference", allocation_line(state.decision.inference)))
        if state.decision.slowdown is not None and state.decision.slowed_by > 1:
            pairs.append(("", state.decision.slowdown.text))
        pairs.append(("training", allocation_line(state.decision.training)))
        pairs.append(("", state.decision.times.text or state.decision.plan.text))
    else:
        pairs.append(("decision", "none yet"))
    pairs.extend(("" if i else "workers", worker_line(worker)) for i, worker in enumerate(state.workers))
    pairs.append(
        ("served", f"{state.requests_total} requests, {state.tasks} tasks, {state.jobs_active} active training jobs")
    )
    if state.examples.consent or state.examples.images:
        pairs.append(("examples", examples_line(state.examples)))
    parts = [render.fields(pairs)]
    if state.decision and state.decision.rungs:
        parts += [render.heading("Rungs in force"), rungs_table(state.decision.rungs)]
    return "\n".join(parts)


def examples_line(held: ExampleSummary) -> str:
    """What applications handed over, and whether training may use it."""
    used = "used for training" if held.consent else "not used: the policy gives no consent"
    return f"{held.images} images of {render.bytes_(held.bytes)}, {used}"


def sampling_line(sampling: SamplingState) -> str:
    """How often the device is looked at, and what makes patchd look at once."""
    told = [source.name for source in sampling.sources if source.absent is None]
    at_once = f"; at once on {', '.join(told)}" if told else ""
    return f"every {sampling.period_s:g} s: {sampling.why}{at_once}"


def policy_line(state: PolicyState) -> str:
    """The policy's name, where it comes from and since when it is in force."""
    source = "" if state.source == f"preset:{state.name}" else f", {state.source}"
    return f"{state.name}{source or ', a preset'}, loaded {render.clock(state.loaded_s)}"


def device_line(seen: Snapshot) -> str:
    """The snapshot in one sentence; what the machine lacks is left out."""
    parts: list[str] = []
    if seen.cpu.busy is not None:
        parts.append(f"processors {render.percent(seen.cpu.busy)} busy of {seen.cpu.cores:g}")
    if seen.memory is not None:
        free, total = render.bytes_(seen.memory.available_bytes), render.bytes_(seen.memory.total_bytes)
        where = "" if seen.memory.limited_by == "machine" else f" ({seen.memory.limited_by})"
        parts.append(f"memory {free} free of {total}{where}")
    if seen.power.battery_charge is not None:
        parts.append(f"battery {render.percent(seen.power.battery_charge)}")
    if seen.power.on_mains is not None:
        parts.append("on mains" if seen.power.on_mains else "on battery")
    if seen.temperatures:
        parts.append(f"{max(sensor.celsius for sensor in seen.temperatures):.0f} °C")
    if seen.pressure.cpu is not None and seen.pressure.cpu.some_avg10 >= 0.01:
        parts.append(f"processor stall {render.percent(seen.pressure.cpu.some_avg10)}")
    if seen.pressure.memory is not None and seen.pressure.memory.some_avg10 >= 0.01:
        parts.append(f"memory stall {render.percent(seen.pressure.memory.some_avg10)}")
    if seen.source != "device":
        parts.append(f"source {seen.source}")
    return ", ".join(parts)


def allocation_line(decision: AllocationDecision) -> str:
    """The value of an allocation with the reason that decides; `explain` tells the others."""
    held = "" if decision.value == decision.target else f" (rules ask for {decision.target:.2f})"
    return f"{decision.value:.2f}{held}" + (f": {decision.reasons[0].text}" if decision.reasons else "")


def worker_line(worker: WorkerStatus) -> str:
    """One worker's state, engine and memory."""
    parts = [f"{worker.name} {worker.state}" + (f" ({worker.reason})" if worker.reason else "")]
    if worker.pid is not None:
        parts.append(f"process {worker.pid}")
    if worker.engine:
        parts.append(worker.engine)
    if worker.threads:
        parts.append("1 thread" if worker.threads == 1 else f"{worker.threads} threads")
    if worker.resident_bytes is not None:
        parts.append(render.bytes_(worker.resident_bytes))
    if worker.in_flight:
        parts.append(f"{worker.in_flight} in flight")
    if worker.restarts:
        parts.append(f"{worker.restarts} restarts")
    return ", ".join(parts)


def rungs_table(rungs: tuple[RungDecision, ...]) -> str:
    """The rung that answers each task now."""
    rows = []
    for decision in rungs:
        chosen = next((c for c in decision.candidates if c.chosen), None)
        rows.append(
            (
                decision.task,
                f"{decision.resolution} px",
                render.short(decision.patch_id) if decision.patch_id else "base",
                _cost(chosen.cost_ms, chosen.estimated) if chosen else render.ABSENT,
                render.milliseconds(decision.budget_ms),
                render.percent(chosen.rung.accuracy if chosen else None, 1),
            )
        )
    return render.table(("task", "input", "patch", "cost", "budget", "accuracy"), rows, right=(1, 3, 4, 5))


def _cost(cost_ms: float, estimated: bool) -> str:
    return ("~" if estimated else "") + render.milliseconds(cost_ms)
