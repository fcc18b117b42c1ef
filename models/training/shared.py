"""Several tasks train one base at once: each its private patch, all of them the base's unfrozen parameters.

A step runs one batch of every member, a task at a resolution. Each member's own parameters follow its own gradient. For
the shared ones the members' gradients are each scaled to length one, then averaged.

The rule keeps the tasks' steps comparable: how large a task's loss is, or how steep, changes nothing of the shared
step, only its direction counts. It is what GradNorm (Chen et al., ICML 2018, arXiv 1711.02257) strives for with its
asymmetry parameter at 0, all tasks' gradient norms pinned to one value, here met exactly at each step instead of by
learned loss weights. That value is one and not the mean norm, for the mean would follow the largest; Adam makes the
length of the average indifferent. A task that has learned its images keeps its vote, which the cosine of the rates
fades out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ...policies.decision import TrainingPlan
from ...policies.task import PatchKind, TaskSpec, TrainSpec
from ..bases import Base
from ..patches.shapes import copy_of
from .features import FeatureStore
from .inputs import PartInputs
from .objective import Objective
from .optimiser import LEARNING_RATES, NamedAdam
from .rung import NotFiniteError, RungTraining, StepReport

SHARED = "base"  # stands in a checkpoint where the others have the member's index
SMOOTHED = 0.1  # weight of the newest gradient norm in what is reported


class SharedParameters:
    """The base's unfrozen parameters, with one optimiser, and the members' gradients of the step in hand."""

    def __init__(self, base: Base, rate: float, restored: Mapping[str, Tensor]) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self._base, self._rate = base, rate
        self._optimiser = NamedAdam()
        self._sum: dict[str, Tensor] = {}
        self._members = 0
        for name in sorted(key[2:] for key in restored if key.startswith("p.")):
            self.unfreeze(name)
        self._optimiser.restore(restored)

    def unfreeze(self, name: str) -> nn.Parameter:
        """The parameter of that name, a copy of the base's the first time. Wants no patch bound."""
        if name not in self.parameters:
            parameter = nn.Parameter(copy_of(self._base.network, name), requires_grad=False)
            self.parameters[name] = parameter
            self._optimiser.add(name, parameter, self._rate)
        return self.parameters[name]

    def clear(self) -> None:
        """Before the first member of a step."""
        self._sum.clear()
        self._members = 0
        self._optimiser.clear_gradients()

    def collect(self) -> float:
        """Take the gradient that a member's backward pass has left, scaled to length one; its own length comes back.

        A member whose gradient is zero adds nothing. The length is not finite where the gradient is not.
        """
        held = [(name, self.parameters[name]) for name in sorted(self.parameters)]  # in whatever order they were added
        gradients = {name: parameter.grad for name, parameter in held if parameter.grad is not None}
        norm = float(get_total_norm(gradients.values())) if gradients else 0.0
        self._members += 1
        if 0.0 < norm < math.inf:
            for name, gradient in gradients.items():
                scaled = gradient / self.divisor(norm)
                self._sum[name] = self._sum[name].add_(scaled) if name in self._sum else scaled
        self._optimiser.clear_gradients()
        return norm

    def divisor(self, norm: float) -> float:
        """What a member's gradient of length `norm` is divided by: the rule."""
        return norm

    def step(self, number: int, total: int, rate: float) -> float:
        """Move along the average of what was collected, as `NamedAdam.step`."""
        for name, gradient in self._sum.items():
            self.parameters[name].grad = gradient / self._members
        share = self._optimiser.step(number, total, rate) if self.parameters else 0.0
        self.clear()
        return share

    def state(self) -> dict[str, Tensor]:
        """As `NamedAdam.state`."""
        return self._optimiser.state()


class Member(RungTraining):
    """One task at one resolution: its private patch, on a base whose unfrozen parameters are everybody's."""

    def __init__(
        self,
        base: Base,
        task: TaskSpec,
        spec: TrainSpec,
        inputs: PartInputs,
        restored: Mapping[str, Tensor],
        store: FeatureStore,
        shared: SharedParameters,
        objective: Objective | None = None,
    ) -> None:
        """As `RungTraining`; `restored` holds the private parameters alone."""
        self.task, self.shared = task, shared
        super().__init__(base, task, spec, inputs, restored, store, objective)
        for name in shared.parameters:
            self._share(name)

    def _add(self, name: str, kind: PatchKind, start: Tensor) -> None:
        if kind is PatchKind.BASE_FRACTION:
            self._share(name)
        else:
            super()._add(name, kind, start)

    def _share(self, name: str) -> None:
        """Have a shared parameter in the base's place."""
        self._parameters[name] = self.shared.unfreeze(name)
        self._kind_of[name], self._unit_of[name] = PatchKind.BASE_FRACTION, self._unit(name)

    def private(self) -> dict[str, nn.Parameter]:
        """The parameters of the patch by name."""
        return {name: parameter for name, parameter in self._parameters.items() if name in self._own}

    def patch_tensors(self) -> dict[str, Tensor]:
        """All tensors of the private patch."""
        return {**self._constant, **{name: value.detach().clone() for name, value in self.private().items()}}

    def counts(self) -> dict[PatchKind, int]:
        """Numbers in the private patch that an optimiser may move, kind by kind."""
        counts = super().counts()
        counts.pop(PatchKind.BASE_FRACTION, None)
        return counts

    @property
    def unfreezes(self) -> bool:
        """Never: what is unfrozen goes into a version of the base."""
        return False


