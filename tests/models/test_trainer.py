"""The trainer: exact resume, an untouched base, patches that are what they claim to be."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from networks import SIDE, make
from patchd.daemon.workers.channel import Channel
from patchd.daemon.workers.protocol import (
    JobDone,
    JobFailed,
    Message,
    Note,
    Progress,
    Ready,
    RungDone,
    RunSlice,
    SliceDone,
    SliceFailed,
    StartJob,
    YieldSlice,
)
from patchd.models.bases import Base, fingerprint, load_base
from patchd.models.datasets import normalised, open_data, pixels
from patchd.models.engine import TorchEngine
from patchd.models.evaluation import evaluate
from patchd.models.patches import load_patch
from patchd.models.training import Trainer
from patchd.models.training.checkpoint import (
    CURRENT,
    PREVIOUS,
    Checkpoint,
    Finished,
    Position,
    load_checkpoint,
    save_checkpoint,
)
from patchd.models.training.rung import RungTraining, StepReport
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import BadInputError, DataSetError, TrainingError
from patchd.policies.task import KindOptions, PatchKind, Preprocessing, TaskSpec, TrainSpec
from PIL import Image
from torch import Tensor

TASK = TaskSpec(
    name="digits",
    labels=tuple("0123456789"),
    resolutions=(64, 32),
    data="sklearn:digits",
    preprocessing=Preprocessing(crop_fraction=1.0),
)
BOTH = (PatchKind.SCALE_BIAS, PatchKind.HEAD)
ADDING = tuple(kind for kind in PatchKind if kind not in (*BOTH, PatchKind.BASE_FRACTION, PatchKind.OWN_SQUEEZE_EXCITE))
SMALL = TrainSpec(task="digits", kinds=BOTH, resolutions=(32,), epochs=2, batch_size=16, max_samples=64)
PLAN = TrainingPlan(paused=False, reach=1.0, fraction=0.0, cost=0.49)


@pytest.fixture(scope="module")
def base() -> Base:
    """A network of the bases' family that trains in milliseconds."""
    return Base("small", make("efficientnet_lite"), SIDE)


@pytest.fixture(scope="module")
def lite0() -> Base:
    return load_base("lite0")


class Bench:
    """Directories of one job, and trainers over them."""

    def __init__(self, base: Base, root: Path) -> None:
        self.base, self.checkpoints, self.patches = base, root / "checkpoints", root / "patches"
        self.checkpoints.mkdir(parents=True)
        self.patches.mkdir()

    def trainer(self, spec: TrainSpec) -> Trainer:
        return Trainer(self.base, TASK, spec, "job-1", self.checkpoints, self.patches)

    def train(self, spec: TrainSpec, plan: TrainingPlan = PLAN, every: int | None = None) -> list[Finished]:
        """Train to the end; with `every`, yield after that many steps and go on in a new trainer."""
        finished: list[Finished] = []
        for _ in range(200):
            trainer = self.trainer(spec)
            list(trainer.run_slice(plan, 1e6, after_steps(trainer, every), lambda _progress: None))
            finished = list(trainer.finished)
            if trainer.done:
                return finished
        raise AssertionError("the job did not end")

    def tensors(self, finished: Finished) -> dict[str, Tensor]:
        return dict(load_patch(self.patches / f"{finished.result.patch_id}.safetensors", self.base).tensors)


def after_steps(trainer: Trainer, steps: int | None) -> Callable[[], bool]:
    start = trainer.progress().step

    def stop() -> bool:
        at = trainer.progress()
        return steps is not None and at.step - start >= steps and at.step < at.steps

    return stop


@pytest.fixture
def bench(base: Base, tmp_path: Path) -> Bench:
    return Bench(base, tmp_path / "job")


@pytest.fixture
def real_bench(lite0: Base, tmp_path: Path) -> Bench:
    return Bench(lite0, tmp_path / "job")


@pytest.mark.parametrize(
    ("kinds", "plan"),
    [
        (BOTH, PLAN),
        (BOTH, PLAN.model_copy(update={"fraction": 0.25})),
        (BOTH, PLAN.model_copy(update={"lean": True})),
        (ADDING, PLAN),
    ],
    ids=["scale-bias", "fraction-25", "lean", "adding"],
)
def test_an_interrupted_run_gives_the_very_bits_of_an_uninterrupted_one(
    base: Base, tmp_path: Path, kinds: tuple[PatchKind, ...], plan: TrainingPlan
) -> None:
    spec = SMALL.model_copy(update={"kinds": kinds})
    whole, parts = Bench(base, tmp_path / "whole"), Bench(base, tmp_path / "parts")
    once = whole.tensors(whole.train(spec, plan)[0])
    again = parts.tensors(parts.train(spec, plan, every=5)[0])
    assert once.keys() == again.keys()
    for name, tensor in once.items():
        assert torch.equal(tensor, again[name]), name
    assert fingerprint(base.network) == base.hash


