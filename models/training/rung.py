"""The rung in hand: the base with what a plan lets train bound to it, its steps and its evaluation.

Normalisation stays in eval mode: with these bases, training on batch statistics loses all that a scale-and-bias patch
gains.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...policies.decision import TrainingPlan
from ...policies.errors import TrainingError
from ...policies.task import Evaluation, PatchKind, TaskSpec, TrainSpec
from ..bases import Base
from ..evaluation import wilson
from ..networks import features_of, unit_of, units_of
from ..patched import PatchedNetwork
from ..patches import make_kinds, owners, trainable
from ..patches.base_fraction import BaseFraction
from ..patches.shapes import copy_of
from .inputs import Part, network_inputs, permutation
from .optimiser import LEARNING_RATES, NamedAdam

EVALUATION_BATCH = 64

Stop = Callable[[], bool]


class RungTraining:
    """The network, parameters and optimiser of the rung in hand."""

    def __init__(
        self, base: Base, task: TaskSpec, spec: TrainSpec, resolution: int, train: Part, restored: dict[str, Tensor]
    ) -> None:
        self.resolution, self.fraction = resolution, 0.0
        self.samples_per_s: float | None = None
        self._base, self._task, self._spec, self._train = base, task, spec, train
        self._network = base.network
        self._kinds = make_kinds(spec.kinds, spec.options)
        self._patched = PatchedNetwork(base)
        self._parameters: dict[str, nn.Parameter] = {}
        self._units: dict[str, int] = {}
        classes = len(task.labels)
        self._optimiser = NamedAdam()
        self._features: Tensor | None = None
        self._head_only = False
        self._evaluated: dict[str, tuple[int, int]] = {}  # part: right answers, images seen
        start = {
            name: tensor for kind in reversed(self._kinds) for name, tensor in kind.start(base.network, classes).items()
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

    def follow(self, plan: TrainingPlan) -> None:
        """Let `plan` decide what trains: patch parameters from its reach on, its share of the base, always the head."""
        self._patched.remove()  # names are those of the network without layers joined to it
        chosen = BaseFraction(fraction=plan.fraction).trainable(self._network) if plan.fraction > 0 else ()
        unfrozen = set(chosen)
        for name in sorted(unfrozen - self._parameters.keys()):
            self._add(name, PatchKind.BASE_FRACTION, copy_of(self._network, name))
        self.fraction = max(self.fraction, plan.fraction)
        own = self._own
        units = len(units_of(self._network))
        first = units - round(plan.reach * units)
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in unfrozen or (name in own and self._units[name] >= first))
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
        self._head_only = head_only
        self._bind()

    def _bind(self) -> None:
        self._patched.bind({**self._constant, **self._parameters}, self._kinds)

    @property
    def needs_features(self) -> bool:
        """Whether only the head trains and the frozen part's features are not computed yet."""
        return self._head_only and self._features is None

    def compute_features(self) -> None:
        """Run the frozen part once over the training images: each later epoch costs milliseconds."""
        with torch.no_grad():
            self._features = torch.cat(
                [
                    features_of(self._network, self._inputs(batch))
                    for batch in torch.split(self._train.images, EVALUATION_BATCH)
                ]
            )

    def _inputs(self, images: Tensor) -> Tensor:
        return network_inputs(images, self._task.preprocessing, self._base.memory_format)

    def step(self, number: int) -> float:
        """One optimiser step; the loss. Raises TrainingError when it is not a number."""
        began = time.perf_counter()
        chosen = self._batch(number)
        if self._features is not None:
            logits = self._network.get_submodule(self._base.head)(self._features[chosen])
        else:
            logits = self._network(self._inputs(self._train.images[chosen]))
        loss = nn.functional.cross_entropy(logits, self._train.classes[chosen])
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"The loss became {value} at step {number + 1} of the {self.resolution} px rung.",
                hint="Submit again with a lower learning rate.",
            )
        self._optimiser.clear_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step(number, self._total())
        rate = len(chosen) / max(1e-9, time.perf_counter() - began)
        self.samples_per_s = rate if self.samples_per_s is None else 0.9 * self.samples_per_s + 0.1 * rate
        return value

    def _total(self) -> int:
        return self._spec.epochs * self._per_epoch()

    def _per_epoch(self) -> int:
        return max(1, math.ceil(len(self._train.classes) / self._spec.batch_size))

    def _batch(self, number: int) -> Tensor:
        epoch, index = divmod(number, self._per_epoch())
        order = permutation(len(self._train.classes), self._spec.seed, self.resolution, epoch)
        return order[index * self._spec.batch_size : (index + 1) * self._spec.batch_size]

    def evaluate(self, name: str, part: Part, should_yield: Stop) -> Evaluation | None:
        """Top-1 on the part called `name`; None when asked to yield before the end, then the next call goes on."""
        correct, start = self._evaluated.get(name, (0, 0))
        self._bind()
        with torch.inference_mode():
            while start < len(part.classes):
                images, classes = part.images[start:][:EVALUATION_BATCH], part.classes[start:][:EVALUATION_BATCH]
                answers = self._network(self._inputs(images)).argmax(1)
                correct, start = correct + int((answers == classes).sum()), start + len(classes)
                self._evaluated[name] = correct, start
                if start < len(part.classes) and should_yield():
                    return None
        return wilson(correct, len(part.classes))

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

    def close(self) -> None:
        """Give the base back as it was."""
        self._patched.remove()
