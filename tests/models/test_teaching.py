"""Taught rungs: what they learn from, what they keep of the full resolution, and that interruptions change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from networks import SIDE, make
from patchd.models.bases import Base, fingerprint
from patchd.models.datasets import open_data
from patchd.models.engine import TorchEngine
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.models.training.answers import RungAnswers
from patchd.models.training.checkpoint import Finished
from patchd.models.training.objective import MicroBatch
from patchd.models.training.teaching import LABEL_SHARE, TEMPERATURE, Taught, mean_probabilities
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import DataSetError, TrainingError
from patchd.policies.task import (
    JobProgress,
    KindOptions,
    Measure,
    PatchKind,
    Preprocessing,
    TaskSpec,
    Teacher,
    TrainSpec,
)
from patchd.policies.teaching import RungInForce
from torch import Tensor, nn

FULL, LOW = 64, 32
TASK = TaskSpec(
    name="digits",
    labels=tuple("0123456789"),
    resolutions=(FULL, LOW),
    data="sklearn:digits",
    preprocessing=Preprocessing(crop_fraction=1.0),
)
K = PatchKind
BOTH = (K.SCALE_BIAS, K.HEAD)
SPEC = TrainSpec(task="digits", kinds=BOTH, resolutions=(LOW,), epochs=2, batch_size=32, max_samples=64)
PLAN = TrainingPlan(paused=False)
IMAGES = 48  # without labels
STEPS = 2  # of an epoch, with labels and without


@pytest.fixture(scope="module")
def base() -> Base:
    return Base("small", make("efficientnet_lite"), SIDE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures without labels in folders, one of them broken, and one that is hidden."""
    root = tmp_path_factory.mktemp("camera")
    for index, sample in enumerate(open_data("sklearn:digits").train[:IMAGES]):
        folder = root / f"day {index % 3}"
        folder.mkdir(exist_ok=True)
        sample.load(8).save(folder / f"{index}.png")
    (root / "day 0" / "broken.png").write_bytes((root / "day 0" / "0.png").read_bytes()[:40])
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "0.png").write_bytes((root / "day 0" / "0.png").read_bytes())
    (root / "notes.txt").write_text("no image")
    return root