@dataclass(frozen=True, slots=True)
class MemberParts:
    """What a member is made of: its task, its training images at its resolution, and a place to keep features."""

    task: TaskSpec
    inputs: PartInputs
    store: FeatureStore
    objective: Objective | None = None


class SharedRung:
    """All members together: what `SliceLoop` trains as one. Evaluating and making patches is each member's own."""

    rule: ClassVar[type[SharedParameters]] = SharedParameters  # how gradients on the base are combined
    kept_from: int | None = None  # each member has its own

    def __init__(
        self,
        base: Base,
        spec: TrainSpec,
        parts: Sequence[MemberParts],
        restored: Mapping[str, Tensor],
        total: int,
    ) -> None:
        """Begin, or go on where `restored` holds what `state` gave. `total` counts the steps of the whole job."""
        rate = spec.learning_rate or LEARNING_RATES[PatchKind.BASE_FRACTION]
        self.shared = self.rule(base, rate, _of(restored, SHARED))
        self.members = tuple(
            Member(
                base, part.task, spec, part.inputs, _of(restored, str(index)), part.store, self.shared, part.objective
            )
            for index, part in enumerate(parts)
        )
        self._total = total
        for member in self.members:
            member.order.total = total
        self.resolution = max(member.resolution for member in self.members)
        self.samples_per_s: float | None = None
        self.norms: list[float | None] = [None] * len(self.members)  # smoothed lengths of gradients on the base
        self.losses: list[float | None] = [None] * len(self.members)  # of the last step

    # one network, one member at a time

    def use(self, member: Member) -> Member:
        """Bind a member's patch in place of the one that is bound."""
        self.close()
        member.bind()
        return member

    def close(self) -> None:
        """Give the base back as it was."""
        for member in self.members:
            member.close()

    def follow(self, plan: TrainingPlan) -> None:
        """Let `plan` decide what trains, of the base and of every patch."""
        for member in self.members:
            self.close()
            member.follow(plan)

    @property
    def unfreezes(self) -> bool:
        """Whether the plan in force lets anything of the base train."""
        return any(parameter.requires_grad for parameter in self.shared.parameters.values())

    # steps

    def size(self, number: int) -> int:
        """How many images step `number` takes, of all members."""
        return sum(member.size(number) for member in self.members)

    def step(self, number: int, rate: float = 1.0) -> StepReport:
        """One optimiser step of every member and of the base; the loss is the mean of theirs.

        Raises NotFiniteError when a loss or a gradient is no longer a number; then nothing of the base has moved.
        """
        began = time.perf_counter()
        self.shared.clear()
        reports = []
        for index, member in enumerate(self.members):
            reports.append(self.use(member).step(number, rate))
            norm = self.shared.collect()
            if not math.isfinite(norm):
                raise NotFiniteError(
                    f"The gradients of task '{member.task.name}' on the base became {norm} at step {number + 1}"
                )
            before = self.norms[index]
            self.norms[index] = norm if before is None else (1 - SMOOTHED) * before + SMOOTHED * norm
            self.losses[index] = reports[-1].loss
        share = self.shared.step(number, self._total, rate)
        samples, seconds = sum(report.samples for report in reports), time.perf_counter() - began
        speed = samples / max(1e-9, seconds)
        self.samples_per_s = speed if self.samples_per_s is None else 0.9 * self.samples_per_s + 0.1 * speed
        return StepReport(math.fsum(report.loss for report in reports) / len(reports), samples, seconds, share)

    def check_finite(self) -> None:
        """Raises NotFiniteError naming the first trained tensor that holds a value that is not a number."""
        for member in self.members:
            member.check_finite()

    # what a checkpoint holds: private names after the member's index, shared ones after SHARED

    def state(self) -> dict[str, Tensor]:
        """As `RungTraining.state`, of all members and of the base."""
        owners: list[tuple[str, Member | SharedParameters]] = [(SHARED, self.shared)]
        owners += [(str(index), member) for index, member in enumerate(self.members)]
        return {_joined(owner, key): tensor for owner, part in owners for key, tensor in part.state().items()}

    def values(self) -> dict[str, Tensor]:
        """Copies of all parameters."""
        return {name: parameter.detach().clone() for name, parameter in self._named()}

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Give the parameters the `values` that they had once; those that there were none of go back to the base's."""
        self.close()
        shared = {name: values.get(f"{SHARED}/{name}") for name in self.shared.parameters}
        for index, member in enumerate(self.members):
            own = {name: values[f"{index}/{name}"] for name in member.private()}
            member.take(own | {name: value for name, value in shared.items() if value is not None})
            member.close()

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in self.shared.parameters.items():
            yield f"{SHARED}/{name}", parameter
        for index, member in enumerate(self.members):
            for name, parameter in member.private().items():
                yield f"{index}/{name}", parameter


def _joined(owner: str, key: str) -> str:
    """`p.NAME` or `o.FIELD.NAME` with the owner before the name."""
    prefix, name = _parted(key)
    return f"{prefix}{owner}/{name}"


def _parted(key: str) -> tuple[str, str]:
    if key.startswith("o."):
        _, field, name = key.split(".", 2)
        return f"o.{field}.", name
    return key[:2], key[2:]


def _of(restored: Mapping[str, Tensor], owner: str) -> dict[str, Tensor]:
    """What `state` gave of one owner, under the names that it has for it."""
    found = {}
    for key, tensor in restored.items():
        prefix, name = _parted(key)
        if prefix[0] in "po" and name.startswith(f"{owner}/"):
            found[prefix + name.removeprefix(f"{owner}/")] = tensor
    return found
