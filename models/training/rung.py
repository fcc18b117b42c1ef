"""The rung in hand: the base with what a plan lets train bound to it, its steps and its evaluation.

Normalisation stays in eval mode: with these bases, training on batch statistics loses all that a scale-and-bias patch
gains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...policies.decision import TrainingPlan
from ...policies.errors import TrainingError
from ...policies.task import Evaluation, PatchKind, TaskSpec, TrainSpec
from ..bases import Base
from ..networks import features_of, unit_of, units_of
from ..patched import PatchedNetwork
from ..patches import make_kinds, owners, trainable
from ..patches.base_fraction import BaseFraction
from ..patches.shapes import copy_of
from .inputs import PartInputs, StepOrder, micro_batches
from .objective import Labels, MicroBatch, Objective
from .optimiser import LEARNING_RATES, NamedAdam
from .scoring import Scoring, Stop

EVALUATION_BATCH = 64


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one optimiser step gave."""

    loss: float  # mean over the batch
    samples: int
    seconds: float  # wall time
    rate_share: float  # of the learning rates that parameters begin with


class RungTraining:
    """The network, parameters and optimiser of the rung in hand.

    A step asks `inputs` for its images, the network for logits (`logits_of`) and the objective for losses; what changes
    one of the three leaves the others alone.
    """

    def __init__(
        self,
        base: Base,
        task: TaskSpec,
        spec: TrainSpec,
        inputs: PartInputs,
        restored: Mapping[str, Tensor],
        objective: Objective | None = None,
    ) -> None:
        """Begin the rung of `inputs`' resolution, or go on with it where `restored` holds what `state` gave."""
        self.resolution, self.fraction = inputs.resolution, 0.0
        self.samples_per_s: float | None = None
        self.order = StepOrder(len(inputs.classes), spec, self.resolution)
        self._base, self._spec, self._inputs = base, spec, inputs
        self._objective = objective or Labels()
        self._network = base.network
        self._kinds = make_kinds(spec.kinds, spec.options)
        self._patched = PatchedNetwork(base)
        self._parameters: dict[str, nn.Parameter] = {}
        self._units: dict[str, int] = {}
        self._optimiser = NamedAdam()
        self._scoring = Scoring()
        self._plan = TrainingPlan(paused=False)
        self._features: Tensor | None = None
        self._head_only = False
        start = {
            name: tensor
            for kind in reversed(self._kinds)
            for name, tensor in kind.start(base.network, len(task.labels)).items()
        }
        for name, kind in trainable(self._kinds, base.network).items():
            self._add(name, kind.kind, start.pop(name))
        self._constant = start  # running statistics, and heads that stay as drawn
        self._own = frozenset(self._parameters)
        # Tensors of the base that an earlier slice unfroze stand in the checkpoint too.
        for name in sorted(key[2:] for key in restored if key.startswith("p.")):
            if name not in self._parameters:
                self._add(name, PatchKind.BASE_FRACTION, copy_of(base.network, name))
                self.fraction = 1.0
        self._optimiser.restore(restored)

    def _add(self, name: str, kind: PatchKind, start: Tensor) -> None:
        parameter = self._parameters[name] = nn.Parameter(start, requires_grad=False)
        self._optimiser.add(name, parameter, self._spec.learning_rate or LEARNING_RATES[kind])
        site, added, _ = name.partition(":")
        self._units[name] = unit_of(self._network, site if added else name.rpartition(".")[0])

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return self._optimiser.state()

    # what a plan lets train

    def follow(self, plan: TrainingPlan) -> None:
        """Let `plan` decide what trains: patch parameters from its reach on, its share of the base, always the head.

        What stops training keeps its value and its optimiser state. Raises TrainingError when nothing would train.
        """
        self._patched.remove()  # names are those of the network without layers joined to it
        unfrozen = self._unfrozen(plan)
        for name in sorted(unfrozen - self._parameters.keys()):
            self._add(name, PatchKind.BASE_FRACTION, copy_of(self._network, name))
        self.fraction = max(self.fraction, plan.fraction)
        units = len(units_of(self._network))
        first = units - round(plan.reach * units)
        for name, parameter in self._parameters.items():
            own = name in self._own and self._units[name] >= first
            parameter.requires_grad_(own or name in unfrozen)
            parameter.grad = None
        deepest = min((self._units[name] for name, p in self._parameters.items() if p.requires_grad), default=None)
        if deepest is None:
            raise TrainingError(
                "The plan trains nothing of this job: it reaches only the head, and the job asked for none.",
                hint="Add the kind head, or give training a larger allocation.",
            )
        head_only = deepest >= units
        if not head_only or not self._head_only:
            self._features = None
        self._head_only, self._plan = head_only, plan
        self.bind()

    def _unfrozen(self, plan: TrainingPlan) -> set[str]:
        """Names of the base's own tensors that `plan` lets train."""
        if plan.fraction <= 0:
            return set()
        return set(BaseFraction(fraction=plan.fraction).trainable(self._network))

    def bind(self) -> None:
        """Put the parameters in the base's place. `close` gives it back."""
        self._patched.bind({**self._constant, **self._parameters}, self._kinds)

    def close(self) -> None:
        """Give the base back as it was."""
        self._patched.remove()

    @property
    def needs_features(self) -> bool:
        """Whether only the head trains and the frozen part's features are not computed yet."""
        return self._head_only and self._features is None

    def compute_features(self) -> None:
        """Run the frozen part once over the training images: each later epoch costs milliseconds."""
        count = len(self._inputs.classes)
        with torch.no_grad():
            self._features = torch.cat(
                [
                    features_of(self._network, self._inputs.inputs(start, min(count, start + EVALUATION_BATCH)))
                    for start in range(0, count, EVALUATION_BATCH)
                ]
            )

    # steps

    def step(self, number: int) -> StepReport:
        """Optimiser step `number` of the rung. Raises TrainingError when the loss is no longer a number."""
        began = time.perf_counter()
        epoch, chosen = self.order.batch(number)
        loss = self.accumulate(epoch, chosen)
        if not math.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} at step {number + 1} of the {self.resolution} px rung.",
                hint="Submit again with a lower learning rate.",
            )
        share = self._optimiser.step(number, self.order.total)
        seconds = time.perf_counter() - began
        rate = len(chosen) / max(1e-9, seconds)
        self.samples_per_s = rate if self.samples_per_s is None else 0.9 * self.samples_per_s + 0.1 * rate
        self._scoring.forget()
        return StepReport(loss, len(chosen), seconds, share)

    def accumulate(self, epoch: int, chosen: Tensor) -> float:
        """Gradients of the mean loss over the images `chosen`, in the plan's micro-batches; that loss comes back.

        The gradients before are cleared. Cut into micro-batches or not, the result is the same to rounding: each
        image's loss weighs one over the whole batch.
        """
        self._optimiser.clear_gradients()
        total = 0.0
        for part in micro_batches(chosen, self._plan.micro_batch):
            batch = MicroBatch(epoch, part, self._inputs.classes[part])
            losses = self._objective.losses(self.logits_of(epoch, part), batch)
            loss = losses.sum() / len(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def logits_of(self, epoch: int, chosen: Tensor) -> Tensor:
        """The network's answers [n, C] on training images `chosen`, with what the plan lets train in the graph."""
        if self._features is not None:
            head: nn.Module = self._network.get_submodule(self._base.head)
            return head(self._features[chosen])  # type: ignore[no-any-return]
        return self._network(self._inputs.of_step(epoch, chosen))  # type: ignore[no-any-return]

    # scores and results

    def evaluate(self, name: str, part: PartInputs, should_yield: Stop) -> Evaluation | None:
        """Top-1 on the part called `name`; None when asked to yield before the end, then the next call goes on."""
        self.bind()
        micro = self._plan.micro_batch
        batch = EVALUATION_BATCH if micro is None else min(EVALUATION_BATCH, 2 * micro)
        return self._scoring.score(name, part, self._network, batch, should_yield)

    def check_finite(self) -> None:
        """Raises TrainingError naming the first trained tensor that holds a value that is not a number."""
        for name, parameter in self._parameters.items():
            if not bool(torch.isfinite(parameter).all()):
                raise TrainingError(
                    f"The tensor {name} of the {self.resolution} px rung is no longer finite after its last step.",
                    hint="Submit again with a lower learning rate.",
                )

    def patch_tensors(self) -> dict[str, Tensor]:
        """All tensors of the patch: what was trained, and what belongs to its kinds without being trained."""
        trained = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        return {**self._constant, **trained}

    def counts(self) -> dict[PatchKind, int]:
        """Numbers in the patch that an optimiser may move, kind by kind."""
        counts = dict.fromkeys(self._spec.kinds, 0)
        owned = owners(self._kinds, self._network)
        for name, parameter in self._parameters.items():
            kind = owned[name].kind if name in self._own else PatchKind.BASE_FRACTION
            counts[kind] = counts.get(kind, 0) + parameter.numel()
        return counts
