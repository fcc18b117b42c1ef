"""All that comes before the first step of a rung: the teacher's answers, the images, the norms' statistics.

It can be ended between two batches, and goes on from there: what is computed is kept in the job's directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ...policies.task import RungResult, TaskSpec, TrainSpec
from ..bases import Base
from ..patched import PatchedNetwork
from ..patches import make_kinds
from ..patches.statistics import Statistics
from .augmentation import augmentation_of
from .data import TrainingData
from .inheriting import Heritage
from .inputs import PartInputs
from .objective import Labels, Objective
from .parts import TEST, TRAIN, VALIDATION, RungParts
from .scoring import Stop
from .statistics import StatisticsEstimate
from .teaching import Lesson, Teaching

Say = Callable[[str], None]


class RungOpening:
    """The opening of the rung at one resolution. Not to be run while a rung is bound to the base."""

    def __init__(
        self, base: Base, task: TaskSpec, spec: TrainSpec, resolution: int, data: TrainingData, directory: Path
    ) -> None:
        self.resolution = resolution
        self.heritage = Heritage(spec.kinds, spec.options, {})
        self._base, self._task, self._spec, self._data, self._directory = base, task, spec, data, directory
        self._lesson: Lesson | None = None
        self._parts: RungParts | None = None
        self._statistics = next((k for k in make_kinds(spec.kinds, spec.options) if isinstance(k, Statistics)), None)
        self._estimate: StatisticsEstimate | None = None
        self._done = False

    @property
    def objective(self) -> Objective:
        """What the steps of the rung make smaller."""
        return Labels() if self._lesson is None else self._lesson.objective

    @property
    def parts(self) -> RungParts:
        """The parts of the data at this resolution, once `run` has come to them."""
        assert self._parts is not None
        return self._parts

    def agrees(self, name: str) -> bool:
        """Whether the part `name` has a teacher's answers in place of labels."""
        return self._lesson is not None and name in self._lesson.classes

    def run(
        self, teaching: Teaching | None, made: Sequence[RungResult], at_once: int, ended: Stop, say: Say
    ) -> PartInputs | None:
        """Do what is left; the training part, or None when told to end before that.

        `made` is what the job gave; teachers answer so many images `at_once`.
        """
        if teaching is not None and self._lesson is None:
            say("asking the teacher")
            self._lesson = teaching.prepare(made, ended, at_once)
            if self._lesson is None:
                return None
            self.heritage = self._lesson.heritage or self.heritage
        if self._parts is None:
            self._parts = self._made_parts()
        if not self._parts.loaded(TRAIN):
            say("loading")
        train = self._parts.load(TRAIN, ended)
        if train is None or self._statistics is None or self._done:
            return train
        if self._estimate is None:
            self._estimate = StatisticsEstimate(
                self._base.network, self._statistics, self._directory, self._key(train, self._statistics)
            )
        say("statistics")
        self._done = self._estimated(self._estimate, train, ended)
        return train if self._done else None

    def _made_parts(self) -> RungParts:
        samples = {TRAIN: self._data.train, VALIDATION: self._data.validation, TEST: self._data.test}
        return RungParts(
            samples,
            self.resolution,
            self._task.preprocessing,
            self._base.memory_format,
            augmentation=augmentation_of(self._task, self._spec),
            seed=self._spec.seed,
            classes={} if self._lesson is None else self._lesson.classes,
        )

    def _estimated(self, estimate: StatisticsEstimate, train: PartInputs, ended: Stop) -> bool:
        """Estimate on the rung as it begins; the estimate is then a part of that beginning."""
        patched = PatchedNetwork(self._base)
        patched.bind(self.heritage.start(self._base.network, len(self._task.labels)), self.heritage.made())
        try:
            done = estimate.run(len(train.classes), train.inputs, ended)
        finally:
            patched.remove()
        if done:
            self.heritage = replace(self.heritage, tensors={**self.heritage.tensors, **estimate.tensors()})
        return done

    def _key(self, train: PartInputs, kind: Statistics) -> str:
        """Of what the statistics are: the network as it begins, the images, and how they are estimated."""
        digest = hashlib.sha256(train.digest().encode())
        for name, tensor in sorted(self.heritage.tensors.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return f"{self._base.hash} {kind} {self._task.preprocessing} {digest.hexdigest()}"

    def save(self) -> None:
        """Keep on the disk what has been estimated. Raises StateError."""
        if self._estimate is not None:
            self._estimate.save()
