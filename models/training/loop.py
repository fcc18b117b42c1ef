"""Training in slices that can be ended at every step and resumed exactly; what is trained is a subclass's matter.

The order of the data follows from (seed, resolution, epoch) alone and the learning rate from the step alone, so
a checkpoint needs only parameters, optimiser state and position.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from ...policies.decision import TrainingPlan
from ...policies.errors import TrainingError
from ...policies.task import Evaluation, JobProgress, Precision, TrainSpec
from ...policies.training_corrections import PlanUse
from ..bases import Base
from ..patches import check_useful, make_kinds
from .checkpoint import Checkpoint, Finished, Position, load_checkpoint, save_checkpoint
from .course import RETRY_RATE, Course
from .data import ImageCheck, TrainingData
from .features import FeatureStore
from .metering import UseMeter
from .parts import VALIDATION
from .rung import NotFiniteError, StepReport
from .scoring import Stop

PROGRESS_EVERY_S = 0.25
LOWER_RATE = "Submit again with a lower learning rate."

Report = Callable[[JobProgress], None]


class InHand(Protocol):
    """What is being trained: a rung, or several at once."""

    resolution: int
    samples_per_s: float | None

    @property
    def kept_from(self) -> int | None:
        """The first unit that still runs where features are kept."""
        ...

    def size(self, number: int) -> int:
        """How many images step `number` takes."""
        ...

    def step(self, number: int, rate: float) -> StepReport:
        """Optimiser step `number`, with `rate` times the usual rates."""
        ...

    def check_finite(self) -> None:
        """Raises NotFiniteError for a parameter that is no longer a number."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: parameters under `p.NAME`, the optimiser's state under `o.FIELD.NAME`."""
        ...

    def values(self) -> dict[str, Tensor]:
        """Copies of the parameters by name."""
        ...

    def take(self, values: Mapping[str, Tensor]) -> None:
        """Give the parameters the `values` that they had once."""
        ...

    def close(self) -> None:
        """Give the base back as it was."""
        ...


R = TypeVar("R", bound=InHand)


class SliceLoop(ABC, Generic[R]):
    """Steps, epochs, early stopping, going back and checkpoints of one job. Not safe for use from several threads."""

    def __init__(
        self,
        base: Base,
        spec: TrainSpec,
        directories: tuple[Path, Path],
        job_id: str,
        data: TrainingData,
        *,
        per_epoch: int,
        classes: int,
    ) -> None:
        """Find the last checkpoint; one that has learned from other examples serves no more.

        `directories` are the checkpoint's and that of patches; `data` are all images. `per_epoch` counts steps,
        `classes` those of the task with most. Raises BadInputError for kinds of no use.
        """
        check_useful(make_kinds(spec.kinds, spec.options), base.network)
        self._base, self._spec, self._job_id = base, spec, job_id
        self._checkpoint_dir, self._patches_dir = directories
        self._per_epoch, self._classes = per_epoch, classes
        self.features = FeatureStore(self._checkpoint_dir)
        found, self._notes = load_checkpoint(self._checkpoint_dir)
        self._position = Position(examples=data.key)
        self._restored: dict[str, Tensor] = {}
        self._good: dict[str, Tensor] = {}  # parameters at the end of the last epoch done
        self._best: dict[str, Tensor] = {}  # and of the best one; kept for early stopping alone
        self._examples = data.key
        self._anew = found is not None and found.position.examples != data.key
        if found is not None and self._anew:
            self._position = Position(finished=found.position.finished, examples=data.key)
            self.features.clear()
            self._notes.append("Other examples may be used than before, so the rung in hand begins anew.")
        elif found is not None:
            self._position, self._restored = found.position, dict(found.tensors)
            self._good = found.part("g.")
            self._best = found.part("b.") or self._good
        self._check = ImageCheck(data) if found is None or data.problems else None
        self._rung: R | None = None
        self._meter: UseMeter | None = None
        self._uses: list[PlanUse] = []
        self._rate_share: float | None = None
        self._best_taken = False
        self._since_s = self._reported_s = 0.0

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether everything is trained."""

    @abstractmethod
    def progress(self, phase: str = "training", plan: TrainingPlan | None = None) -> JobProgress:
        """Where the job stands."""

    @abstractmethod
    def _open_rung(self, plan: TrainingPlan, ended: Stop, report: Report) -> R | None:
        """What is to be trained next, under `plan`; None when ended before it can begin."""

    @abstractmethod
    def _keep_features(self, rung: R, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        """Have the features on disk that the plan wants kept; False when ended before all are there."""

    @abstractmethod
    def _score(self, rung: R, name: str, plan: TrainingPlan, ended: Stop, report: Report) -> Evaluation | None:
        """Top-1 on the part `name`; None when ended before, then the next call goes on."""

    @abstractmethod
    def _finish(self, rung: R, plan: TrainingPlan, ended: Stop, report: Report) -> Finished | None:
        """Make of it what it is for, and the checkpoint that knows of that; None when ended before."""

    @property
    def finished(self) -> tuple[Finished, ...]:
        """The rungs done so far, those before a restart included."""
        return self._position.finished

    def take_uses(self) -> tuple[PlanUse, ...]:
        """What the plans that ran since the last call took."""
        uses, self._uses = tuple(self._uses), []
        return uses

    def take_notes(self) -> tuple[str, ...]:
        """What the operator should know and has not been told yet, in sentences."""
        notes, self._notes = tuple(self._notes), []
        return notes

    def _progress(self, resolution: int, rung: int, rungs: int, phase: str, plan: TrainingPlan | None) -> JobProgress:
        course, in_hand = self._position.course, self._rung
        return JobProgress(
            rung=rung,
            rungs=rungs,
            resolution=resolution,
            epoch=min(self._spec.epochs, course.step // max(1, self._per_epoch)),
            epochs=self._spec.epochs,
            step=course.step,
            steps=self._spec.epochs * self._per_epoch,
            loss=course.loss,
            samples_per_s=None if in_hand is None else in_hand.samples_per_s,
            rate_share=self._rate_share,
            validation=course.curve[-1].validation.accuracy if course.curve else None,
            best_epoch=None if course.best is None else course.best.epoch,
            kept_from=None if in_hand is None else in_hand.kept_from,
            kept_bytes=self.features.bytes,
            plan=plan,
            precision=self._position.precision,
            phase=phase,
        )

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
        """Have on the disk all that the next slice needs. Raises StateError."""
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

    def _train_epoch(self, rung: R, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        """Steps up to the end of the epoch in hand; False when ended before it, or at it."""
        assert self._meter is not None
        due = (len(self._position.course.curve) + 1) * self._per_epoch
        if self._position.course.step < due:
            self._meter.begin(plan, bf16=self._position.precision is Precision.BF16)
        while (number := self._position.course.step) < due:
            with self._meter.step(rung.size(number)):
                step = rung.step(number, self._position.course.rate)
            self._rate_share = step.rate_share
            self._move(self._position.course.after_step(step.loss), plan)
            if self._position.course.diverges(self._classes):
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

    def _validate(self, rung: R, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
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
