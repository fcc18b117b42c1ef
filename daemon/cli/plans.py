"""A job's training plans, as text: the one in force with those refused, and what plans took that have run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import render

if TYPE_CHECKING:
    from ..api.schemas import JobView
    from ..training_records import PlanReport


def plans_text(job: JobView) -> str:
    """Nothing for a job that has no plan now and has run none."""
    parts = []
    if job.plan is not None:
        told = (f"{job.plan.text}.", *(f"  {candidate.verdict}." for candidate in job.plan.candidates))
        parts += [render.heading("Plan"), render.sentences(told)]
    if job.plans_run:
        parts += [render.heading("Plans that ran, a step of each: predicted, then measured"), _table(job.plans_run)]
    return "".join("\n" + part for part in parts)


def _table(reports: tuple[PlanReport, ...]) -> str:
    from ...policies.training_words import plan_in_words

    rows = [
        (
            str(report.steps),
            f"{_number(report.predicted_step_ms)} / {report.measured_step_ms:.1f}",
            f"{report.time_factor:.2f}",
            f"{_megabytes(report.predicted_bytes)} / {_megabytes(report.measured_bytes)}",
            f"{report.memory_factor:.2f}",
            _share(report),
            plan_in_words(report.plan),
        )
        for report in reports
    ]
    header = ("steps", "ms", "x", "MB", "x", "of full", "plan")
    return render.table(header, rows, right=(0, 1, 2, 3, 4, 5))


def _share(report: PlanReport) -> str:
    """A step as measured over a full fine-tuning step as predicted."""
    return render.ABSENT if not report.full_step_ms else f"{report.measured_step_ms / report.full_step_ms:.2f}"


def _number(value: float | None) -> str:
    return render.ABSENT if value is None else f"{value:.1f}"


def _megabytes(size: int | None) -> str:
    return render.ABSENT if size is None else f"{size / 1e6:.0f}"
