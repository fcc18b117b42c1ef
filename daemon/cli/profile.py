"""`patchctl profile`: the measured costs of predicting and of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ...client.daemon_methods import WORK_TIMEOUT_S
from . import render
from .common import Settings, Sides, json_option, pass_settings, print_body

if TYPE_CHECKING:
    from ..api.schemas import Profile


@click.command(
    epilog=(
        "\b\nExamples:\n  patchctl profile\n  patchctl profile --run --base lite0 --resolutions 224,96\n"
        "  patchctl profile --training\n  patchctl profile --training --run --base lite0 --resolutions 128,96"
    )
)
@click.option("--training", is_flag=True, help="What training costs, part by part: a measurement takes under a minute.")
@click.option("--run", is_flag=True, help="Measure now, instead of showing what was measured last.")
@click.option("--base", metavar="B", help="Measure this base.  [default: lite0]")
@click.option("--resolutions", type=Sides(), metavar="PX,PX", help="Measure these sides.  [default: those in use]")
@click.option("--repeats", type=click.IntRange(1, 200), help="Images for each measurement.  [default: 15]")
@json_option
@pass_settings
def profile(
    settings: Settings,
    training: bool,
    run: bool,
    base: str | None,
    resolutions: tuple[int, ...] | None,
    repeats: int | None,
    as_json: bool,
) -> None:
    """Show what one image costs at each resolution, by calibration and in the requests served."""
    if training and repeats:
        raise click.UsageError("--repeats is for predictions: what training costs is measured as often as time allows.")
    if not run and (base or resolutions or repeats):
        raise click.UsageError("--base, --resolutions and --repeats say what to measure; add --run.")
    if training:
        _training(settings, run, base, resolutions, as_json)
        return
    with settings.client() as client:
        if not run:
            if as_json:
                print_body(client.request("GET", "/v1/profile"))
            else:
                click.echo(profile_text(client.profile()))
            return
        from ..api.schemas import ProfileRun

        asked = {"base": base, "resolutions": resolutions, "repeats": repeats}
        body = ProfileRun.model_validate({key: value for key, value in asked.items() if value is not None})
        if as_json:
            sent = body.model_dump_json().encode()
            print_body(client.request("POST", "/v1/profile", body=sent, timeout_s=WORK_TIMEOUT_S))
        else:
            click.echo(profile_text(client.run_profile(body)))


def _training(
    settings: Settings, run: bool, base: str | None, resolutions: tuple[int, ...] | None, as_json: bool
) -> None:
    from .training_costs import costs_text

    with settings.client() as client:
        if not run:
            if as_json:
                print_body(client.request("GET", "/v1/profile/training"))
            else:
                click.echo(costs_text(client.training_profile()))
            return
        from ..api.schemas import TrainingProfileRun

        asked = {"base": base, "resolutions": resolutions}
        body = TrainingProfileRun.model_validate({key: value for key, value in asked.items() if value is not None})
        if as_json:
            sent = body.model_dump_json().encode()
            print_body(client.request("POST", "/v1/profile/training", body=sent, timeout_s=WORK_TIMEOUT_S))
        else:
            click.echo(costs_text(client.run_training_profile(body)))


def profile_text(measured: Profile) -> str:
    """The measured costs, as text."""
    if not measured.costs and not measured.requests:
        return "Nothing has been measured yet: predict something, or measure with `patchctl profile --run`."
    parts: list[str] = []
    if measured.costs:
        rows = [
            (
                cost.base,
                f"{cost.resolution} px",
                render.milliseconds(cost.median_ms),
                render.milliseconds(cost.p90_ms),
                str(cost.samples),
                render.clock(cost.measured_s),
                cost.engine,
            )
            for cost in measured.costs
        ]
        header = ("base", "input", "median", "p90", "images", "measured", "engine")
        parts += [
            click.style("One image, by calibration", bold=True, underline=True),
            render.table(header, rows, right=(1, 2, 3, 4)),
        ]
    if measured.requests:
        rows_served = [
            (
                latency.task,
                latency.base,
                f"{latency.resolution} px",
                render.milliseconds(latency.p50_ms),
                render.milliseconds(latency.p99_ms),
                render.milliseconds(latency.network_p50_ms),
                str(latency.samples),
            )
            for latency in measured.requests
        ]
        header_served = ("task", "base", "input", "p50", "p99", "network p50", "requests")
        parts += [
            render.heading("The last requests, from the last byte in to the answer"),
            render.table(header_served, rows_served, right=(2, 3, 4, 5, 6)),
        ]
    return "\n".join(parts)