def test_a_patch_holds_what_its_plan_let_train_and_stays_under_two_percent(real_bench: Bench) -> None:
    bench = real_bench
    finished = bench.train(SMALL, PLAN.model_copy(update={"reach": 0.39}))[0]
    tensors, network = bench.tensors(finished), bench.base.network
    own = dict(network.state_dict())
    moved = {
        name
        for name, tensor in tensors.items()
        if not name.startswith("classifier") and not torch.equal(tensor, own[name])
    }
    assert moved
    reached = {id(p) for unit in network.units[11:] for p in unit.parameters()}
    assert all(id(dict(network.named_parameters())[name]) in reached for name in moved)
    assert any("running_mean" in name for name in tensors)
    assert finished.result.share < 0.02
    assert finished.metadata.training is not None
    assert finished.metadata.training.reach == 0.39


def test_a_plan_that_reaches_only_the_head_leaves_every_norm_as_in_the_base(bench: Bench) -> None:
    tensors = bench.tensors(bench.train(SMALL, PLAN.model_copy(update={"reach": 0.0}))[0])
    own = dict(bench.base.network.state_dict())
    assert all(torch.equal(tensor, own[name]) for name, tensor in tensors.items() if "norm" in name)


def test_the_accuracy_in_a_patch_is_that_of_the_engine_running_it(bench: Bench) -> None:
    finished = bench.train(SMALL)[0]
    patch = load_patch(bench.patches / f"{finished.result.patch_id}.safetensors", bench.base)
    test = open_data("sklearn:digits").test
    images = normalised(pixels(test, 32, TASK.preprocessing), TASK.preprocessing)
    engine = TorchEngine(bench.base, 2)
    measured = evaluate(lambda batch: engine.run(batch, patch).logits, images, [sample.label for sample in test], 64)
    engine.patched.remove()
    assert measured == finished.result.test


def test_scale_and_bias_with_the_head_beat_the_head_alone(lite0: Base, tmp_path: Path) -> None:
    scores = {}
    for kinds in ((PatchKind.HEAD,), BOTH):
        spec = TrainSpec(task="digits", kinds=kinds, resolutions=(64,), epochs=2, max_samples=600)
        made = Bench(lite0, tmp_path / str(len(kinds)))
        scores[kinds] = made.train(spec)[0].result.validation.accuracy
    assert scores[BOTH] > scores[PatchKind.HEAD,] + 0.02


def test_a_loss_that_is_no_number_ends_the_job_and_names_the_step(bench: Bench) -> None:
    overflowing = TASK.model_copy(update={"preprocessing": Preprocessing(crop_fraction=1.0, scale=1e-38)})
    trainer = Trainer(bench.base, overflowing, SMALL, "job-1", bench.checkpoints, bench.patches)
    with pytest.raises(TrainingError, match="became nan at step 1 of the 32 px rung"):
        list(trainer.run_slice(PLAN, 600, lambda: False, lambda _progress: None))
    assert not list(bench.patches.iterdir())
    assert fingerprint(bench.base.network) == bench.base.hash


def test_scales_with_a_head_left_as_drawn_say_that_a_plan_for_the_head_alone_trains_nothing(bench: Bench) -> None:
    spec = SMALL.model_copy(update={"kinds": (PatchKind.SCALE_BIAS, PatchKind.RANDOM_HEAD)})
    with pytest.raises(TrainingError, match="trains nothing of this job"):
        bench.train(spec, PLAN.model_copy(update={"reach": 0.0}))
    assert fingerprint(bench.base.network) == bench.base.hash