class Ends:
    """Ends a slice wherever it may end: after one batch of answers or statistics, and in the middle of an epoch."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._start, self._phase = trainer, trainer.progress().step, ""

    def report(self, progress: JobProgress) -> None:
        self._phase = progress.phase

    def __call__(self) -> bool:
        if self._phase in ("asking the teacher", "statistics") and self._trainer.progress().step == 0:
            return True
        step = self._trainer.progress().step
        return step > self._start and step % STEPS != 0


class Job:
    """One job in a directory of its own; patches are shared."""

    def __init__(self, base: Base, root: Path, in_force: Sequence[RungInForce] = (), task: TaskSpec = TASK) -> None:
        self.base, self.task, self.in_force = base, task, tuple(in_force)
        self.directory, self.patches = root / "job", root / "patches"
        self.directory.mkdir(parents=True)
        self.patches.mkdir(exist_ok=True)
        self.slices = 0
        self.notes: list[str] = []

    def trainer(self, spec: TrainSpec) -> Trainer:
        trainer = Trainer(self.base, self.task, spec, "job-1", self.directory, self.patches)
        trainer.in_force = {own.resolution: None if own.file is None else Path(own.file) for own in self.in_force}
        return trainer

    def train(self, spec: TrainSpec, *, plan: TrainingPlan = PLAN, interrupted: bool = False) -> list[Finished]:
        for _ in range(100):
            trainer = self.trainer(spec)
            ends = Ends(trainer)
            self.slices += 1
            list(trainer.run_slice(plan, 1e6, ends if interrupted else lambda: False, ends.report))
            self.notes += trainer.take_notes()
            if trainer.done:
                return list(trainer.finished)
        raise AssertionError("the job did not end")

    def tensors(self, finished: Finished) -> dict[str, Tensor]:
        return dict(load_patch(self.file(finished), self.base).tensors)

    def file(self, finished: Finished) -> Path:
        return self.patches / f"{finished.result.patch_id}.safetensors"

    def in_force_from(self, finished: Finished) -> RungInForce:
        return RungInForce(resolution=finished.result.resolution, file=str(self.file(finished)))


@pytest.fixture(scope="module")
def rungs(base: Base, tmp_path_factory: pytest.TempPathFactory) -> tuple[RungInForce, ...]:
    """Both rungs of the task in force: scale and bias, head, and the depthwise filters at the full resolution."""
    found = []
    for side, kinds in ((FULL, (K.SCALE_BIAS, K.DEPTHWISE, K.HEAD)), (LOW, BOTH)):
        job = Job(base, tmp_path_factory.mktemp("first"))
        made = job.train(SPEC.model_copy(update={"resolutions": (side,), "kinds": kinds, "epochs": 4}))
        found.append(job.in_force_from(made[0]))
    return tuple(found)


def test_the_loss_mixes_cross_entropy_with_the_divergence_at_a_temperature_squared() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    classes, chosen = torch.tensor([0, 3]), torch.tensor([5, 2])
    batch = MicroBatch(0, chosen, classes)
    targets = mean_probabilities([teacher], TEMPERATURE)
    got = Taught(targets, labelled=True).losses(logits[:2], batch)
    for place, (row, index) in enumerate(zip(logits[:2], chosen, strict=True)):
        p = torch.softmax(teacher[index] / TEMPERATURE, 0)
        divergence = float((p * (p.log() - torch.log_softmax(row / TEMPERATURE, 0))).sum()) * TEMPERATURE**2
        entropy = -float(torch.log_softmax(row, 0)[classes[place]])
        assert float(got[place]) == pytest.approx(LABEL_SHARE * entropy + (1 - LABEL_SHARE) * divergence, rel=1e-5)
    alone = Taught(targets, labelled=False).losses(teacher[chosen], batch)
    assert torch.allclose(alone, torch.zeros(2), atol=1e-6)  # who answers as the teacher has nothing to learn


def test_an_ensembles_probabilities_are_the_mean_over_its_members() -> None:
    one, other = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])
    expected = (one.div(2).softmax(1) + other.div(2).softmax(1)) / 2
    assert torch.allclose(mean_probabilities([one, other], 2.0), expected)


WAYS: dict[str, dict[str, object]] = {
    "full": {"teacher": Teacher.FULL},
    "ensemble": {"teacher": Teacher.ENSEMBLE, "resolutions": (FULL, LOW)},
    "statistics": {"kinds": (K.SCALE_BIAS, K.STATISTICS, K.HEAD), "teacher": Teacher.FULL},
    "head kept": {"kinds": (K.SCALE_BIAS,)},
    "unlabelled": {"kinds": (K.SCALE_BIAS,), "teacher": Teacher.FULL},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_taught_job_gives_the_same_bits_however_often_it_is_interrupted(
    base: Base, rungs: tuple[RungInForce, ...], images: Path, tmp_path: Path, way: str
) -> None:
    spec = SPEC.model_copy(update={**WAYS[way], "unlabelled": str(images) if way == "unlabelled" else None})
    whole, parts = Job(base, tmp_path / "whole", rungs), Job(base, tmp_path / "parts", rungs)
    once, again = whole.train(spec), parts.train(spec, interrupted=True)
    assert (whole.slices, parts.slices > 2) == (1, True)
    assert len(once) == len(spec.resolutions)
    for one, other in zip(once, again, strict=True):
        tensors = parts.tensors(other)
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in whole.tensors(one).items())
        assert (one.result.validation, one.result.rival) == (other.result.validation, other.result.rival)
    assert fingerprint(base.network) == base.hash


def test_the_teacher_answers_each_image_once_whatever_the_epochs_and_its_file_is_needed_no_more(
    base: Base, rungs: tuple[RungInForce, ...], tmp_path: Path
) -> None:
    seen: list[int] = []

    def count(_network: nn.Module, given: tuple[Tensor]) -> None:
        if given[0].shape[-1] == FULL:
            seen.append(len(given[0]))

    job = Job(base, tmp_path, rungs[:1])
    hook = base.network.register_forward_pre_hook(count)
    try:
        job.train(SPEC.model_copy(update={"teacher": Teacher.FULL, "epochs": 3}))
    finally:
        hook.remove()
    assert sum(seen) == SPEC.max_samples
    gone = rungs[0].model_copy(update={"file": str(tmp_path / "gone.safetensors")})
    samples = open_data("sklearn:digits").train[:8]
    answers = RungAnswers(base, rungs[0], samples, TASK.preprocessing, tmp_path)
    answers.run(lambda: False)
    answers.save()
    assert torch.equal(RungAnswers(base, rungs[0], samples, TASK.preprocessing, tmp_path).logits, answers.logits)
    with pytest.raises(TrainingError, match="patch of the 64 px rung, from which this job learns, cannot be used"):
        RungAnswers(base, gone, samples[:4], TASK.preprocessing, tmp_path).run(lambda: False)


def test_a_taught_rung_is_not_the_plain_one_and_says_who_taught_it(
    base: Base, rungs: tuple[RungInForce, ...], tmp_path: Path
) -> None:
    plain, taught = Job(base, tmp_path / "plain", rungs), Job(base, tmp_path / "taught", rungs)
    one = plain.train(SPEC)[0]
    other = taught.train(SPEC.model_copy(update={"teacher": Teacher.ENSEMBLE}))[0]
    assert not torch.equal(plain.tensors(one)["classifier.weight"], taught.tensors(other)["classifier.weight"])
    assert one.metadata.training is not None
    assert other.metadata.training is not None
    assert (one.metadata.training.teacher, other.metadata.training.teacher) == (Teacher.NONE, Teacher.ENSEMBLE)


def test_the_jobs_own_full_resolution_teaches_where_none_was_in_force(base: Base, tmp_path: Path) -> None:
    job = Job(base, tmp_path)
    spec = SPEC.model_copy(update={"teacher": Teacher.FULL, "resolutions": (FULL, LOW)})
    first, second = job.train(spec)
    alone = Job(base, tmp_path / "alone", [job.in_force_from(first)])
    again = alone.train(spec.model_copy(update={"resolutions": (LOW,)}))[0]
    expected = job.tensors(second)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in alone.tensors(again).items())


def test_without_labels_a_rung_keeps_the_head_and_filters_of_the_full_resolution_and_is_measured_by_agreement(
    base: Base, rungs: tuple[RungInForce, ...], images: Path, tmp_path: Path
) -> None:
    job = Job(base, tmp_path, rungs, TASK.model_copy(update={"data": None}))
    spec = SPEC.model_copy(update={"kinds": (K.SCALE_BIAS,), "teacher": Teacher.FULL, "unlabelled": str(images)})
    finished = job.train(spec)[0]
    full = load_patch(Path(rungs[0].file or ""), base)
    tensors = job.tensors(finished)
    for name, tensor in full.tensors.items():
        learned = "norm" in name and name.endswith(("weight", "bias"))
        assert torch.equal(tensor, tensors[name]) != learned, name
    assert finished.metadata.kinds == (K.SCALE_BIAS, K.DEPTHWISE, K.HEAD)
    assert finished.metadata.parameters_by_kind[K.HEAD] == 0
    assert finished.result.parameters == finished.metadata.parameters_by_kind[K.SCALE_BIAS] > 0
    assert finished.result.validation.measure is Measure.AGREEMENT
    assert finished.result.rival is not None
    assert finished.result.rival.measure is Measure.AGREEMENT
    assert finished.result.rival.samples == finished.result.validation.samples == round(0.15 * IMAGES)
    assert finished.result.test is None
    assert finished.result.rival_id == Path(rungs[1].file or "").stem
    assert len(job.notes) == 1
    assert "1 of the unlabelled images cannot be used and are left out" in job.notes[0]
    assert "broken.png" in job.notes[0]
    assert fingerprint(base.network) == base.hash


def test_agreement_is_with_the_first_answers_of_the_full_resolution(
    base: Base, rungs: tuple[RungInForce, ...], images: Path, tmp_path: Path
) -> None:
    job = Job(base, tmp_path, rungs)
    spec = SPEC.model_copy(update={"kinds": (K.SCALE_BIAS,), "teacher": Teacher.FULL, "unlabelled": str(images)})
    trainer = job.trainer(spec)
    finished = next(trainer.run_slice(PLAN, 1e6, lambda: False, lambda _progress: None))
    held_out = trainer._data.validation
    engine = TorchEngine(base)

    def answers(file: Path, side: int) -> Tensor:
        rung = RungInForce(resolution=side, file=str(file))
        given = RungAnswers(base, rung, held_out, TASK.preprocessing, tmp_path)
        given.run(lambda: False)
        return given.logits.argmax(1)

    teacher = answers(Path(rungs[0].file or ""), FULL)
    for score, file in (
        (finished.result.validation, job.file(finished)),
        (finished.result.rival, Path(rungs[1].file or "")),
    ):
        assert score is not None
        assert score.accuracy == pytest.approx(float((answers(file, LOW) == teacher).float().mean()))
    engine.patched.remove()
    assert finished.result.test is not None  # the task's own test part has labels
    assert finished.result.test.measure is Measure.ACCURACY


def test_the_bare_base_teaches_its_own_rungs_on_labels_of_its_own(base: Base, images: Path, tmp_path: Path) -> None:
    in_force = [RungInForce(resolution=side) for side in (FULL, LOW)]
    job = Job(base, tmp_path, in_force, TASK.model_copy(update={"data": None}))
    spec = SPEC.model_copy(update={"kinds": (K.SCALE_BIAS,), "teacher": Teacher.FULL, "unlabelled": str(images)})
    finished = job.train(spec)[0]
    assert finished.metadata.kinds == (K.SCALE_BIAS,)
    assert finished.result.rival_id is None
    assert finished.result.rival is not None


def test_statistics_alone_take_no_step_and_change_nothing_but_statistics(
    base: Base, rungs: tuple[RungInForce, ...], tmp_path: Path
) -> None:
    job = Job(base, tmp_path, rungs)
    plan = PLAN.model_copy(update={"fraction": 0.5})
    finished = job.train(SPEC.model_copy(update={"kinds": (K.STATISTICS,)}), plan=plan)[0]
    full, tensors = load_patch(Path(rungs[0].file or ""), base), job.tensors(finished)
    for name, tensor in full.tensors.items():
        assert torch.equal(tensor, tensors[name]) != ("running" in name), name
    assert finished.result.parameters == 0
    assert finished.metadata.kinds == (K.SCALE_BIAS, K.STATISTICS, K.DEPTHWISE, K.HEAD)
    assert finished.metadata.training is not None
    assert finished.metadata.training.steps == 0


def test_statistics_are_estimated_before_scale_and_bias_learn_and_then_stay(base: Base, tmp_path: Path) -> None:
    options = {K.STATISTICS: KindOptions(momentum=0.2)}
    with_both = Job(base, tmp_path / "both")
    kinds = (K.SCALE_BIAS, K.STATISTICS, K.HEAD)
    one = with_both.train(SPEC.model_copy(update={"kinds": kinds, "options": options}))[0]
    alone = Job(base, tmp_path / "alone")
    heads = (K.STATISTICS, K.RANDOM_HEAD)
    other = alone.train(SPEC.model_copy(update={"kinds": heads, "options": options}))[0]
    learned, estimated, own = with_both.tensors(one), alone.tensors(other), base.network.state_dict()
    for name in (name for name in estimated if "running" in name):
        assert torch.equal(learned[name], estimated[name]), name
        assert not torch.equal(learned[name], own[name]), name
    assert not torch.equal(learned["stem.norm.weight"], own["stem.norm.weight"])


def test_what_is_in_force_later_and_images_that_come_later_do_not_change_a_job(
    base: Base, rungs: tuple[RungInForce, ...], images: Path, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(
        update={"kinds": (K.SCALE_BIAS,), "teacher": Teacher.ENSEMBLE, "unlabelled": str(tmp_path / "own")}
    )
    (tmp_path / "own").mkdir()
    for image in sorted(images.rglob("day*/*.png"))[:20]:
        (tmp_path / "own" / f"{image.parent.name} {image.name}").write_bytes(image.read_bytes())
    first, second = Job(base, tmp_path / "first", rungs), Job(base, tmp_path / "second", rungs)
    expected = first.train(spec)[0]
    begun = second.trainer(spec)
    ends = Ends(begun)
    list(begun.run_slice(PLAN, 1e6, ends, ends.report))
    (tmp_path / "own" / "late.png").write_bytes((images / "day 1" / "1.png").read_bytes())
    second.in_force = rungs[:1]
    assert second.train(spec)[0].result.validation == expected.result.validation
    made = second.tensors(second.train(spec)[0])
    assert all(torch.equal(tensor, made[name]) for name, tensor in first.tensors(expected).items())


def test_too_few_images_no_teacher_and_other_options_are_told(
    base: Base, rungs: tuple[RungInForce, ...], images: Path, tmp_path: Path
) -> None:
    (tmp_path / "few").mkdir()
    for number in (0, 3, 6):
        (tmp_path / "few" / f"{number}.png").write_bytes((images / "day 0" / f"{number}.png").read_bytes())
    spec = SPEC.model_copy(update={"kinds": (K.SCALE_BIAS,), "teacher": Teacher.FULL})
    few = spec.model_copy(update={"unlabelled": str(tmp_path / "few")})
    with pytest.raises(DataSetError, match=r"There are 3 images below .* that can be used; 8 are needed"):
        Job(base, tmp_path / "a", rungs).train(few)
    with pytest.raises(TrainingError, match="has no rung in force that could teach"):
        Job(base, tmp_path / "b").train(spec.model_copy(update={"unlabelled": str(images)}))
    with pytest.raises(TrainingError, match="no rung in force at the full resolution whose head"):
        Job(base, tmp_path / "c").train(spec.model_copy(update={"teacher": Teacher.NONE}))
    narrow = {K.SCALE_BIAS: KindOptions(where="blocks.*")}
    with pytest.raises(TrainingError, match="The kind 'scale_bias' has other options in the rung at the full"):
        Job(base, tmp_path / "d", rungs).train(spec.model_copy(update={"options": narrow}))
    assert fingerprint(base.network) == base.hash
