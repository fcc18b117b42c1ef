"""From trained tensors to a patch file and what a job tells of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...policies.task import (
    Evaluation,
    Options,
    PatchKind,
    PatchMetadata,
    RungResult,
    TaskSpec,
    TrainingRecord,
    TrainSpec,
)
from ..bases import Base
from ..patches import Patch, save_patch
from .checkpoint import Finished, Position
from .optimiser import LEARNING_RATES


@dataclass(frozen=True, eq=False)
class Trained:
    """A rung whose training has ended: its tensors, and how good it is on each part."""

    base: Base  # that the patch belongs to
    task: TaskSpec
    resolution: int
    kinds: tuple[PatchKind, ...]
    counts: Mapping[PatchKind, int]
    tensors: Mapping[str, Tensor]
    scores: Mapping[str, Evaluation]  # by part: validation, and test where there is one
    train_samples: int
    options: Options
    examples: int = 0  # those of the training images that applications handed over
    validation_digest: str = ""  # `PartInputs.digest` of the validation part
    rival_id: str | None = None  # the patch in force, if any, and the score of what is on the same validation images
    rival: Evaluation | None = None


def save_trained(rung: Trained, spec: TrainSpec, at: Position, job_id: str, directory: Path) -> Finished:
    """Write the patch of a rung that was trained as `spec` asks and `at` tells. Raises StateError."""
    parameters = sum(rung.counts.values())
    metadata = PatchMetadata(
        base=rung.base.name,
        base_hash=rung.base.hash,
        task=rung.task.name,
        labels=rung.task.labels,
        kinds=rung.kinds,
        resolution=rung.resolution,
        preprocessing=rung.task.preprocessing,
        options=rung.options,
        parameters=parameters,
        parameters_by_kind=dict(rung.counts),
        base_parameters=rung.base.parameters_count,
        training=_record(rung, spec, at, job_id),
        created_s=time.time(),
    )
    patch_id, path = save_patch(Patch(metadata, rung.tensors), directory)
    result = RungResult(
        resolution=rung.resolution,
        patch_id=patch_id,
        parameters=parameters,
        share=parameters / rung.base.parameters_count,
        bytes=path.stat().st_size,
        validation=rung.scores["validation"],
        test=rung.scores.get("test"),
        seconds=at.seconds,
        rival_id=rung.rival_id,
        rival=rung.rival,
    )
    return Finished(result=result, metadata=metadata)


def _record(rung: Trained, spec: TrainSpec, at: Position, job_id: str) -> TrainingRecord:
    course = at.course
    rate = spec.learning_rate or max(LEARNING_RATES[kind] for kind in spec.kinds)
    return TrainingRecord(
        job_id=job_id,
        kinds=spec.kinds if at.fraction == 0 else (*spec.kinds, PatchKind.BASE_FRACTION),
        epochs=len(course.curve) or spec.epochs,
        steps=course.step,
        train_samples=rung.train_samples,
        examples=rung.examples,
        seed=spec.seed,
        learning_rate=rate * course.rate,
        batch_size=spec.batch_size,
        seconds=at.seconds,
        reach=at.reach,
        fraction=at.fraction,
        precision=at.precision or spec.precision,
        final_loss=course.loss,
        best_epoch=None if spec.patience is None or course.best is None else course.best.epoch,
        validation_digest=rung.validation_digest,
        validation=rung.scores["validation"],
        test=rung.scores.get("test"),
        teacher=spec.teacher,
    )
