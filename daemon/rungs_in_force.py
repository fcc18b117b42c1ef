"""Which patch answers at each rung, what it is compared with, and what was there before it."""

from __future__ import annotations

import time
from typing import Any

from ..policies.errors import ConflictError, NotFoundError
from ..policies.labels import imagenet_labels
from ..policies.publishing import Standing
from ..policies.task import Measure, PatchMetadata, TaskSpec, TrainingRecord
from .api.schemas import RungRollback
from .store import Store
from .workers.protocol import InForce

_StepBack = tuple[int | None, dict[str, Any] | None, RungRollback]  # entry to take back, row to put in force, both told


def answers_bare(spec: TaskSpec) -> bool:
    """Whether the bases as they are can answer a task: it has their own labels."""
    return spec.builtin or spec.labels == imagenet_labels()


class RungsInForce:
    """Owns the tables of rungs and of their history."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def standing(self, spec: TaskSpec, base: str, resolution: int) -> Standing | None:
        """What is in force at a rung; None where nothing is."""
        row = self._row(spec.name, base, resolution)
        if row is None:
            return Standing() if answers_bare(spec) else None
        stored = self._store.patches_starting(row["patch_id"])
        metadata: PatchMetadata | None = stored[0]["metadata"] if stored else None
        record = None if metadata is None else metadata.training
        return Standing(
            patch_id=row["patch_id"],
            validation=row["validation"],
            digest="" if record is None else record.validation_digest,
            parameters=0 if metadata is None else metadata.parameters,
        )

    def _row(self, task: str, base: str, resolution: int) -> dict[str, Any] | None:
        rows = self._store.rungs(task)
        return next((row for row in rows if (row["base"], row["resolution"]) == (base, resolution)), None)

    def put(self, task: str, patch_id: str, metadata: PatchMetadata) -> None:
        """Put a patch in force, above what is there."""
        record = metadata.training
        test = None if record is None else record.test
        self._store.put_rung(
            {
                "task": task,
                "base": metadata.base,
                "resolution": metadata.resolution,
                "patch_id": patch_id,
                "accuracy": None if test is None else test.accuracy,
                "accuracy_samples": None if test is None else test.samples,
                "validation": _accuracy(record),
                "since_s": time.time(),
            }
        )

    def told(self, spec: TaskSpec, base: str) -> tuple[InForce, ...]:
        """What answers at each rung of `base`, as the training worker is told."""
        patches = {row["resolution"]: row["patch_id"] for row in self._store.rungs(spec.name) if row["base"] == base}
        bare = [side for side in spec.bases.get(base, ()) if side not in patches] if answers_bare(spec) else []
        return (
            *(InForce(resolution=side, file=str(self._store.patch_file(own))) for side, own in patches.items()),
            *(InForce(resolution=side) for side in bare),
        )

    def roll_back(self, spec: TaskSpec, base: str, resolution: int | None) -> tuple[RungRollback, ...]:
        """Put what was in force before in force again: at one rung, or at all of a base that have something before.

        Where no patch was before, the base as it is answers, if the task has its labels. Raises NotFoundError for an
        unknown rung, ConflictError where there is nothing to go back to.
        """
        sides = spec.bases.get(base)
        if sides is None or (resolution is not None and resolution not in sides):
            at = "" if resolution is None or sides is None else f" at {resolution} px"
            raise NotFoundError(
                f"Task '{spec.name}' has no rung of base '{base}'{at}.",
                hint=f"`patchctl task show {spec.name}` shows its rungs.",
            )
        wanted = sides if resolution is None else (resolution,)
        found = [step for step in (self._step_back(spec, base, side) for side in wanted) if step is not None]
        if not found:
            where = "at any rung" if resolution is None else f"at {resolution} px"
            raise ConflictError(
                f"Task '{spec.name}' has no earlier patch of {base} {where} to go back to.",
                hint=f"`patchctl patch list --task {spec.name}` shows its patches.",
            )
        with self._store.transaction():
            for entry, row, told in found:
                self._store.roll_back_rung(entry, row, task=spec.name, base=base, resolution=told.resolution)
        return tuple(told for _, _, told in found)

    def _step_back(self, spec: TaskSpec, base: str, side: int) -> _StepBack | None:
        row = self._row(spec.name, base, side)
        now = None if row is None else row["patch_id"]
        history = self._store.rung_history(spec.name, base, side)
        entry = history.pop()["id"] if history and history[-1]["patch_id"] == now else None
        before = history[-1] if history else None
        if before is None and (now is None or not answers_bare(spec)):
            return None
        patch_id = None if before is None else before["patch_id"]
        return entry, before, RungRollback(base=base, resolution=side, patch_id=patch_id, taken_back=now)


def _accuracy(record: TrainingRecord | None) -> float | None:
    """On validation images with labels: agreement with a teacher is another figure, and compares with none."""
    if record is None or record.validation.measure is not Measure.ACCURACY:
        return None
    return record.validation.accuracy
