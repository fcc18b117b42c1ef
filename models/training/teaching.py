"""Learning from a teacher: its softened answers beside the labels, or in their place.

The loss is that of Hinton et al. 2015 (arXiv 1503.02531), section 2: the Kullback-Leibler divergence from the
teacher's probabilities at a temperature T to the student's at the same one, times T squared so that its gradients keep
their size. Teachers are the full resolution, or as in Wang et al. 2020 (RS-Net, arXiv 2007.09558) the ensemble of all
resolutions. That paper adds cross-entropy and divergence with equal weights, as here, at T = 1; it learns the weights
of its ensemble's logits, where probabilities are averaged here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from ...policies.base_version import sides_on
from ...policies.errors import TrainingError
from ...policies.task import RungResult, TaskSpec, Teacher, TrainSpec
from ...policies.teaching import RungInForce, TeachingRecord, inherits, teachers, with_made
from ..bases import Base
from ..datasets import Sample
from ..durable import write_durably
from .answers import RungAnswers
from .data import TrainingData
from .inheriting import Heritage, heritage_of
from .objective import Labels, MicroBatch, Objective
from .parts import TRAIN, VALIDATION
from .unlabelled import UnlabelledCheck, unlabelled_data

TEMPERATURE = 2.0  # Hinton et al. found 2.5 to 4 right for small students, more for large ones; RS-Net has 1
LABEL_SHARE = 0.5  # of the loss, where there are labels
RECORD = "teaching.json"


class Taught:
    """Divergence from the teacher's probabilities, mixed with cross-entropy where there are labels."""

    def __init__(self, targets: Tensor, *, labelled: bool) -> None:
        """`targets`: float32 [N, C], the teacher's probabilities at `TEMPERATURE` for each image of the part."""
        self._targets, self._labelled = targets, labelled

    def losses(self, logits: Tensor, batch: MicroBatch) -> Tensor:
        """As `Objective` says."""
        student = nn.functional.log_softmax(logits / TEMPERATURE, 1)
        divergence = nn.functional.kl_div(student, self._targets[batch.chosen], reduction="none").sum(1)
        taught = TEMPERATURE**2 * divergence
        if not self._labelled:
            return taught
        told = nn.functional.cross_entropy(logits, batch.classes, reduction="none")
        return LABEL_SHARE * told + (1 - LABEL_SHARE) * taught


