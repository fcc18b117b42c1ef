"""Any plan can be followed, ended anywhere and gone on with: the result depends on what it lets train alone."""

from __future__ import annotations

import stat
from functools import partial
from pathlib import Path

import pytest
import torch
from networks import SIDE
from patchd.models.bases import Base, fingerprint
from patchd.models.training.features import FeatureStore, KeptFeatures
from patchd.models.training.inputs import Loading, PartInputs
from patchd.models.training.parts import TRAIN, VALIDATION
from patchd.models.training.rung import RungTraining
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import StateError, TrainingError
from patchd.policies.task import PatchKind, TaskSpec
from small_jobs import PLAN, SPEC, Job, colours, same, small_base
from torch import Tensor


@pytest.fixture(scope="module")
def base() -> Base:
    return small_base()


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TaskSpec:
    return colours(tmp_path_factory.mktemp("colours"))


def plan(**fields: object) -> TrainingPlan:
    return PLAN.model_copy(update=fields)


def rung(base: Base, task: TaskSpec, folder: Path, kinds: tuple[PatchKind, ...] = SPEC.kinds) -> RungTraining:
    from patchd.models.training.data import open_training_data

    part = Loading(open_training_data(task, SPEC).train, SIDE, task.preprocessing).run(lambda: False)
    assert part is not None
    inputs = PartInputs(part, task.preprocessing, base.memory_format)
    spec = SPEC.model_copy(update={"kinds": kinds})
    return RungTraining(base, task, spec, inputs, {}, FeatureStore(folder))


def gradients(rung: RungTraining, chosen: Tensor) -> dict[str, Tensor]:
    rung.accumulate(0, chosen)
    return {name: p.grad.clone() for name, p in rung._parameters.items() if p.grad is not None}


PLANS = {
    "features": plan(reach=0.4, keep_features=True),
    "head-features": plan(reach=0.0, keep_features=True, micro_batch=3),
    "biases": plan(biases_only=True),
    "sparse": plan(reach=0.0, tensors=("blocks.3.project.conv.weight", "neck.conv.weight"), keep_features=True),
}


@pytest.mark.parametrize("name", ["features", "head-features", "sparse"])
def test_a_job_ended_at_every_few_steps_gives_the_very_bits(
    base: Base, task: TaskSpec, tmp_path: Path, name: str
) -> None:
    whole, parts = Job(base, task, tmp_path / "whole"), Job(base, task, tmp_path / "parts")
    expected = whole.tensors(whole.run(PLANS[name]))
    trainer = parts.trainer()
    parts.slice(trainer, PLANS[name], lambda: trainer.progress().step > 0)  # a checkpoint, so that images are checked
    assert same(expected, parts.tensors(parts.run_in_pieces(PLANS[name], every=40)))
    assert fingerprint(base.network) == base.hash


