"""Training of a task's rungs in slices that can be ended at every step and resumed exactly.

The order of the data follows from (seed, resolution, epoch) alone and the learning rate from the step alone, so
a checkpoint needs only parameters, optimiser state and position.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...policies.decision import TrainingPlan
from ...policies.task import Evaluation, JobProgress, PatchKind, TaskSpec, TrainSpec
from ...policies.training_corrections import PlanUse
from ..bases import Base
from ..datasets import Sample
from ..patches import check_useful, make_kinds
from .checkpoint import Checkpoint, Finished, Position, load_checkpoint, save_checkpoint
from .data import ImageCheck, open_training_data
from .inputs import PartInputs, load_part
from .metering import UseMeter
from .results import Trained, save_trained
from .rung import RungTraining
from .scoring import Stop

PROGRESS_EVERY_S = 0.25

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
        self._resolutions = spec.resolutions or task.bases[spec.base or task.base]
        self._steps = spec.epochs * max(1, math.ceil(len(self._data.train) / spec.batch_size))
        found, self.notes = load_checkpoint(checkpoint_dir)
        self._position = found.position if found is not None else Position()
        self._restored = dict(found.tensors) if found is not None else {}
        self._rung: RungTraining | None = None
        self._meter: UseMeter | None = None
        self._uses: list[PlanUse] = []
        self._check = ImageCheck(self._data) if found is None else None

    @property
    def finished(self) -> tuple[Finished, ...]:
        """The rungs done so far, those before a restart included."""
        return self._position.finished

    @property
    def done(self) -> bool:
        """Whether every rung is trained."""
        return self._position.rung >= len(self._resolutions)

    def take_uses(self) -> tuple[PlanUse, ...]:
        """What the plans that ran since the last call took."""
        uses, self._uses = tuple(self._uses), []
        return uses

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
        if self._check is not None:
            report(self.progress("checking images"))
            if not self._check.run(lambda: should_yield() or time.monotonic() >= deadline):
                return None
            self._check = None
        began = time.monotonic()
        rung, meter = self._open_rung(plan, report)
        before, last_report = self._position.seconds, 0.0
        while self._position.step < self._steps:
            with meter.step(rung.order.size(self._position.step)):
                step = rung.step(self._position.step)
            self._position = self._position.model_copy(
                update={
                    "step": self._position.step + 1,
                    "loss": step.loss,
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
        self._uses.extend(meter.take())
        if self._position.step < self._steps:
            return None
        report(self.progress("evaluating", plan))
        return self._finish(rung, should_yield)

    def _open_rung(self, plan: TrainingPlan, report: Report) -> tuple[RungTraining, UseMeter]:
        if self._rung is None or self._meter is None:
            report(self.progress("loading", plan))
            resolution = self._resolutions[self._position.rung]
            train = self._inputs(self._data.train, resolution)
            self._meter = UseMeter(resolution, self._spec.batch_size)
            self._rung = RungTraining(self._base, self._task, self._spec, train, self._restored)
            self._restored = {}
        self._rung.follow(plan)
        if self._rung.needs_features:
            report(self.progress("features", plan))
            self._rung.compute_features()
        self._meter.begin(plan)
        return self._rung, self._meter

    def _inputs(self, samples: Sequence[Sample], resolution: int) -> PartInputs:
        part = load_part(samples, resolution, self._task.preprocessing)
        return PartInputs(part, self._task.preprocessing, self._base.memory_format, seed=self._spec.seed)

    def _finish(self, rung: RungTraining, should_yield: Stop) -> Finished | None:
        """Evaluate, save the patch and the checkpoint that knows of it; None when asked to yield before that."""
        rung.check_finite()
        scores: dict[str, Evaluation] = {}
        for name in ("validation", "test"):
            samples: tuple[Sample, ...] = getattr(self._data, name)
            if samples:
                score = rung.evaluate(name, self._inputs(samples, rung.resolution), should_yield)
                if score is None:
                    return None
                scores[name] = score
        rung.close()
        trained = Trained(
            base=self._base,
            task=self._task,
            resolution=rung.resolution,
            kinds=self._spec.kinds if rung.fraction == 0 else (*self._spec.kinds, PatchKind.BASE_FRACTION),
            counts=rung.counts(),
            tensors=rung.patch_tensors(),
            scores=scores,
            train_samples=len(self._data.train),
        )
        finished = save_trained(trained, self._spec, self._position, self._job_id, self._patches_dir)
        self._rung = self._meter = None
        self._position = Position(rung=self._position.rung + 1, finished=(*self._position.finished, finished))
        save_checkpoint(self._checkpoint_dir, Checkpoint(self._position, {}))
        return finished
