"""The rung in hand: the base with what a plan lets train bound to it, its steps and its evaluation.

Normalisation stays in eval mode: with these bases, training on batch statistics loses all that a scale-and-bias patch
gains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...policies.decision import TrainingPlan
from ...policies.errors import TrainingError
from ...policies.task import Evaluation, Options, PatchKind, Precision, TaskSpec, TrainSpec, only_statistics
from ...policies.training_costs import evaluated_at_once
from ..bases import Base
from ..networks import can_start_at, starting_at, unit_of, units_of
from ..patched import PatchedNetwork
from ..patches import make_kinds, owners, trainable
from ..patches.base_fraction import BaseFraction
from ..patches.shapes import copy_of
from .features import FeatureStore
from .frozen import FrozenFeatures
from .inheriting import Heritage
from .inputs import PartInputs, StepOrder, micro_batches
from .lean import lean
from .objective import Labels, MicroBatch, Objective
from .optimiser import LEARNING_RATES, NamedAdam
from .parts import TRAIN
from .scoring import FromFeatures, Scoring, Stop


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
        store: FeatureStore,
        objective: Objective | None = None,
        heritage: Heritage | None = None,
    ) -> None:
        """Begin the rung of `inputs`' resolution, or go on with it where `restored` holds what `state` gave.

        Where it holds parameters alone, those are gone on from with a new optimiser state. With a `heritage` the rung
        begins with the tensors in there, and keeps those that the job does not train.
        """
        self.resolution, self.fraction = inputs.resolution, 0.0
        self.samples_per_s: float | None = None
        self.precision = Precision.F32  # of the steps' passes; scores are in float32 in any case
        self.order = StepOrder(len(inputs.classes), spec, self.resolution)
        self._base, self._spec, self._inputs = base, spec, inputs
        self._objective = objective or Labels()
        self._network = base.network
        self._heritage = heritage or Heritage(spec.kinds, spec.options, {})
        self._kinds = self._heritage.made()
        self._patched = PatchedNetwork(base)
        self._parameters: dict[str, nn.Parameter] = {}
        self._kind_of: dict[str, PatchKind] = {}
        self._unit_of: dict[str, int] = {}
        self._optimiser = NamedAdam()
        self._scoring = Scoring()
        self._plan = TrainingPlan(paused=False)
        settings = f"{task.preprocessing!r} {self._heritage.kinds!r} {self._heritage.options!r}"
        self._frozen = FrozenFeatures(base, store, settings)
        start = self._heritage.start(base.network, len(task.labels))
        for name, kind in trainable(make_kinds(spec.kinds, spec.options), base.network).items():
            self._add(name, kind.kind, start.pop(name))
        self._constant = start  # running statistics, and heads that stay as drawn
        self._own = frozenset(self._parameters)
        # Tensors of the base that an earlier slice unfroze stand in the checkpoint too.
        for name in sorted(key[2:] for key in restored if key.startswith("p.")):
            if name not in self._parameters:
                self._unfreeze(name)
        self._optimiser.restore(restored)

    def _add(self, name: str, kind: PatchKind, start: Tensor) -> None:
        parameter = self._parameters[name] = nn.Parameter(start, requires_grad=False)
        self._optimiser.add(name, parameter, self._spec.learning_rate or LEARNING_RATES[kind])
        self._kind_of[name] = kind
        self._unit_of[name] = self._unit(name)

    def _unfreeze(self, name: str) -> None:
        self._constant.pop(name, None)
        self._add(name, PatchKind.BASE_FRACTION, self._begun(name))

    def _begun(self, name: str) -> Tensor:
        """What a tensor of the base was when the rung began."""
        inherited = self._heritage.tensors.get(name)
        return copy_of(self._network, name) if inherited is None else inherited.detach().clone()

    def _unit(self, name: str) -> int:
        site, added, _ = name.partition(":")
        return unit_of(self._network, site if added else name.rpartition(".")[0])

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: parameters under `p.NAME`, the optimiser's state under `o.FIELD.NAME`."""
        return self._optimiser.state()

    def values(self) -> dict[str, Tensor]:
        """Copies of the parameters by name."""
        return {name: parameter.detach().clone() for name, parameter in self._parameters.items()}

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Give the parameters the `values` that they had once; the others go back to their beginning."""
        self._patched.remove()
        for name, parameter in self._parameters.items():
            known = values.get(name)
            parameter.data.copy_(self._begun(name) if known is None else known)
        self._scoring.forget()
        self.bind()

    # what a plan lets train

    def follow(self, plan: TrainingPlan) -> None:
        """Let `plan` decide what trains: patch parameters from its reach on, its share of the base, always the head.

        What stops training keeps its value and its optimiser state. Raises TrainingError when nothing would train.
        """
        self._patched.remove()  # names are those of the network without layers joined to it
        if only_statistics(self._spec.kinds):  # no plan has a say where nothing is learned
            self.bind()
            return
        unfrozen = self._unfrozen(plan)
        for name in sorted(unfrozen - self._parameters.keys()):
            self._unfreeze(name)
        units = len(units_of(self._network))
        first = units - round(plan.reach * units)
        for name, parameter in self._parameters.items():
            own = name in self._own and self._unit_of[name] >= first and not (plan.biases_only and self._is_scale(name))
            parameter.requires_grad_(own or name in unfrozen)
            parameter.grad = None
        deepest = min((self._unit_of[name] for name, p in self._parameters.items() if p.requires_grad), default=None)
        if deepest is None:
            raise TrainingError(
                "The plan trains nothing of this job: it reaches only the head, and the job asked for none.",
                hint="Add the kind head, or give training a larger allocation.",
            )
        self._plan = plan
        self._follow_frozen(deepest)
        self.bind()

    def _is_scale(self, name: str) -> bool:
        return self._kind_of[name] is PatchKind.SCALE_BIAS and name.endswith(".weight")

    def _unfrozen(self, plan: TrainingPlan) -> set[str]:
        """Names of the base's own tensors that `plan` lets train. Raises TrainingError for one that no patch holds."""
        if plan.tensors:
            every = BaseFraction().tensors(self._network)
            wrong = sorted(set(plan.tensors) - set(every) - self._own)
            if wrong:
                raise TrainingError(
                    f"The plan unfreezes {wrong[0]}, which is no tensor of this base that a patch can hold."
                )
            return set(plan.tensors)
        return set(BaseFraction(fraction=plan.fraction).trainable(self._network)) if plan.fraction > 0 else set()

    def _follow_frozen(self, deepest: int) -> None:
        keep = self._plan.keep_features and self._inputs.augmentation is None and can_start_at(self._network, deepest)
        if not keep:
            self._frozen.follow(None, {})
            return
        tensors = {**self._constant, **self._parameters}
        below = {name: tensor for name, tensor in tensors.items() if self._unit(name) < deepest}
        self._frozen.follow(deepest, below)

    def bind(self) -> None:
        """Put the parameters in the base's place. `close` gives it back."""
        self._patched.bind({**self._constant, **self._parameters}, self._kinds)

    def close(self) -> None:
        """Give the base back as it was."""
        self._patched.remove()

    @property
    def kept_from(self) -> int | None:
        """The first unit that still runs where features are kept; None where none are."""
        return self._frozen.cut

    @property
    def kept_bytes(self) -> int:
        """What kept features take of the disk."""
        return self._frozen.bytes

    def wants_features(self, name: str) -> bool:
        """Whether features of the part `name` are to be kept and are not all there."""
        return self._frozen.cut is not None and not self._frozen.ready(name)

    def compute_features(self, name: str, part: PartInputs, should_yield: Stop) -> bool:
        """Features of the frozen units for what is left of a part; False when ended before its end."""
        return self._frozen.compute(name, part, evaluated_at_once(self._plan.micro_batch), should_yield)

    def forgo_features(self) -> None:
        """Keep none: there is no room for them."""
        self._frozen.forgo()

    # steps

    def size(self, number: int) -> int:
        """How many images step `number` takes."""
        return self.order.size(number)

    def step(self, number: int, rate: float = 1.0) -> StepReport:
        """Optimiser step `number` of the rung, with `rate` times the usual rates.

        Raises NotFiniteError when loss or gradients are no longer numbers; then no parameter has moved.
        """
        began = time.perf_counter()
        epoch, chosen = self.order.batch(number)
        loss = self.accumulate(epoch, chosen)
        where = f"at step {number + 1} of the {self.resolution} px rung"
        if not math.isfinite(loss):
            raise NotFiniteError(f"The loss became {loss} {where}")
        norm = self._optimiser.gradient_norm()
        if not math.isfinite(norm):
            raise NotFiniteError(f"The gradients became {norm} {where}")
        share = self._optimiser.step(number, self.order.total, rate)
        seconds = time.perf_counter() - began
        speed = len(chosen) / max(1e-9, seconds)
        self.samples_per_s = speed if self.samples_per_s is None else 0.9 * self.samples_per_s + 0.1 * speed
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
            losses = self._objective.losses(self.logits_of(epoch, part).float(), batch)
            loss = losses.sum() / len(chosen)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def trial(self, precision: Precision) -> None:
        """A forward and backward pass in `precision` that no parameter moves by."""
        before, self.precision = self.precision, precision
        self.accumulate(*self.order.batch(0))
        self._optimiser.clear_gradients()
        self.precision = before

    def logits_of(self, epoch: int, chosen: Tensor) -> Tensor:
        """The network's answers [n, C] on training images `chosen`, with what the plan lets train in the graph."""
        leanly = lean(self._network) if self._plan.lean else nullcontext()
        with leanly, torch.autocast("cpu", torch.bfloat16, enabled=self.precision is Precision.BF16):
            if self._frozen.cut is not None and self._frozen.ready(TRAIN):
                return self._from_features(self._frozen.chosen(TRAIN, chosen))
            return self._network(self._inputs.of_step(epoch, chosen))  # type: ignore[no-any-return]

    def _from_features(self, rows: Tensor) -> Tensor:
        assert self._frozen.cut is not None
        return starting_at(self._network, self._base.head, rows, self._frozen.cut)

    # scores and results

    def evaluate(self, name: str, part: PartInputs, should_yield: Stop) -> Evaluation | None:
        """Top-1 on the part called `name`; None when asked to yield before the end, then the next call goes on."""
        self.bind()
        size = evaluated_at_once(self._plan.micro_batch)
        if self._frozen.cut is not None and self._frozen.ready(name):
            kept = FromFeatures(part.classes, part.weights, partial(self._frozen.between, name))
            return self._scoring.score(name, kept, self._from_features, size, should_yield)
        return self._scoring.score(name, part, self._network, size, should_yield)

    def check_finite(self) -> None:
        """Raises NotFiniteError naming the first trained tensor that holds a value that is not a number."""
        for name, parameter in self._parameters.items():
            if not bool(torch.isfinite(parameter).all()):
                raise NotFiniteError(f"The tensor {name} of the {self.resolution} px rung is no longer finite")

    def patch_tensors(self) -> dict[str, Tensor]:
        """All tensors of the patch: what was trained, and what belongs to its kinds without being trained."""
        return {**self._constant, **self.values()}

    @property
    def kinds(self) -> tuple[PatchKind, ...]:
        """Those of the patch that this gives."""
        known, unfreezes = self._heritage.kinds, not self._parameters.keys() <= self._own
        return (*known, PatchKind.BASE_FRACTION) if unfreezes and PatchKind.BASE_FRACTION not in known else known

    @property
    def options(self) -> Options:
        """Those of the patch that this gives."""
        return self._heritage.options

    def counts(self) -> dict[PatchKind, int]:
        """Numbers in the patch that an optimiser may move, kind by kind."""
        counts = dict.fromkeys(self.kinds, 0)
        owned = owners(self._kinds, self._network)
        for name, parameter in self._parameters.items():
            kind = owned[name].kind if name in self._own else PatchKind.BASE_FRACTION
            counts[kind] = counts.get(kind, 0) + parameter.numel()
        return counts


class NotFiniteError(TrainingError):
    """A loss, a gradient or a parameter is no longer a number; the message is a clause without its full stop."""
