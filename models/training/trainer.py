"""Training of a task's rungs, one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...policies.base_version import sides_on
from ...policies.decision import TrainingPlan
from ...policies.errors import StateError
from ...policies.examples import ExampleFile
from ...policies.task import Evaluation, JobProgress, Measure, Precision, TaskSpec, Teacher, TrainSpec, only_statistics
from ...policies.teaching import inherits, is_taught
from ...policies.training_costs import evaluated_at_once
from ..bases import Base
from .checkpoint import Checkpoint, Finished, Position, save_checkpoint
from .data import TrainingData, open_training_data
from .inheriting import RATE
from .loop import Report, SliceLoop
from .metering import UseMeter
from .opening import RungOpening
from .parts import TEST, TRAIN, VALIDATION
from .precision import faster_precision
from .results import Trained, save_trained
from .rival import Rival
from .rung import RungTraining
from .scoring import Stop
from .teaching import Teaching


class Trainer(SliceLoop[RungTraining]):
    """Trains the rungs of one job, one after the other. Not safe for use from several threads."""

    def __init__(
        self,
        base: Base,
        task: TaskSpec,
        spec: TrainSpec,
        job_id: str,
        checkpoint_dir: Path,
        patches_dir: Path,
        examples: Sequence[ExampleFile] = (),
    ) -> None:
        """List the data and find the last checkpoint.

        Raises DataSetError, TrainingError where there is nothing to train on, or BadInputError for kinds of no use.
        """
        if only_statistics(spec.kinds):
            spec = spec.model_copy(update={"epochs": 1})
        if inherits(spec, task) and spec.learning_rate is None:
            spec = spec.model_copy(update={"learning_rate": RATE})
        self._task, self._data = task, open_training_data(task, spec, examples)
        super().__init__(
            base,
            spec,
            (checkpoint_dir, patches_dir),
            job_id,
            self._data,
            per_epoch=self._steps_of(spec),
            classes=len(task.labels),
        )
        self._resolutions = tuple(dict.fromkeys(spec.resolutions or sides_on(task, spec.base or task.base)))
        self.in_force: Mapping[int, Path | None] = {}  # by resolution: patches to be compared with; None: the bare base
        self._opening: RungOpening | None = None
        self._teaching: Teaching | None = None
        if is_taught(spec, task):
            self._teaching = Teaching(base, task, spec, self._data, (checkpoint_dir, patches_dir))
            self._use(self._teaching.data)
        self._rival: Rival | None = None

    def _steps_of(self, spec: TrainSpec) -> int:
        """Optimiser steps of an epoch: none where statistics are all that is asked for."""
        return 0 if only_statistics(spec.kinds) else max(1, math.ceil(len(self._data.train) / spec.batch_size))

    def _use(self, data: TrainingData) -> None:
        self._data = data
        self._per_epoch = self._steps_of(self._spec)

    @property
    def done(self) -> bool:
        """Whether every rung is trained."""
        return len(self._position.finished) >= len(self._resolutions)

    @property
    def images(self) -> tuple[int, int]:
        """How many images it trains and validates on."""
        return len(self._data.train), len(self._data.validation)

    def progress(self, phase: str = "training", plan: TrainingPlan | None = None) -> JobProgress:
        """Where the job stands."""
        resolution = self._position.resolution or self._next_resolution(plan)
        rung = min(len(self.finished), len(self._resolutions) - 1)
        return self._progress(resolution, rung, len(self._resolutions), phase, plan)

    def _next_resolution(self, plan: TrainingPlan | None) -> int:
        done = {finished.result.resolution for finished in self.finished}
        left = [side for side in self._resolutions if side not in done]
        free = self._spec.teacher is Teacher.NONE  # what teaches the others must be trained before them
        if plan is not None and plan.resolution in left and free:
            return plan.resolution
        return left[0] if left else self._resolutions[-1]

    def _open_rung(self, plan: TrainingPlan, ended: Stop, report: Report) -> RungTraining | None:
        if not self._begin_taught(plan, ended, report):
            return None
        resolution = self._position.resolution or self._next_resolution(plan)
        if self._opening is None or self._opening.resolution != resolution:
            self._opening = RungOpening(
                self._base, self._task, self._spec, resolution, self._data, self._checkpoint_dir
            )
        self._position = self._position.model_copy(update={"resolution": resolution})
        if self._rung is None:
            made = [finished.result for finished in self.finished]
            at_once = evaluated_at_once(plan.micro_batch)
            train = self._opening.run(
                self._teaching, made, at_once, ended, lambda phase: report(self.progress(phase, plan))
            )
            if train is None:
                return None
            self._meter = UseMeter(resolution, self._spec.batch_size)
            self._rung = RungTraining(
                self._base,
                self._task,
                self._spec,
                train,
                self._restored,
                self.features,
                self._opening.objective,
                self._opening.heritage,
            )
            self._restored = {}
        self._rung.follow(plan)
        self._rung.precision = self._precision(self._rung)
        return self._rung

    def _precision(self, rung: RungTraining) -> Precision:
        """What was decided when the rung began; else it is decided now, and stays."""
        decided = self._position.precision
        if decided is None:
            decided = self._spec.precision
            if decided is Precision.AUTO:
                decided, why = faster_precision(rung.trial)
                self._notes.append(why)
            self._position = self._position.model_copy(update={"precision": decided})
        return decided

    def _begin_taught(self, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        """Fix who teaches a job and on which images, when it begins; False when ended before that."""
        if self._teaching is None or self._teaching.begun:
            return True
        report(self.progress("checking images", plan))
        if not self._teaching.begin(self.in_force, ended):
            return False
        if self._teaching.note is not None:
            self._notes.append(self._teaching.note)
        self._use(self._teaching.data)
        return True

    def _save(self) -> None:
        if self._teaching is not None:
            self._teaching.save()
        if self._opening is not None:
            self._opening.save()
        super()._save()

    def _keep_features(self, rung: RungTraining, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        """Have the features on disk that the plan wants kept; False when ended before all are there."""
        assert self._opening is not None
        for name in (TRAIN, VALIDATION):
            if not rung.wants_features(name):
                continue
            report(self.progress("features", plan))
            part = self._opening.parts.load(name, ended)
            if part is None:
                return False
            try:
                if not rung.compute_features(name, part, ended):
                    return False
            except StateError as error:
                rung.forgo_features()
                self._notes.append(f"{error} This plan goes on without keeping them.")
        return True

    def _score(
        self, rung: RungTraining, name: str, plan: TrainingPlan, ended: Stop, report: Report
    ) -> Evaluation | None:
        assert self._opening is not None
        report(self.progress("evaluating", plan))
        part = self._opening.parts.load(name, ended)
        score = None if part is None else rung.evaluate(name, part, ended)
        return None if score is None else self._measured(score, name)

    def _measured(self, score: Evaluation, name: str) -> Evaluation:
        """The score on a part, saying what it is."""
        agrees = self._opening is not None and self._opening.agrees(name)
        return score.model_copy(update={"measure": Measure.AGREEMENT}) if agrees else score

    # the end of a rung

    def _finish(self, rung: RungTraining, plan: TrainingPlan, ended: Stop, report: Report) -> Finished | None:
        """Test, write the patch, and the checkpoint that knows of it; None when ended before that."""
        assert self._opening is not None
        if self._spec.patience is not None and not self._best_taken:
            rung.take(self._best)
            self._best_taken = True
        test: Evaluation | None = None
        if self._opening.parts.has(TEST) and (test := self._score(rung, TEST, plan, ended, report)) is None:
            return None
        trained = self._trained(rung, test, ended)
        if trained is None:
            return None
        finished = save_trained(trained, self._spec, self._position, self._job_id, self._patches_dir)
        self._end_metering()
        self._rung = self._meter = self._opening = self._rival = self._rate_share = None
        self._good, self._best, self._best_taken = {}, {}, False
        self._position = Position(finished=(*self._position.finished, finished), examples=self._examples)
        save_checkpoint(self._checkpoint_dir, Checkpoint(self._position, {}))
        self.features.clear()
        return finished

    def _trained(self, rung: RungTraining, test: Evaluation | None, ended: Stop) -> Trained | None:
        """What the rung gave, with what the patch in force scores on the same images; None when ended before."""
        assert self._opening is not None
        part = self._opening.parts.load(VALIDATION, ended)
        if part is None:
            return None
        course = self._position.course
        point = course.curve[-1] if self._spec.patience is None else course.best
        assert point is not None
        rung.close()
        trained = Trained(
            base=self._base,
            task=self._task,
            resolution=rung.resolution,
            kinds=rung.kinds,
            options=rung.options,
            counts=rung.counts(),
            tensors=rung.patch_tensors(),
            scores={VALIDATION: point.validation} | ({} if test is None else {TEST: test}),
            train_samples=self._data.distinct,
            examples=self._data.examples,
            validation_digest=part.digest(),
        )
        if rung.resolution not in self.in_force:
            return trained
        path = self.in_force[rung.resolution]
        if self._rival is None or self._rival.path != path:
            self._rival = Rival(self._base, path)
        beside = self._rival.beside(trained, part, ended)
        if beside is None or beside.rival is None:
            return beside
        return replace(beside, rival=self._measured(beside.rival, VALIDATION))