def mean_probabilities(logits: Sequence[Tensor], temperature: float) -> Tensor:
    """The average of several networks' probabilities at `temperature`: float32 [N, C] of logits [N, C] each."""
    return torch.stack([each.div(temperature).softmax(1) for each in logits]).mean(0)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one rung learns from."""

    objective: Objective
    classes: Mapping[str, Tensor]  # of parts without labels, int64 [N]: the teacher's first answers
    heritage: Heritage | None


class Teaching:
    """Prepares the lesson of each rung of one job. Not to be used while a rung is bound to the base.

    Whose answers count, and on which images, is fixed when the job begins and kept in its directory.
    """

    def __init__(
        self,
        base: Base,
        task: TaskSpec,
        spec: TrainSpec,
        labelled: TrainingData,
        directories: tuple[Path, Path],
    ) -> None:
        """`directories` are the job's own and that of the patches.

        Raises DataSetError when the directory of unlabelled images cannot be read, or holds too few.
        """
        self._base, self._task, self._spec, self._labelled = base, task, spec, labelled
        self._directory, self._patches_dir = directories
        self._full = max(sides_on(task, spec.base or task.base))
        self._answers: dict[tuple[str | None, int, str], RungAnswers] = {}
        self._record = _read(self._directory / RECORD)
        self._check: UnlabelledCheck | None = None
        if self._record is None and spec.unlabelled is not None:
            self._check = UnlabelledCheck(Path(spec.unlabelled))
        listed = () if self._check is None else self._check.listed
        self._data = self._parts(listed if self._record is None else self._record.images)

    @property
    def begun(self) -> bool:
        """Whether it is fixed what the job keeps to."""
        return self._record is not None

    @property
    def data(self) -> TrainingData:
        """What the job trains and validates on; until it has begun, with images that may turn out to be broken."""
        return self._data

    def begin(self, in_force: Mapping[int, Path | None], should_end: Callable[[], bool]) -> bool:
        """Look at the unlabelled images and fix what the job keeps to; False when told to end before that.

        `in_force` are the patches that answer now, by resolution; None is the base as it is.

        Raises DataSetError when too few images can be used, StateError when that cannot be kept.
        """
        if self.begun:
            return True
        if self._check is not None and not self._check.run(should_end):
            return False
        images = () if self._check is None else self._check.usable
        rungs = tuple(
            RungInForce(resolution=side, file=None if file is None else str(file)) for side, file in in_force.items()
        )
        record = TeachingRecord(in_force=rungs, images=images)
        data = self._parts(images)
        write_durably(self._directory / RECORD, record.model_dump_json().encode())
        self._record, self._data = record, data
        return True

    @property
    def note(self) -> str | None:
        """Which unlabelled images are left out, where there are such."""
        return None if self._check is None else self._check.note

    def _parts(self, images: tuple[str, ...]) -> TrainingData:
        if self._spec.unlabelled is None:
            return self._labelled
        return unlabelled_data(Path(self._spec.unlabelled), images, self._spec, self._labelled)

    def prepare(self, made: Sequence[RungResult], should_end: Callable[[], bool], at_once: int) -> Lesson | None:
        """The lesson of the next rung, after the job has `made` others; None when told to end before that.

        Teachers answer so many images `at_once`.

        Raises TrainingError when there is no teacher, or its patch is gone; DataSetError for a broken image.
        """
        if self._record is None:
            raise RuntimeError("a lesson needs a job that has begun")
        rungs = with_made(self._record.in_force, made, str(self._patches_dir))
        chosen = teachers(self._spec.teacher, rungs, self._full)
        labelled = self._spec.unlabelled is None
        if not chosen and not labelled:
            raise TrainingError(
                f"Task '{self._task.name}' has no rung in force that could teach.",
                hint="Train its full resolution with labels first.",
            )
        parts = (TRAIN,) if labelled else (TRAIN, VALIDATION)
        if not all(self._of(rung, part).run(should_end, at_once) for rung in chosen for part in parts):
            return None
        full = teachers(Teacher.FULL, rungs, self._full)
        return Lesson(
            objective=self._objective(chosen, labelled=labelled),
            classes={} if labelled else {part: self._classes(chosen, part) for part in parts},
            heritage=heritage_of(full, self._spec, self._base) if inherits(self._spec, self._task) else None,
        )

    def _of(self, rung: RungInForce, part: str) -> RungAnswers:
        key = rung.file, rung.resolution, part
        if key not in self._answers:
            samples: tuple[Sample, ...] = getattr(self._data, part)  # train or validation
            self._answers[key] = RungAnswers(self._base, rung, samples, self._task.preprocessing, self._directory)
        return self._answers[key]

    def _objective(self, chosen: Sequence[RungInForce], *, labelled: bool) -> Objective:
        if not chosen:
            return Labels()
        targets = mean_probabilities([self._of(rung, TRAIN).logits for rung in chosen], TEMPERATURE)
        return Taught(targets, labelled=labelled)

    def _classes(self, chosen: Sequence[RungInForce], part: str) -> Tensor:
        """The teacher's first answers, int64 [N]."""
        return mean_probabilities([self._of(rung, part).logits for rung in chosen], 1.0).argmax(1)

    def save(self) -> None:
        """Keep on the disk what has been computed. Raises StateError."""
        for answers in self._answers.values():
            answers.save()


def _read(path: Path) -> TeachingRecord | None:
    """What an interrupted job has fixed; None where it has not begun. Written whole or not at all."""
    try:
        return TeachingRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise TrainingError(
            f"What the job had fixed at its beginning, {path}, cannot be read ({type(error).__name__}).",
            hint="Submit again.",
        ) from error
