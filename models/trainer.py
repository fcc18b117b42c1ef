"""Training of a task's rungs in slices that can be ended at every step and resumed exactly.

Normalisation stays in eval mode: with these bases, training on batch statistics loses all that a scale-and-bias patch
gains. The order of the data follows from (seed, resolution, epoch) alone and the learning rate from the step alone, so
a checkpoint needs only parameters, optimiser state and position. Biases and scales get no weight decay.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..policies.decision import TrainingPlan
from ..policies.errors import DataSetError, TrainingError
from ..policies.task import (
    Evaluation,
    JobProgress,
    PatchKind,
    PatchMetadata,
    RungResult,
    TaskSpec,
    TrainingRecord,
    TrainSpec,
)
from .bases import Base
from .checkpoint import Checkpoint, Finished, Position, load_checkpoint, save_checkpoint
from .datasets import DataSet, Sample, defect, normalised, open_data, pixels
from .evaluation import wilson
from .networks import features_of, unit_of, units_of
from .patched import PatchedNetwork
from .patches import Patch, check_useful, make_kinds, owners, save_patch, trainable
from .patches.base_fraction import BaseFraction
from .patches.shapes import copy_of

LEARNING_RATES = {
    PatchKind.SCALE_BIAS: 5e-3,
    PatchKind.DEPTHWISE: 2e-3,
    PatchKind.SEPARABLE: 5e-4,
    PatchKind.ADDED_NEURONS: 2e-3,
    PatchKind.ADDED_LAYER: 2e-3,
    PatchKind.SQUEEZE_EXCITE: 2e-3,
    PatchKind.OWN_SQUEEZE_EXCITE: 2e-3,
    PatchKind.GATE: 5e-2,  # through a sigmoid that starts where it is flat
    PatchKind.HEAD: 5e-3,
    PatchKind.RANDOM_HEAD: 5e-3,
    PatchKind.BASE_FRACTION: 5e-4,
}
EVALUATION_BATCH = 64
PROGRESS_EVERY_S = 0.25
BROKEN_NAMED = 5
SUBSET_SALT = 7919  # keeps the choice of a subset apart from the order of an epoch

Stop = Callable[[], bool]
Report = Callable[[JobProgress], None]


@dataclass(frozen=True, slots=True)
class _Part:
    """Images of one part at one resolution, and their classes."""

    images: Tensor  # uint8 [N, R, R, 3]
    classes: Tensor  # int64 [N]


class Trainer:
    """Trains the rungs of one job, one after the other. Not safe for use from several threads."""

    def __init__(
        self, base: Base, task: TaskSpec, spec: TrainSpec, job_id: str, checkpoint_dir: Path, patches_dir: Path
    ) -> None:
        """List the data and find the last checkpoint. Raises DataSetError, or BadInputError for kinds of no use."""
        if task.data is None:
            raise TrainingError(f"Task '{task.name}' has no data set.")
        check_useful(make_kinds(spec.kinds, spec.options), base.network)
        self._base, self._task, self._spec, self._job_id = base, task, spec, job_id
        self._checkpoint_dir, self._patches_dir = checkpoint_dir, patches_dir
        self._data: DataSet = open_data(task.data)
        if self._data.labels != task.labels:
            raise TrainingError(f"The classes of {task.data} are no longer those of task '{task.name}'.")
        self._samples = _subset(self._data.train, spec)
        self._resolutions = spec.resolutions or task.bases[spec.base or task.base]
        self._steps = spec.epochs * max(1, math.ceil(len(self._samples) / spec.batch_size))
        found, self.notes = load_checkpoint(checkpoint_dir)
        self._position = found.position if found is not None else Position()
        self._restored = dict(found.tensors) if found is not None else {}
        self._rung: _Rung | None = None
        every = (self._samples, self._data.validation, self._data.test)
        self._unchecked = list(chain.from_iterable(every)) if found is None else []
        self._broken: list[str] = []

    @property
    def finished(self) -> tuple[Finished, ...]:
        """The rungs done so far, those before a restart included."""
        return self._position.finished

    @property
    def done(self) -> bool:
        """Whether every rung is trained."""
        return self._position.rung >= len(self._resolutions)

    def progress(self, phase: str = "training", plan: TrainingPlan | None = None) -> JobProgress:
        """Where the job stands."""
        at = self._position
        index = min(at.rung, len(self._resolutions) - 1)
        per_epoch = max(1, self._steps // self._spec.epochs)
        return JobProgress(
            rung=index,
            rungs=len(self._resolutions),
            resolution=self._resolutions[index],
            epoch=min(self._spec.epochs, at.step // per_epoch),
            epochs=self._spec.epochs,
            step=at.step,
            steps=self._steps,
            loss=at.loss,
            samples_per_s=None if self._rung is None else self._rung.samples_per_s,
            plan=plan,
            phase=phase,
        )

    def run_slice(self, plan: TrainingPlan, seconds: float, should_yield: Stop, report: Report) -> Iterator[Finished]:
        """Train for at most `seconds`, yielding each rung as it is finished; a checkpoint is on disk at the end.

        Raises TrainingError when the loss is no longer a number, DataSetError when an image cannot be read.
        """
        deadline = time.monotonic() + seconds
        try:
            while not self.done and time.monotonic() < deadline and not should_yield():
                finished = self._advance(plan, deadline, should_yield, report)
                if finished is not None:
                    yield finished
            if self._rung is not None:
                save_checkpoint(self._checkpoint_dir, Checkpoint(self._position, self._rung.state()))
        finally:
            if self._rung is not None:
                self._rung.close()

    def _advance(self, plan: TrainingPlan, deadline: float, should_yield: Stop, report: Report) -> Finished | None:
        """Steps of the rung in hand until it is done, the time is up or a yield is asked for; the rung if done."""
        if self._unchecked and not self._check_images(deadline, should_yield, report):
            return None
        began = time.monotonic()
        rung = self._open_rung(plan, report)
        before, last_report = self._position.seconds, 0.0
        while self._position.step < self._steps:
            loss = rung.step(self._position.step)
            self._position = self._position.model_copy(
                update={
                    "step": self._position.step + 1,
                    "loss": loss,
                    "seconds": before + time.monotonic() - began,
                    "reach": min(self._position.reach, plan.reach),
                    "fraction": max(self._position.fraction, plan.fraction),
                }
            )
            if time.monotonic() - last_report >= PROGRESS_EVERY_S:
                last_report = time.monotonic()
                report(self.progress(plan=plan))
            if should_yield() or time.monotonic() >= deadline:
                break
        if self._position.step < self._steps:
            return None
        report(self.progress("evaluating", plan))
        return self._finish(rung, should_yield)

    def _check_images(self, deadline: float, should_yield: Stop, report: Report) -> bool:
        """Decode every image of the three parts once before the first step; False when the time is up before the end.

        Raises DataSetError that counts the broken images and names the first ones.
        """
        report(self.progress("checking images"))
        while self._unchecked:
            if should_yield() or time.monotonic() >= deadline:
                return False
            sample = self._unchecked.pop()
            if (wrong := defect(sample)) is not None:
                self._broken.append(wrong)
        if self._broken:
            named = sorted(self._broken)[:BROKEN_NAMED]
            more = len(self._broken) - len(named)
            raise DataSetError(
                f"{len(self._broken)} of the data set's images cannot be used: {'; '.join(named)}"
                + (f"; and {more} more." if more else "."),
                hint="Remove or replace them, then submit again.",
            )
        return True

    def _open_rung(self, plan: TrainingPlan, report: Report) -> _Rung:
        if self._rung is None:
            report(self.progress("loading", plan))
            resolution = self._resolutions[self._position.rung]
            train = _load(self._samples, resolution, self._task)
            self._rung = _Rung(self._base, self._task, self._spec, resolution, train, self._restored)
            self._restored = {}
        self._rung.follow(plan)
        if self._rung.needs_features:
            report(self.progress("features", plan))
            self._rung.compute_features()
        return self._rung

    def _finish(self, rung: _Rung, should_yield: Stop) -> Finished | None:
        """Evaluate, save the patch and the checkpoint that knows of it; None when asked to yield before that."""
        rung.check_finite()
        scores: dict[str, Evaluation] = {}
        for name in ("validation", "test"):
            samples: tuple[Sample, ...] = getattr(self._data, name)
            if samples:
                score = rung.evaluate(name, _load(samples, rung.resolution, self._task), should_yield)
                if score is None:
                    return None
                scores[name] = score
        rung.close()
        tensors = rung.patch_tensors()
        kinds = self._spec.kinds if rung.fraction == 0 else (*self._spec.kinds, PatchKind.BASE_FRACTION)
        counts = rung.counts()
        parameters = sum(counts.values())
        metadata = PatchMetadata(
            base=self._base.name,
            base_hash=self._base.hash,
            task=self._task.name,
            labels=self._task.labels,
            kinds=kinds,
            resolution=rung.resolution,
            preprocessing=self._task.preprocessing,
            options=self._spec.options,
            parameters=parameters,
            parameters_by_kind=counts,
            base_parameters=self._base.parameters_count,
            training=TrainingRecord(
                job_id=self._job_id,
                kinds=kinds,
                epochs=self._spec.epochs,
                steps=self._position.step,
                train_samples=len(self._samples),
                seed=self._spec.seed,
                learning_rate=self._spec.learning_rate or max(LEARNING_RATES[kind] for kind in self._spec.kinds),
                batch_size=self._spec.batch_size,
                seconds=self._position.seconds,
                reach=self._position.reach,
                fraction=self._position.fraction,
                final_loss=self._position.loss,
                validation=scores["validation"],
                test=scores.get("test"),
            ),
            created_s=time.time(),
        )
        patch_id, path = save_patch(Patch(metadata, tensors), self._patches_dir)
        result = RungResult(
            resolution=rung.resolution,
            patch_id=patch_id,
            parameters=parameters,
            share=parameters / self._base.parameters_count,
            bytes=path.stat().st_size,
            validation=scores["validation"],
            test=scores.get("test"),
            seconds=self._position.seconds,
        )
        finished = Finished(result=result, metadata=metadata)
        self._rung = None
        self._position = Position(rung=self._position.rung + 1, finished=(*self._position.finished, finished))
        save_checkpoint(self._checkpoint_dir, Checkpoint(self._position, {}))
        return finished


class _Rung:
    """The network, parameters and optimiser of the rung in hand."""

    def __init__(
        self, base: Base, task: TaskSpec, spec: TrainSpec, resolution: int, train: _Part, restored: dict[str, Tensor]
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
        self._rates: dict[str, float] = {}
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
        self._optimiser = self._make_optimiser({})
        self._restore(restored)

    def _add(self, name: str, kind: PatchKind, start: Tensor) -> None:
        self._parameters[name] = nn.Parameter(start, requires_grad=False)
        self._rates[name] = self._spec.learning_rate or LEARNING_RATES[kind]
        site, added, _ = name.partition(":")
        self._units[name] = unit_of(self._network, site if added else name.rpartition(".")[0])

    def _make_optimiser(self, state: Mapping[Tensor, Any]) -> torch.optim.Adam:
        groups = [{"params": [p], "lr": self._rates[n], "base_lr": self._rates[n]} for n, p in self._parameters.items()]
        optimiser = torch.optim.Adam(groups, foreach=False)
        optimiser.state.update(state)
        return optimiser

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self._parameters.items():
            if (saved := tensors.get(f"p.{name}")) is not None:
                parameter.data.copy_(saved)
            fields = {key: tensors.get(f"o.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
            state = {key: tensor.clone() for key, tensor in fields.items() if tensor is not None}
            if len(state) == len(fields):
                for key in ("exp_avg", "exp_avg_sq"):
                    state[key] = torch.empty_like(parameter.data).copy_(state[key])
                self._optimiser.state[parameter] = state

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: parameters and optimiser state by name."""
        tensors = {f"p.{name}": parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            for key, value in self._optimiser.state.get(parameter, {}).items():
                tensors[f"o.{key}.{name}"] = value
        return tensors

    def follow(self, plan: TrainingPlan) -> None:
        """Let `plan` decide what trains: patch parameters from its reach on, its share of the base, always the head."""
        self._patched.remove()  # names are those of the network without layers joined to it
        chosen = BaseFraction(fraction=plan.fraction).trainable(self._network) if plan.fraction > 0 else ()
        unfrozen = set(chosen)
        fresh = [name for name in sorted(unfrozen) if name not in self._parameters]
        for name in fresh:
            self._add(name, PatchKind.BASE_FRACTION, copy_of(self._network, name))
        if fresh:
            self._optimiser = self._make_optimiser(self._optimiser.state)
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
        inputs = normalised(images, self._task.preprocessing)
        return inputs.contiguous(memory_format=self._base.memory_format)

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
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        share = 0.5 * (1.0 + math.cos(math.pi * number / self._total()))
        for group in self._optimiser.param_groups:
            group["lr"] = group["base_lr"] * share
        self._optimiser.step()
        rate = len(chosen) / max(1e-9, time.perf_counter() - began)
        self.samples_per_s = rate if self.samples_per_s is None else 0.9 * self.samples_per_s + 0.1 * rate
        return value

    def _total(self) -> int:
        return self._spec.epochs * self._per_epoch()

    def _per_epoch(self) -> int:
        return max(1, math.ceil(len(self._train.classes) / self._spec.batch_size))

    def _batch(self, number: int) -> Tensor:
        epoch, index = divmod(number, self._per_epoch())
        order = _permutation(len(self._train.classes), self._spec.seed, self.resolution, epoch)
        return order[index * self._spec.batch_size : (index + 1) * self._spec.batch_size]

    def evaluate(self, name: str, part: _Part, should_yield: Stop) -> Evaluation | None:
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


def _load(samples: tuple[Sample, ...], resolution: int, task: TaskSpec) -> _Part:
    classes = torch.tensor([sample.label for sample in samples], dtype=torch.int64)
    return _Part(pixels(samples, resolution, task.preprocessing), classes)


def _permutation(count: int, *key: int) -> Tensor:
    """A permutation of [0, count) that depends on `key` alone."""
    digest = hashlib.sha256(",".join(map(str, key)).encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    return torch.randperm(count, generator=generator)


def _subset(samples: tuple[Sample, ...], spec: TrainSpec) -> tuple[Sample, ...]:
    if spec.max_samples is None or spec.max_samples >= len(samples):
        return samples
    order = _permutation(len(samples), spec.seed, SUBSET_SALT)
    return tuple(samples[i] for i in order[: spec.max_samples].tolist())