def test_a_parameter_that_the_last_step_made_infinite_is_never_published(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = RungTraining.step

    def last_step_diverges(rung: RungTraining, number: int, rate: float) -> StepReport:
        report = step(rung, number, rate)
        if number == rung.order.total - 1:
            rung._parameters["classifier.bias"].data[0] = math.inf
        return report

    trainer = bench.trainer(SMALL)
    monkeypatch.setattr(RungTraining, "step", last_step_diverges)
    with pytest.raises(TrainingError, match=r"classifier\.bias of the 32 px rung is no longer finite, again"):
        list(trainer.run_slice(PLAN, 600, lambda: False, lambda _progress: None))
    assert not list(bench.patches.iterdir())


def test_broken_images_of_any_part_are_named_before_the_first_step(base: Base, tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "data" / part / label
            folder.mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (40, 40), (index * 9, 40, 90)).save(folder / f"{index}.png")
    truncated, text = tmp_path / "data/test/dog/3.png", tmp_path / "data/train/cat/1.png"
    truncated.write_bytes(truncated.read_bytes()[:-30])
    text.write_text("no image")
    task = TaskSpec(name="pets", labels=("cat", "dog"), resolutions=(32,), data=str(tmp_path / "data"))
    checkpoints, patches = tmp_path / "checkpoints", tmp_path / "patches"
    checkpoints.mkdir()
    patches.mkdir()
    trainer = Trainer(base, task, SMALL.model_copy(update={"task": "pets"}), "job-1", checkpoints, patches)
    reports: list[str] = []
    with pytest.raises(DataSetError, match="2 images are broken") as caught:
        list(trainer.run_slice(PLAN, 600, lambda: False, lambda progress: reports.append(progress.phase)))
    assert str(truncated) in str(caught.value)
    assert str(text) in str(caught.value)
    assert set(reports) == {"checking images"}


def test_an_evaluation_cut_short_goes_on_where_it_stood(bench: Bench) -> None:
    expected = bench.train(SMALL)[0].result
    again = Bench(bench.base, bench.checkpoints.parent / "again")
    trainer = again.trainer(SMALL)
    list(trainer.run_slice(PLAN, 600, lambda: trainer.progress().step == trainer.progress().steps, lambda _p: None))
    assert not trainer.done
    slices = 0
    while not trainer.done:  # each slice begins and is asked to end at its first batch
        list(trainer.run_slice(PLAN, 600, partial(next, iter([False]), True), lambda _p: None))
        slices += 1
    assert slices > 3
    result = trainer.finished[0].result
    assert (result.validation, result.test) == (expected.validation, expected.test)


def test_a_slice_that_cannot_be_written_leaves_the_job_standing_and_the_next_one_ends_it(real_bench: Bench) -> None:
    bench = real_bench
    worker = Worker(bench, SMALL)
    hidden = bench.checkpoints.rename(bench.checkpoints.parent / "hidden")
    worker.channel.send(RunSlice(seconds=0.2, plan=PLAN, threads=1))
    failed = worker.until(SliceFailed, SliceDone)
    assert isinstance(failed, SliceFailed)
    assert "cannot be written: No such file" in failed.message
    hidden.rename(bench.checkpoints)
    worker.channel.send(RunSlice(seconds=600, plan=PLAN, threads=1))
    told = worker.until(RungDone)
    assert isinstance(told, RungDone)
    assert told.result.patch_id == bench.trainer(SMALL).finished[0].result.patch_id
    worker.kill()


def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, Checkpoint(Position(seconds=step), {"p.x": torch.full((3,), float(step))}))
    current = tmp_path / CURRENT
    current.write_bytes(current.read_bytes()[:-5])
    found, notes = load_checkpoint(tmp_path)
    assert found is not None
    assert found.position.seconds == 1
    assert torch.equal(found.tensors["p.x"], torch.ones(3))
    assert len(notes) == 1
    assert str(current) in notes[0]
    (tmp_path / PREVIOUS).write_bytes(b"")
    nothing, notes = load_checkpoint(tmp_path)
    assert nothing is None
    assert len(notes) == 3
    assert "begins anew" in notes[-1]


class Worker:
    """A real training worker process over a socket pair."""

    def __init__(self, bench: Bench, spec: TrainSpec) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "patchd.daemon.workers.training", "--fd", str(theirs.fileno())]
        command += ["--parent", str(os.getpid())]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        theirs.close()
        self.channel = Channel(ours)
        assert isinstance(self.next(), Ready)
        self.channel.send(
            StartJob(
                job_id="job-1",
                task=TASK,
                spec=spec,
                checkpoint_dir=str(bench.checkpoints),
                patches_dir=str(bench.patches),
            )
        )

    def next(self) -> Message:
        frame = self.channel.receive()
        assert frame is not None
        return frame[0]

    def until(self, *kinds: type) -> Message:
        while True:
            message = self.next()
            assert not isinstance(message, JobFailed), message
            if isinstance(message, kinds):
                return message

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def follow(self, seconds: float, results: dict[int, str], until_messages: int | None = None) -> None:
        """Run slices until the job is done or so many messages have come; note the patches by resolution."""
        self.channel.send(RunSlice(seconds=seconds, plan=PLAN, threads=1))
        seen = 0
        while until_messages is None or seen < until_messages:
            message = self.next()
            assert not isinstance(message, JobFailed)
            seen += isinstance(message, Progress | SliceDone)
            if isinstance(message, RungDone):
                results[message.result.resolution] = message.result.patch_id
            if isinstance(message, SliceDone):
                self.channel.send(RunSlice(seconds=0.5, plan=PLAN, threads=1))
            if isinstance(message, JobDone):
                break


