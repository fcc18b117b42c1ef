"""What memory and disk a training job may take: from the policy and what the device has, in steps that hold still."""

from __future__ import annotations

import math

from .decision import TrainingPlan
from .policy_tables import Training
from .snapshot import Frozen, Snapshot
from .training_costs import PlanLimits

STEP = 1.25  # between two caps: a plan changes when memory does, not with every page
WORKER_BYTES = 420 << 20  # a training worker with torch, a base and decoded images, before its first step
DISK_RESERVE_BYTES = 512 << 20  # always left free beside the state
LOWERINGS = (0.6, 0.75, 0.9)  # of what a step was to take when memory ran out
FIRST_CAP_BYTES = 512 << 20  # where nothing had been predicted
_MIB = 1 << 20


class TrainingRoom(Frozen):
    """Room for a step's memory and for kept features, bytes; None where nothing caps it.

    `available_bytes` and `free_bytes` are the marks that the device's own room is held at.
    """

    available_bytes: int | None = None
    free_bytes: int | None = None
    memory_bytes: int | None = None
    disk_bytes: int = 0

    @property
    def limits(self) -> PlanLimits:
        """As the planner takes them; what the policy alone says is put in by `decide`."""
        return PlanLimits(memory_bytes=self.memory_bytes, disk_bytes=self.disk_bytes)


def room(policy: Training, snapshot: Snapshot | None, kept_bytes: int, before: TrainingRoom | None) -> TrainingRoom:
    """The room there is. `kept_bytes` are those of features that the job has on disk: they count as its own.

    What the training worker takes now counts as free for it, so that a step does not push out the next one.
    """
    memory: int | None = None
    disk = quota = int(policy.features_bytes)
    if snapshot is not None and snapshot.memory is not None:
        own = sum(worker.resident_bytes for worker in snapshot.workers if worker.name == "training")
        free = snapshot.memory.available_bytes + own
        memory = held(
            max(0, int(policy.memory_share * free) - WORKER_BYTES), None if before is None else before.available_bytes
        )
    if snapshot is not None and snapshot.disk is not None:
        disk = held(
            max(0, snapshot.disk.free_bytes + kept_bytes - DISK_RESERVE_BYTES),
            None if before is None else before.free_bytes,
        )
    caps = [cap for cap in (memory, policy.memory_bytes) if cap is not None]
    return TrainingRoom(
        available_bytes=memory,
        free_bytes=disk,
        memory_bytes=int(min(caps)) if caps else None,
        disk_bytes=min(quota, disk),
    )


def lowered(plan: TrainingPlan, cap: int | None) -> tuple[int, ...]:
    """Caps on a step's memory after it ran out under `plan`, bytes: the first with a plan within it is to be taken.

    `cap` is the one so far. Whatever made the prediction wrong, or memory short, the next plan has to be smaller.
    """
    known = [value for value in (plan.memory_bytes, cap) if value is not None]
    return tuple(int(share * min(known, default=FIRST_CAP_BYTES)) for share in LOWERINGS)


def held(value: int, before: int | None) -> int:
    """`value` rounded down to a grid of ratio `STEP`; the mark before it is held while it is no more than half
    a step away from being right, upwards only: a mark is never above what there is.
    """
    if value < _MIB:
        return 0
    mark = int(_MIB * STEP ** math.floor(math.log(value / _MIB, STEP) + 1e-9))
    if before is not None and before <= value < before * STEP * math.sqrt(STEP):
        return before
    return mark
