"""Training of a task's rungs in slices that can be ended at every step and resumed exactly.

The order of the data follows from (seed, resolution, epoch) alone and the learning rate from the step alone, so
a checkpoint needs only parameters, optimiser state and position.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from torch import Tensor

from ...policies.decision import TrainingPlan
from ...policies.errors import StateError, TrainingError
from ...policies.task import Evaluation, JobProgress, PatchKind, TaskSpec, TrainSpec
from ...policies.training_corrections import PlanUse
from ..bases import Base
from ..patches import check_useful, make_kinds
from .checkpoint import Checkpoint, Finished, Position, load_checkpoint, save_checkpoint
from .course import RETRY_RATE, Course
from .data import ImageCheck, open_training_data
from .features import FeatureStore
from .metering import UseMeter
from .parts import TEST, TRAIN, VALIDATION, RungParts
from .results import Trained, save_trained
from .rival import Rival
from .rung import NotFiniteError, RungTraining
from .scoring import Stop

PROGRESS_EVERY_S = 0.25
LOWER_RATE = "Submit again with a lower learning rate."

Report = Callable[[JobProgress], None]


class Trainer:
    """Trains the rungs of one job, one after the other. Not safe for use from several threads."""

    def __init__(
        self, base: Base, task: TaskSpec, spec: TrainSpec, job_id: str, checkpoint_dir: Path, patches_dir: Path
    ) -> None:
        """List the data and find the last checkpoint. Raises DataSetError, or BadInputError for kinds of no use."""
        check_useful(make_kinds(spec.kinds, spec.options), base.network)
        self._base, self._task, self._spec, self._job_id = base, task, spec, job_id
        self._checkpoint_dir, self._patches_dir = checkpoint_dir, patches_dir
        self._data = open_training_data(task, spec)
        self._resolutions = tuple(dict.fromkeys(spec.resolutions or task.bases[spec.base or task.base]))
        self._per_epoch = max(1, math.ceil(len(self._data.train) / spec.batch_size))
        self.features = FeatureStore(checkpoint_dir)
        self.in_force: Mapping[int, Path] = {}  # patch files by resolution: what a finished rung is compared with
        found, self._notes = load_checkpoint(checkpoint_dir)
        self._position = Position()
        self._restored: dict[str, Tensor] = {}
        self._good: dict[str, Tensor] = {}  # parameters at the end of the last epoch done
        self._best: dict[str, Tensor] = {}  # and of the best one; kept for early stopping alone
        if found is not None:
            self._position, self._restored = found.position, dict(found.tensors)
            self._good = found.part("g.")
            self._best = found.part("b.") or self._good
        self._check = ImageCheck(self._data) if found is None or self._data.problems else None
        self._parts: RungParts | None = None
        self._rung: RungTraining | None = None
        self._rival: Rival | None = None
        self._meter: UseMeter | None = None
        self._uses: list[PlanUse] = []
        self._rate_share: float | None = None
        self._best_taken = False
        self._since_s = self._reported_s = 0.0

    @property
    def finished(self) -> tuple[Finished, ...]:
        """The rungs done so far, those before a restart included."""
        return self._position.finished

    @property
    def done(self) -> bool:
        """Whether every rung is trained."""
        return len(self._position.finished) >= len(self._resolutions)

    def take_uses(self) -> tuple[PlanUse, ...]:
        """What the plans that ran since the last call took."""
        uses, self._uses = tuple(self._uses), []
        return uses

    def take_notes(self) -> tuple[str, ...]:
        """What the operator should know and has not been told yet, in sentences."""
        notes, self._notes = tuple(self._notes), []
        return notes

    def progress(self, phase: str = "training", plan: TrainingPlan | None = None) -> JobProgress:
        """Where the job stands."""
        course, rung = self._position.course, self._rung
        return JobProgress(
            rung=min(len(self.finished), len(self._resolutions) - 1),
            rungs=len(self._resolutions),
            resolution=self._position.resolution or self._next_resolution(plan),
            epoch=min(self._spec.epochs, course.step // self._per_epoch),
            epochs=self._spec.epochs,
            step=course.step,
            steps=self._spec.epochs * self._per_epoch,
            loss=course.loss,
            samples_per_s=None if rung is None else rung.samples_per_s,
            rate_share=self._rate_share,
            validation=course.curve[-1].validation.accuracy if course.curve else None,
            best_epoch=None if course.best is None else course.best.epoch,
            kept_from=None if rung is None else rung.kept_from,
            kept_bytes=self.features.bytes,
            plan=plan,
            phase=phase,
        )

    def _next_resolution(self, plan: TrainingPlan | None) -> int:
        done = {finished.result.resolution for finished in self.finished}
        left = [side for side in self._resolutions if side not in done]
        if plan is not None and plan.resolution in left:
            return plan.resolution
        return left[0] if left else self._resolutions[-1]

    # slices

    def run_slice(self, plan: TrainingPlan, seconds: float, should_yield: Stop, report: Report) -> Iterator[Finished]:
        """Train for at most `seconds`, yielding each rung as it is finished; a checkpoint is on disk at the end.

        Raises TrainingError when training fails for good, DataSetError when the data cannot be trained on.
        """
        deadline = time.monotonic() + seconds

        def ended() -> bool:
            return should_yield() or time.monotonic() >= deadline

        try:
            while not self.done and not ended():
                self._since_s = time.monotonic()
                try:
                    finished = self._advance(plan, ended, report)
                except NotFiniteError as error:
                    self._go_back(error.message)
                    continue
                if finished is not None:
                    yield finished
            self._save()
        finally:
            self._end_metering()
            if self._rung is not None:
                self._rung.close()

    def _save(self) -> None:
        if self._rung is None:
            return
        tensors = self._rung.state() | {f"g.{name}": value for name, value in self._good.items()}
        if self._best is not self._good:
            tensors |= {f"b.{name}": value for name, value in self._best.items()}
        save_checkpoint(self._checkpoint_dir, Checkpoint(self._position, tensors))

    def _advance(self, plan: TrainingPlan, ended: Stop, report: Report) -> Finished | None:
        """Go on with the rung in hand until it is done, or until told to end; the rung if done."""
        if self._check is not None:
            report(self.progress("checking images", plan))
            if not self._check.run(ended):
                return None
            self._check = None
        rung = self._open_rung(plan, ended, report)
        if rung is None or not self._keep_features(rung, plan, ended, report):
            return None
        while not self._position.course.ends(self._spec.epochs, self._spec.patience):
            if not self._train_epoch(rung, plan, ended, report) or not self._validate(rung, plan, ended, report):
                return None
        return self._finish(rung, plan, ended, report)

    def _open_rung(self, plan: TrainingPlan, ended: Stop, report: Report) -> RungTraining | None:
        resolution = self._position.resolution or self._next_resolution(plan)
        if self._parts is None or self._parts.resolution != resolution:
            samples = {TRAIN: self._data.train, VALIDATION: self._data.validation, TEST: self._data.test}
            self._parts = RungParts(
                samples, resolution, self._task.preprocessing, self._base.memory_format, seed=self._spec.seed
            )
        self._position = self._position.model_copy(update={"resolution": resolution})
        if not self._parts.loaded(TRAIN):
            report(self.progress("loading", plan))
        train = self._parts.load(TRAIN, ended)
        if train is None:
            return None
        if self._rung is None:
            self._meter = UseMeter(resolution, self._spec.batch_size)
            self._rung = RungTraining(self._base, self._task, self._spec, train, self._restored, self.features)
            self._restored = {}
        self._rung.follow(plan)
        return self._rung

    def _keep_features(self, rung: RungTraining, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        """Have the features on disk that the plan wants kept; False when ended before all are there."""
        assert self._parts is not None
        for name in (TRAIN, VALIDATION):
            if not rung.wants_features(name):
                continue
            report(self.progress("features", plan))
            part = self._parts.load(name, ended)
            if part is None:
                return False
            try:
                if not rung.compute_features(name, part, ended):
                    return False
            except StateError as error:
                rung.forgo_features()
                self._notes.append(f"{error} This plan goes on without keeping them.")
        return True

    def _train_epoch(self, rung: RungTraining, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        """Steps up to the end of the epoch in hand; False when ended before it, or at it."""
        assert self._meter is not None
        due = (len(self._position.course.curve) + 1) * self._per_epoch
        if self._position.course.step < due:
            self._meter.begin(plan)
        while (number := self._position.course.step) < due:
            with self._meter.step(rung.order.size(number)):
                step = rung.step(number, self._position.course.rate)
            self._rate_share = step.rate_share
            self._move(self._position.course.after_step(step.loss), plan)
            if self._position.course.diverges(len(self._task.labels)):
                raise NotFiniteError(
                    f"The loss grew beyond bounds by step {number + 1} of the {rung.resolution} px rung"
                )
            if time.monotonic() - self._reported_s >= PROGRESS_EVERY_S:
                self._reported_s = time.monotonic()
                report(self.progress(plan=plan))
            if ended():
                return False
        return True

    def _move(self, course: Course, plan: TrainingPlan) -> None:
        now = time.monotonic()
        at = self._position
        self._position = at.model_copy(
            update={
                "course": course,
                "seconds": at.seconds + now - self._since_s,
                "reach": min(at.reach, plan.reach),
                "fraction": max(at.fraction, plan.fraction),
            }
        )
        self._since_s = now

    def _end_metering(self) -> None:
        if self._meter is not None:
            self._uses.extend(self._meter.take())

    def _validate(self, rung: RungTraining, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        """Score the epoch that has ended on the validation part, and keep its weights; False when ended before."""
        rung.check_finite()
        score = self._score(rung, VALIDATION, plan, ended, report)
        if score is None:
            return False
        self._move(self._position.course.after_epoch(score, self._per_epoch), plan)
        self._good = rung.values()
        best = self._position.course.best
        if self._spec.patience is None or best is self._position.course.curve[-1]:
            self._best = self._good
        report(self.progress("evaluating", plan))
        return True

    def _score(
        self, rung: RungTraining, name: str, plan: TrainingPlan, ended: Stop, report: Report
    ) -> Evaluation | None:
        assert self._parts is not None
        report(self.progress("evaluating", plan))
        part = self._parts.load(name, ended)
        return None if part is None else rung.evaluate(name, part, ended)

    def _go_back(self, what: str) -> None:
        """To the weights of the last good epoch, once, with lower rates. Raises TrainingError the second time."""
        course = self._position.course
        if course.went_back:
            raise TrainingError(
                f"{what}, again after going back to the last good epoch with {RETRY_RATE:g} of the learning rate.",
                hint=LOWER_RATE,
            )
        where = f"the weights of epoch {len(course.curve)}" if course.curve else "the rung's beginning"
        self._notes.append(f"{what}; training goes back to {where}, with {RETRY_RATE:g} of the learning rate.")
        if self._rung is not None:
            self._end_metering()
            self._rung.close()
        self._rung = self._meter = None
        self._restored = {f"p.{name}": value for name, value in self._good.items()}
        self._position = self._position.model_copy(update={"course": course.back(self._per_epoch)})

    # the end of a rung

    def _finish(self, rung: RungTraining, plan: TrainingPlan, ended: Stop, report: Report) -> Finished | None:
        """Test, write the patch, and the checkpoint that knows of it; None when ended before that."""
        assert self._parts is not None
        if self._spec.patience is not None and not self._best_taken:
            rung.take(self._best)
            self._best_taken = True
        test: Evaluation | None = None
        if self._parts.has(TEST) and (test := self._score(rung, TEST, plan, ended, report)) is None:
            return None
        trained = self._trained(rung, test, ended)
        if trained is None:
            return None
        finished = save_trained(trained, self._spec, self._position, self._job_id, self._patches_dir)
        self._end_metering()
        self._rung = self._meter = self._parts = self._rival = self._rate_share = None
        self._good, self._best, self._best_taken = {}, {}, False
        self._position = Position(finished=(*self._position.finished, finished))
        save_checkpoint(self._checkpoint_dir, Checkpoint(self._position, {}))
        self.features.clear()
        return finished

    def _trained(self, rung: RungTraining, test: Evaluation | None, ended: Stop) -> Trained | None:
        """What the rung gave, with what the patch in force scores on the same images; None when ended before."""
        assert self._parts is not None
        part = self._parts.load(VALIDATION, ended)
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
            kinds=(*self._spec.kinds, PatchKind.BASE_FRACTION) if rung.unfreezes else self._spec.kinds,
            counts=rung.counts(),
            tensors=rung.patch_tensors(),
            scores={VALIDATION: point.validation} | ({} if test is None else {TEST: test}),
            train_samples=len(self._data.train),
            validation_digest=part.digest(),
        )
        path = self.in_force.get(rung.resolution)
        if path is None:
            return trained
        if self._rival is None or self._rival.path != path:
            self._rival = Rival(self._base, path)
        return self._rival.beside(trained, part, ended)
