"""The job of several tasks: it trains their patches and the base at once, and makes a version of the base."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from torch import Tensor

from ...policies.base_name import packaged
from ...policies.base_version import VersionMetadata
from ...policies.decision import TrainingPlan
from ...policies.errors import StateError, TrainingError
from ...policies.examples import ExampleFile
from ...policies.task import Evaluation, JobProgress, MemberProgress, TaskSpec, TrainSpec
from ...policies.training_corrections import PlanUse
from ...policies.training_members import members_of
from ..base_versions import BaseVersion, save_version
from ..bases import Base, fingerprint, network_with
from .augmentation import augmentation_of
from .checkpoint import Checkpoint, Finished, MadeVersion, Position, save_checkpoint
from .data import TrainingData, open_training_data
from .features import FeatureStore
from .loop import Report, SliceLoop
from .metering import UseMeter
from .parts import TEST, TRAIN, VALIDATION, RungParts
from .results import Trained, save_trained
from .rival import Rival
from .scoring import Stop
from .shared import Member, MemberParts, SharedRung


class SharedTrainer(SliceLoop[SharedRung]):
    """Trains several tasks on one base. What it makes is `made`, once `done`; slices yield nothing before."""

    def __init__(
        self,
        base: Base,
        tasks: Sequence[TaskSpec],
        spec: TrainSpec,
        job_id: str,
        directories: tuple[Path, Path, Path],
        examples: Sequence[ExampleFile] = (),
    ) -> None:
        """List the data and find the last checkpoint. `directories`: the checkpoint's, of patches, of base versions.

        Raises DataSetError, or BadInputError for kinds of no use and for resolutions that a task does not have.
        """
        checkpoints, patches, self._versions_dir = directories
        known = {task.name: task for task in tasks}
        pairs = members_of(tasks, spec)
        self._members = tuple((known[name], resolution) for name, resolution in pairs)
        self._data = {task.name: open_training_data(task, spec, examples) for task in tasks}
        most = max(len(data.train) for data in self._data.values())
        super().__init__(
            base,
            spec,
            (checkpoints, patches),
            job_id,
            _all_of(self._data),
            per_epoch=max(1, math.ceil(most / spec.batch_size)),
            classes=max(len(task.labels) for task in tasks),
        )
        self.in_force: Mapping[tuple[str, int], Path | None] = {}  # patch files by task and resolution, as `Trainer`'s
        self._stores = tuple(self._store(index) for index in range(len(self._members)))
        if self._anew:
            for store in self._stores:
                store.clear()
        self._parts: tuple[RungParts, ...] = ()
        self._rivals: dict[tuple[str, int], Rival] = {}

    def _store(self, index: int) -> FeatureStore:
        directory = self._checkpoint_dir / f"member-{index}"
        try:
            directory.mkdir(exist_ok=True)
        except OSError as error:
            raise StateError(f"{directory} cannot be made: {error.strerror}.") from error
        return FeatureStore(directory)

    @property
    def done(self) -> bool:
        """Whether the version and its patches are made."""
        return self._position.made is not None

    @property
    def made(self) -> MadeVersion | None:
        """The version and its patches, those of before a restart included."""
        return self._position.made

    @property
    def images(self) -> tuple[int, int]:
        """How many images it trains and validates on: each counts for every member that sees it."""
        data = [self._data[task.name] for task, _ in self._members]
        return sum(len(each.train) for each in data), sum(len(each.validation) for each in data)

    def take_uses(self) -> tuple[PlanUse, ...]:
        """What a member's step took on average since the last call; nothing where they have several resolutions."""
        uses, count = super().take_uses(), len(self._members)
        if len({resolution for _, resolution in self._members}) > 1:
            return ()
        return tuple(
            use.model_copy(
                update={
                    "steps": use.steps * count,
                    "step_ms": use.step_ms / count,
                    "step_cpu_ms": use.step_cpu_ms / count,
                }
            )
            for use in uses
        )

    def progress(self, phase: str = "training", plan: TrainingPlan | None = None) -> JobProgress:
        """Where the job stands, with each member's loss and the length of its gradient on the base."""
        largest = max(resolution for _, resolution in self._members)
        norms = [None] * len(self._members) if self._rung is None else self._rung.norms
        losses = [None] * len(self._members) if self._rung is None else self._rung.losses
        members = tuple(
            MemberProgress(task=task.name, resolution=resolution, loss=loss, gradient_norm=norm)
            for (task, resolution), loss, norm in zip(self._members, losses, norms, strict=True)
        )
        at = self._progress(largest, 0, 1, phase, plan)
        kept = sum(store.bytes for store in self._stores)
        return at.model_copy(update={"members": members, "kept_bytes": kept})

    # what the loop asks for

    def _open_rung(self, plan: TrainingPlan, ended: Stop, report: Report) -> SharedRung | None:
        if not self._parts:
            self._parts = tuple(self._parts_of(task, resolution) for task, resolution in self._members)
        training = []
        for parts in self._parts:
            if not parts.loaded(TRAIN):
                report(self.progress("loading", plan))
            train = parts.load(TRAIN, ended)
            if train is None:
                return None
            training.append(train)
        if self._rung is None:
            made = [
                MemberParts(task, train, store)
                for (task, _), train, store in zip(self._members, training, self._stores, strict=True)
            ]
            total = self._spec.epochs * self._per_epoch
            self._meter = UseMeter(max(side for _, side in self._members), self._spec.batch_size)
            self._rung = SharedRung(self._base, self._spec, made, self._restored, total)
            self._restored = {}
        self._share_quota()
        self._rung.follow(plan)
        if not self._rung.unfreezes:
            raise TrainingError(
                f"The plan unfreezes {plan.fraction:.0%} of the base, which is less than any layer of it: these tasks "
                "have nothing to train together.",
                hint="Submit again with a larger allocation, or train each task alone.",
            )
        return self._rung

    def _parts_of(self, task: TaskSpec, resolution: int) -> RungParts:
        data, spec = self._data[task.name], self._spec
        samples = {TRAIN: data.train, VALIDATION: data.validation, TEST: data.test}
        return RungParts(
            samples,
            resolution,
            task.preprocessing,
            self._base.memory_format,
            augmentation=augmentation_of(task, spec),
            seed=spec.seed,
        )

    def _share_quota(self) -> None:
        quota = self.features.quota_bytes
        for store in self._stores:
            store.quota_bytes = None if quota is None else quota // len(self._stores)

    def _keep_features(self, rung: SharedRung, plan: TrainingPlan, ended: Stop, report: Report) -> bool:
        for member, parts in zip(rung.members, self._parts, strict=True):
            for name in (TRAIN, VALIDATION):
                if not member.wants_features(name):
                    continue
                report(self.progress("features", plan))
                part = parts.load(name, ended)
                if part is None:
                    return False
                try:
                    if not rung.use(member).compute_features(name, part, ended):
                        return False
                except StateError as error:
                    member.forgo_features()
                    self._notes.append(f"{error} Task '{member.task.name}' goes on without keeping them.")
        return True

    def _score(self, rung: SharedRung, name: str, plan: TrainingPlan, ended: Stop, report: Report) -> Evaluation | None:
        """The mean over the members of top-1 on the part `name`; its interval is the mean of theirs."""
        scores = self._member_scores(rung, name, plan, ended, report)
        return None if scores is None else _mean(tuple(scores.values()))

    def _member_scores(
        self, rung: SharedRung, name: str, plan: TrainingPlan, ended: Stop, report: Report
    ) -> dict[int, Evaluation] | None:
        """Top-1 of each member that has the part `name`; None when ended before."""
        report(self.progress("evaluating", plan))
        scores: dict[int, Evaluation] = {}
        for index, (member, parts) in enumerate(zip(rung.members, self._parts, strict=True)):
            if not parts.has(name):
                continue
            part = parts.load(name, ended)
            score = None if part is None else rung.use(member).evaluate(name, part, ended)
            if score is None:
                return None
            scores[index] = score
        return scores

    # the end

    def _finish(self, rung: SharedRung, plan: TrainingPlan, ended: Stop, report: Report) -> Finished | None:
        """Score every member, write the version and the patches, and the checkpoint that knows of them."""
        if self._spec.patience is not None and not self._best_taken:
            rung.take(self._best)
            self._best_taken = True
        validation = self._member_scores(rung, VALIDATION, plan, ended, report)
        test = None if validation is None else self._member_scores(rung, TEST, plan, ended, report)
        if validation is None or test is None:
            return None
        rung.close()
        trained = []
        for index, (member, parts) in enumerate(zip(rung.members, self._parts, strict=True)):
            scores = {VALIDATION: validation[index]} | ({TEST: test[index]} if index in test else {})
            one = self._beside(self._of_member(member, parts, scores), member, parts, ended)
            if one is None:
                return None
            trained.append(one)
        version, name, path = self._write_version(rung)
        base = Base(name, network_with(self._base, version.tensors), self._base.resolution, version)
        members = [self._saved(replace(one, base=base)) for one in trained]
        made = MadeVersion(
            name=name, sha256=path.stem, bytes=path.stat().st_size, metadata=version.metadata, members=tuple(members)
        )
        self._end_metering()
        self._rung = self._meter = None
        self._position = Position(made=made)
        save_checkpoint(self._checkpoint_dir, Checkpoint(self._position, {}))
        for store in self._stores:
            store.clear()
        return None

    def _saved(self, trained: Trained) -> Finished:
        finished = save_trained(trained, self._spec, self._position, self._job_id, self._patches_dir)
        result = finished.result.model_copy(update={"task": trained.task.name})
        return finished.model_copy(update={"result": result})

    def _write_version(self, rung: SharedRung) -> tuple[BaseVersion, str, Path]:
        """What the base has become: the tensors trained now, and those in which its parent differed already."""
        before = self._base.version
        trained = {name: parameter.detach() for name, parameter in rung.shared.parameters.items()}
        tensors: dict[str, Tensor] = ({} if before is None else dict(before.tensors)) | trained
        metadata = VersionMetadata(
            base=packaged(self._base.name),
            base_hash=self._base.hash if before is None else before.metadata.base_hash,
            hash=fingerprint(network_with(self._base, tensors)),
            parent=self._base.name,
            parent_hash=self._base.hash,
            tasks=tuple(dict.fromkeys(task.name for task, _ in self._members)),
            job_id=self._job_id,
            parameters=sum(tensor.numel() for tensor in tensors.values()),
            created_s=time.time(),
        )
        version = BaseVersion(metadata, tensors)
        return version, *save_version(version, self._versions_dir)

    def _of_member(self, member: Member, parts: RungParts, scores: Mapping[str, Evaluation]) -> Trained:
        validation = parts.load(VALIDATION, _never)
        assert validation is not None
        return Trained(
            base=self._base,
            task=member.task,
            resolution=member.resolution,
            kinds=self._spec.kinds,
            counts=member.counts(),
            tensors=member.patch_tensors(),
            scores=scores,
            train_samples=self._data[member.task.name].distinct,
            examples=self._data[member.task.name].examples,
            options=self._spec.options,
            validation_digest=validation.digest(),
        )

    def _beside(self, trained: Trained, member: Member, parts: RungParts, ended: Stop) -> Trained | None:
        """With what the patch in force scores on the same images, on the base that the job began from."""
        key = member.task.name, member.resolution
        part = parts.load(VALIDATION, ended)
        if key not in self.in_force or part is None:
            return trained
        path = self.in_force[key]
        if key not in self._rivals or self._rivals[key].path != path:
            self._rivals[key] = Rival(self._base, path)
        return self._rivals[key].beside(trained, part, ended)


def _never() -> bool:
    return False


def _all_of(data: Mapping[str, TrainingData]) -> TrainingData:
    """The images of all tasks as one, to be looked at before the first step; what is wrong is told task by task."""
    return TrainingData(
        tuple(sample for each in data.values() for sample in each.train),
        tuple(sample for each in data.values() for sample in each.validation),
        tuple(sample for each in data.values() for sample in each.test),
        tuple(f"task '{task}': {problem}" for task, each in data.items() for problem in each.problems),
        key=" ".join(each.key for each in data.values()).strip(),
    )


def _mean(scores: Sequence[Evaluation]) -> Evaluation:
    return Evaluation(
        accuracy=fmean(score.accuracy for score in scores),
        samples=sum(score.samples for score in scores),
        low=fmean(score.low for score in scores),
        high=fmean(score.high for score in scores),
    )