def test_a_worker_killed_at_any_moment_gives_the_same_patch_in_the_end(lite0: Base, tmp_path: Path) -> None:
    spec = SMALL.model_copy(update={"resolutions": (64, 32), "epochs": 2})
    whole, killed = Bench(lite0, tmp_path / "whole"), Bench(lite0, tmp_path / "killed")
    expected: dict[int, str] = {}
    made: dict[int, str] = {}
    for bench, results, deaths in ((whole, expected, (None,)), (killed, made, (0, 1, 3, None))):
        for messages_before_death in deaths:
            worker = Worker(bench, spec)
            worker.follow(600 if messages_before_death is None else 0.5, results, messages_before_death)
            worker.kill()
    assert expected.keys() == made.keys() == {64, 32}
    for resolution in expected:
        one, other = (
            load_patch(bench.patches / f"{results[resolution]}.safetensors", lite0).tensors
            for bench, results in ((whole, expected), (killed, made))
        )
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_finished_rungs_are_told_again_after_a_restart_and_a_yield_ends_the_slice(real_bench: Bench) -> None:
    bench = real_bench
    first = bench.train(SMALL)[0]
    spec = SMALL.model_copy(update={"resolutions": (32, 64), "epochs": 50})
    # The same directory now holds a checkpoint with the 32 px rung done.
    worker = Worker(bench, spec)
    told = worker.until(RungDone)
    assert isinstance(told, RungDone)
    assert told.result.patch_id == first.result.patch_id
    worker.channel.send(RunSlice(seconds=600, plan=PLAN, threads=1))
    worker.until(Progress)
    worker.channel.send(YieldSlice())
    ended = worker.until(SliceDone)
    assert isinstance(ended, SliceDone)
    assert ended.seconds < 60
    assert ended.progress.step < ended.progress.steps
    worker.channel._sock.close()
    assert worker.process.wait(10) == 0
    assert not isinstance(ended, Note)


def test_a_kind_that_finds_nothing_in_the_base_is_refused_before_any_work(bench: Bench) -> None:
    for spec in (
        SMALL.model_copy(update={"kinds": (PatchKind.OWN_SQUEEZE_EXCITE, PatchKind.HEAD)}),
        SMALL.model_copy(
            update={
                "kinds": (PatchKind.GATE, PatchKind.HEAD),
                "options": {PatchKind.GATE: KindOptions(where="nowhere.*")},
            }
        ),
    ):
        with pytest.raises(BadInputError, match="finds nothing to act on in this base"):
            bench.trainer(spec)


def test_a_patch_of_added_layers_says_what_each_kind_adds_and_answers_as_it_was_evaluated(bench: Bench) -> None:
    options = {
        PatchKind.GATE: KindOptions(where="blocks.1*.depthwise.norm"),
        PatchKind.ADDED_LAYER: KindOptions(rank=2),
    }
    kinds = (PatchKind.GATE, PatchKind.ADDED_LAYER, PatchKind.HEAD)
    finished = bench.train(SMALL.model_copy(update={"kinds": kinds, "options": options}))[0]
    metadata = finished.metadata
    assert metadata.options == options
    assert set(metadata.parameters_by_kind) == set(kinds)
    assert sum(metadata.parameters_by_kind.values()) == metadata.parameters == finished.result.parameters
    patch = load_patch(bench.patches / f"{finished.result.patch_id}.safetensors", bench.base)
    test = open_data("sklearn:digits").test
    images = normalised(pixels(test, 32, TASK.preprocessing), TASK.preprocessing)
    answers = TorchEngine(bench.base).run(images, patch).logits.argmax(1)
    right = float((answers == torch.tensor([sample.label for sample in test])).float().mean())
    assert right == pytest.approx(finished.result.test.accuracy)
