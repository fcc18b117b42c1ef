"""The curve of a training job: loss and validation accuracy over its steps, never more than so many points. Pure."""

from __future__ import annotations

from pydantic import Field

from .snapshot import Frozen
from .task import JobProgress, MemberProgress

MOST_POINTS = 500
AIM_POINTS = 250  # of a job of known length; early points are as dense as late ones


class CurvePoint(Frozen):
    """Where a job stood at a moment."""

    time_s: float = Field(description="Unix time")
    rung: int = Field(ge=0, description="rungs that were done before")
    resolution: int = Field(description="of the rung in hand, pixels")
    epoch: int = Field(ge=0, description="epochs of this rung that are done")
    step: int = Field(ge=0, description="steps done in this rung")
    loss: float | None = Field(None, description="mean over the images of the last step")
    validation: float | None = Field(None, ge=0, le=1, description="top-1 on the validation part after the last epoch")
    members: tuple[MemberProgress, ...] = Field((), description="of a job of several tasks: loss and gradient of each")


def point_of(progress: JobProgress, time_s: float) -> CurvePoint | None:
    """What a report of progress adds to the curve; None before the first step."""
    if progress.loss is None or progress.step == 0:
        return None
    return CurvePoint(
        time_s=time_s,
        rung=progress.rung,
        resolution=progress.resolution,
        epoch=progress.epoch,
        step=progress.step,
        loss=progress.loss,
        validation=progress.validation,
        members=progress.members,
    )


def spacing(progress: JobProgress) -> int:
    """Steps between two points of a rung's curve."""
    return max(1, progress.rungs * progress.steps // AIM_POINTS)


def extended(points: tuple[CurvePoint, ...], new: CurvePoint, apart: int) -> tuple[CurvePoint, ...]:
    """The curve with one more point, which is always its end.

    Points that a job has gone back behind, to its last checkpoint or good epoch, are taken out; the last point gives
    way while it is nearer than `apart` steps to the one before it. Beyond `MOST_POINTS` every second one goes.
    """
    kept = [p for p in points if p.rung < new.rung or (p.rung == new.rung and p.step < new.step)]
    if len(kept) >= 2 and kept[-2].rung == kept[-1].rung == new.rung and kept[-1].step - kept[-2].step < apart:
        kept.pop()
    kept.append(new)
    return tuple(kept) if len(kept) <= MOST_POINTS else _thinned(kept)


def _thinned(points: list[CurvePoint]) -> tuple[CurvePoint, ...]:
    """Every second point of each rung, its last one always."""
    kept = []
    for index, point in enumerate(points):
        last = index == len(points) - 1 or points[index + 1].rung != point.rung
        if last or index % 2 == 0:
            kept.append(point)
    return tuple(kept) if len(kept) <= MOST_POINTS else tuple(kept[-MOST_POINTS:])