def test_every_single_look_is_enough_to_get_on(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    job = Job(base, task, tmp_path / "job", SPEC.model_copy(update={"epochs": 1}))
    whole = Job(base, task, tmp_path / "whole", job.spec)
    trainer, slices = job.trainer(), 0
    while not trainer.done:
        looks = iter((False,))
        job.slice(trainer, PLANS["features"], partial(next, looks, True))
        slices += 1
        assert slices < 300
    assert slices > 24  # images, decoding, features, steps and evaluations all give way
    assert same(whole.tensors(whole.run(PLANS["features"])), job.tensors(trainer.finished[0]))


def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    own = rung(base, task, tmp_path)
    chosen = torch.arange(10)
    own.follow(plan())
    whole = gradients(own, chosen)
    own.follow(plan(micro_batch=4))  # 4, 4 and 2
    cut = gradients(own, chosen)
    own.close()
    assert whole.keys() == cut.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.parametrize("reach", [0.0, 0.4])
def test_a_step_on_kept_features_has_the_gradient_of_a_step_on_images(
    base: Base, task: TaskSpec, tmp_path: Path, reach: float
) -> None:
    own = rung(base, task, tmp_path)
    chosen = torch.arange(3, 11)
    own.follow(plan(reach=reach))
    images = gradients(own, chosen)
    own.follow(plan(reach=reach, keep_features=True))
    assert own.wants_features(TRAIN)
    assert own.compute_features(TRAIN, own._inputs, lambda: False)
    kept = gradients(own, chosen)
    own.close()
    assert kept.keys() == images.keys()
    for name, gradient in images.items():
        torch.testing.assert_close(kept[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))


def test_biases_only_moves_no_scale(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    job = Job(base, task, tmp_path / "job", SPEC.model_copy(update={"epochs": 1}))
    tensors, own = job.tensors(job.run(PLANS["biases"])), base.network.state_dict()
    norms = [name for name in tensors if ".norm." in name and name.endswith((".weight", ".bias"))]
    assert all(torch.equal(tensors[name], own[name]) for name in norms if name.endswith(".weight"))
    assert any(not torch.equal(tensors[name], own[name]) for name in norms if name.endswith(".bias"))


def test_a_sparse_plan_moves_the_tensors_it_names_and_their_copies_live_in_the_patch(
    base: Base, task: TaskSpec, tmp_path: Path
) -> None:
    job = Job(base, task, tmp_path / "job", SPEC.model_copy(update={"epochs": 1}))
    finished = job.run(PLANS["sparse"])
    tensors, own = job.tensors(finished), base.network.state_dict()
    moved = {name for name in tensors if name in own and not torch.equal(tensors[name], own[name])}
    assert moved - {"classifier.weight", "classifier.bias"} == set(PLANS["sparse"].tensors)
    assert PatchKind.BASE_FRACTION in finished.metadata.kinds
    assert fingerprint(base.network) == base.hash


def test_a_tensor_that_no_patch_can_hold_is_named(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"unfreezes nothing\.weight"):
        Job(base, task, tmp_path / "job").run(plan(tensors=("nothing.weight",)))
    assert fingerprint(base.network) == base.hash


def test_a_change_of_plan_keeps_what_was_learned_and_a_lower_reach_freezes_it(
    base: Base, task: TaskSpec, tmp_path: Path
) -> None:
    job = Job(base, task, tmp_path / "job")
    trainer = job.trainer()
    job.slice(trainer, PLAN, lambda: trainer.progress().step >= 2)
    assert trainer._rung is not None
    before, state = trainer._rung.values(), trainer._rung.state()
    assert not torch.equal(before["blocks.0.depthwise.norm.weight"], base.network.blocks[0].depthwise.norm.weight)
    job.slice(trainer, plan(reach=0.0, keep_features=True), lambda: trainer.progress().step >= 4)
    after = trainer._rung.values()
    assert all(torch.equal(before[name], after[name]) for name in before if "classifier" not in name)
    assert not torch.equal(before["classifier.weight"], after["classifier.weight"])
    assert {key for key in state if key.startswith("o.")} <= trainer._rung.state().keys()


def test_a_plan_may_begin_the_rungs_in_another_order(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    job = Job(base, task, tmp_path / "job", SPEC.model_copy(update={"resolutions": (64, SIDE), "epochs": 1}))
    trainer = job.trainer()
    job.slice(trainer, plan(resolution=SIDE), lambda: len(trainer.finished) == 1)
    assert [finished.result.resolution for finished in trainer.finished] == [SIDE]
    again = job.trainer()
    job.slice(again, plan(resolution=SIDE))  # done already: the next one
    assert [finished.result.resolution for finished in again.finished] == [SIDE, 64]


# kept features


def test_features_are_computed_once_whatever_happens_between(
    base: Base, task: TaskSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    append = KeptFeatures.append

    def counted(self: KeptFeatures, features: Tensor) -> None:
        rows.append(len(features))
        append(self, features)

    monkeypatch.setattr(KeptFeatures, "append", counted)
    job = Job(base, task, tmp_path / "job")
    kept = plan(reach=0.4, keep_features=True, micro_batch=2)  # batches of four: several to each part
    trainer = job.trainer()
    job.slice(trainer, kept, lambda: sum(rows) >= 8)
    assert 0 < sum(rows) < 24
    files = {path.name: path.stat() for path in job.checkpoints.glob("features-*")}
    assert len(files) == 2
    assert all(stat.S_IMODE(found.st_mode) == 0o600 for found in files.values())
    job.run_in_pieces(kept, every=60)
    images = {TRAIN: 21, VALIDATION: 3}
    assert sum(rows) == sum(images.values())
    assert not list(job.checkpoints.glob("features-*"))


def test_another_depth_or_other_values_below_make_features_anew(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    own = rung(base, task, tmp_path)
    for reach in (0.4, 0.6):
        own.follow(plan(reach=reach, keep_features=True))
        assert own.wants_features(TRAIN)
        own.compute_features(TRAIN, own._inputs, lambda: False)
        assert not own.wants_features(TRAIN)
        assert len(list(tmp_path.glob("features-*.f32"))) == 1
    own._parameters["stem.norm.weight"].data.mul_(1.1)
    own.follow(plan(reach=0.6, keep_features=True))
    assert own.wants_features(TRAIN)
    own.close()


def test_features_beyond_the_quota_are_not_kept_and_the_job_goes_on_and_says_so(
    base: Base, task: TaskSpec, tmp_path: Path
) -> None:
    job = Job(base, task, tmp_path / "job", SPEC.model_copy(update={"epochs": 1}))
    trainer = job.trainer()
    trainer.features.quota_bytes = 1000
    job.slice(trainer, plan(reach=0.4, keep_features=True))
    assert trainer.done
    assert len(job.notes) == 1
    assert "1000 are allowed" in job.notes[0]
    assert not list(job.checkpoints.glob("features-*"))


def test_kept_features_that_were_cut_short_on_disk_are_computed_again(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    kept = store.open("n" * 64, TRAIN, "d" * 64, 4, (2, 3))
    kept.append(torch.ones(4, 2, 3))
    kept.save()
    assert store.open("n" * 64, TRAIN, "d" * 64, 4, (2, 3)).complete
    assert not store.open("n" * 64, TRAIN, "e" * 64, 4, (2, 3)).complete  # of other images
    kept = store.open("n" * 64, TRAIN, "d" * 64, 4, (2, 3))
    (file,) = tmp_path.glob("*.f32")
    with file.open("r+b") as data:
        data.truncate(10)
    assert not store.open("n" * 64, TRAIN, "d" * 64, 4, (2, 3)).complete
    store.clear()
    assert not list(tmp_path.iterdir())
    with pytest.raises(StateError, match="cannot be kept"):
        FeatureStore(tmp_path / "nowhere").open("n", TRAIN, "d", 1, (1,))


def test_a_network_that_cannot_be_entered_in_the_middle_keeps_features_of_its_head_alone(
    task: TaskSpec, tmp_path: Path
) -> None:
    base = small_base("vision_transformer")
    own = rung(base, task, tmp_path)
    own.follow(plan(reach=0.5, keep_features=True))
    assert own.kept_from is None
    own.follow(plan(reach=0.0, keep_features=True))
    assert own.kept_from == 4
    own.close()


# early stopping


def test_patience_ends_a_rung_and_keeps_the_weights_of_its_best_epoch(
    base: Base, task: TaskSpec, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"epochs": 30, "patience": 2, "learning_rate": 1e-4})
    job, parts = Job(base, task, tmp_path / "job", spec), Job(base, task, tmp_path / "parts", spec)
    finished = job.run()
    record = finished.metadata.training
    assert record is not None
    assert record.best_epoch is not None
    assert record.epochs == min(30, record.best_epoch + 2)
    best = SPEC.model_copy(update={"epochs": 30, "learning_rate": 1e-4})
    other = Job(base, task, tmp_path / "other", best)
    trainer = other.trainer()
    per_epoch = 3
    best_epoch = record.best_epoch
    other.slice(trainer, PLAN, lambda: len(trainer._position.course.curve) >= best_epoch)
    assert trainer._position.course.step in (best_epoch * per_epoch, best_epoch * per_epoch + 1)
    good = trainer._good
    assert all(torch.equal(value, good[name]) for name, value in job.tensors(finished).items() if name in good)
    trainer = parts.trainer()
    parts.slice(trainer, PLAN, lambda: trainer.progress().step > 0)
    assert same(job.tensors(finished), parts.tensors(parts.run_in_pieces(PLAN, every=50)))


def test_progress_tells_the_curve(base: Base, task: TaskSpec, tmp_path: Path) -> None:
    job = Job(base, task, tmp_path / "job")
    finished = job.run()
    told = {report.epoch: report for report in job.reports if report.validation is not None and report.step % 3 == 0}
    assert set(told) == {1, 2, 3}
    assert told[3].validation == finished.result.validation.accuracy
    assert told[3].best_epoch in (1, 2, 3)
    first, last = told[1].rate_share, told[3].rate_share
    assert first is not None
    assert last is not None
    assert 0 < last < first < 1
