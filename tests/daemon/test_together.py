"""Jobs of several tasks in the daemon: when they may run, what they make, and when a version is dropped."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import bodies
import numpy as np
import pytest
from click.testing import CliRunner
from patchd.daemon.api.schemas import TaskCreate
from patchd.daemon.cli.main import cli
from patchd.daemon.events import EventLog
from patchd.daemon.store import Store
from patchd.daemon.task_service import TaskService
from patchd.daemon.training_together import TrainingTogether, checked_together
from patchd.daemon.workers.protocol import MemberDone, VersionDone
from patchd.policies.base_version import VersionMetadata
from patchd.policies.errors import BadInputError, ConflictError, NotFoundError
from patchd.policies.task import (
    Evaluation,
    JobState,
    PatchKind,
    PatchMetadata,
    Preprocessing,
    RungResult,
    TaskSpec,
    Teacher,
    TrainSpec,
)
from PIL import Image
from running import RunningDaemon

SIDE = 32
HUES = {"blue": (40, 60, 200), "green": (40, 190, 70), "red": (200, 50, 40)}
TOGETHER = TrainSpec(task="hues", together=("stripes",), epochs=1, batch_size=16)
POLICY = """
[policy]
name = "{name}"
[inference]
allocation = 1.0
[training]
allocation = {allocation}
max_fraction = {fraction}
"""


def picture(pixels: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def hue(name: str, seed: int) -> bytes:
    noise = np.random.default_rng(seed).normal(0, 20, (SIDE, SIDE, 3))
    return picture(np.tile(np.array(HUES[name]), (SIDE, SIDE, 1)) + noise)


def stripes(axis: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    wave = 127 + 100 * np.sin(np.arange(SIDE) * 1.2 + random.uniform(0, 6))
    lines = np.repeat(np.expand_dims(wave, 1 - axis), SIDE, 1 - axis)[..., None]
    return picture(lines + random.normal(0, 20, (SIDE, SIDE, 3)))


def write(folder: Path, images: list[bytes]) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / f"{number}.png").write_bytes(image)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for part, first, count in (("train", 0, 16), ("test", 100, 4)):
        for name in HUES:
            write(root / "hues" / part / name, [hue(name, first + i) for i in range(count)])
        for name, axis in (("across", 0), ("down", 1)):
            write(root / "stripes" / part / name, [stripes(axis, first + i) for i in range(count)])
    return root


class Setting:
    """A daemon with two tasks on one base, and policies to put in force."""

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        self.daemon, self.client, self._folder = daemon, daemon.client, folder

    def use(self, name: str, allocation: float, fraction: float) -> None:
        path = self._folder / f"{name}.toml"
        path.write_text(POLICY.format(name=name, allocation=allocation, fraction=fraction))
        self.client.use_policy(path=path)

    def ctl(self, *arguments: str) -> str:
        ran = CliRunner().invoke(cli, ["--socket", str(self.daemon.socket), *arguments])
        assert ran.exit_code == 0, ran.output
        return ran.output


@pytest.fixture(scope="module")
def setting(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("together")
    with RunningDaemon(folder / "state") as daemon:
        for name in ("hues", "stripes"):
            pre = Preprocessing(crop_fraction=1.0)
            made = TaskCreate(name=name, data=str(data / name), resolutions=(SIDE,), preprocessing=pre)
            daemon.client.add_task(made)
        yield Setting(daemon, folder)


def test_a_policy_that_unfreezes_nothing_refuses_the_job(setting: Setting) -> None:
    with pytest.raises(ConflictError, match="unfreezes nothing of a base") as refused:
        setting.client.submit(TOGETHER)
    assert "max_fraction" in str(refused.value)
    with pytest.raises(NotFoundError, match="no task named 'nobody'"):
        setting.client.submit(TrainSpec(task="hues", together=("nobody",)))


def test_tasks_train_together_once_the_allocation_allows_it_and_move_to_what_they_made(setting: Setting) -> None:
    client, daemon = setting.client, setting.daemon
    setting.use("little", 0.3, 1.0)
    said = setting.ctl("train", "submit", "--tasks", "hues,stripes", "--epochs", "1", "--batch-size", "16")
    job = client.jobs().jobs[-1]
    assert job.id in said
    assert (job.spec.tasks, job.spec.resolutions, job.spec.base) == (("hues", "stripes"), (SIDE,), "lite0")
    waiting = "the allocation unfreezes nothing of the base, which these tasks train together"
    daemon.until(lambda: client.job(job.id).waiting == waiting)
    with pytest.raises(ConflictError, match=f"Job {job.id} still trains task 'stripes'"):
        client.remove_task("stripes")
    setting.use("all", 1.0, 1.0)
    daemon.until(lambda: client.job(job.id).state in (JobState.DONE, JobState.FAILED), 240)
    done = client.job(job.id)
    assert done.state is JobState.DONE, done.error
    assert done.version is not None
    assert done.version.registered
    assert [(result.task, result.resolution, result.published) for result in done.results] == [
        ("hues", SIDE, False),
        ("stripes", SIDE, False),
    ]
    version = done.version.name
    shown = setting.ctl("train", "show", job.id)
    assert f"base version  {version}" in shown
    assert "gradient" in shown
    assert "task stripes" in shown
    view = client.base(version)
    assert [use.task for use in view.ready] == ["hues", "stripes"]
    assert view.metadata.tasks == ("hues", "stripes")
    assert view.metadata.job_id == job.id
    assert client.patch(done.results[0].patch_id).metadata.base == version
    with pytest.raises(NotFoundError):  # neither has answered on the packaged base yet
        client.infer("hues", hue("red", 7))
    for task in ("hues", "stripes"):
        client.move_task(task, version)
    answer = client.infer("hues", hue("red", 7))
    assert (answer.base, answer.patch_id) == (version, done.results[0].patch_id)
    assert client.infer("stripes", stripes(0, 7)).base == version


def test_a_restart_keeps_the_version_and_what_the_job_gave(setting: Setting) -> None:
    before = setting.client.jobs().jobs[-1]
    setting.daemon.kill()
    setting.daemon.start()
    after = setting.client.job(before.id)
    assert (after.version, after.results) == (before.version, before.results)
    assert setting.client.base(after.version.name).used_by[0].task == "hues"


# what is asked for, and what is kept, without a daemon


def task(name: str, base: str = "lite0", sides: tuple[int, ...] = (SIDE,)) -> TaskSpec:
    return TaskSpec(name=name, base=base, labels=("a", "b"), resolutions=sides, data="sklearn:digits")


def test_tasks_on_different_versions_have_to_name_the_base() -> None:
    pair = task("a"), task("b", "lite0@12345678")
    spec = TrainSpec(task="a", together=("b",))
    with pytest.raises(BadInputError, match="'a' answers on lite0 and task 'b' on lite0@12345678"):
        checked_together(spec, pair, 1.0)
    named = checked_together(spec.model_copy(update={"base": "lite0"}), pair, 1.0)
    assert (named.base, named.resolutions, named.examples) == ("lite0", (SIDE,), False)
    with pytest.raises(BadInputError, match="no rungs of base 'lite0'"):
        checked_together(spec.model_copy(update={"base": "lite0"}), (task("a"), task("b", "lite1")), 1.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"teacher": Teacher.ENSEMBLE}, "a teacher"),
        ({"unlabelled": "/images"}, "unlabelled images"),
        ({"kinds": (PatchKind.STATISTICS, PatchKind.HEAD)}, "the kind statistics"),
        ({"kinds": (PatchKind.SCALE_BIAS,)}, "a patch without a head"),
    ],
)
def test_what_a_job_of_several_tasks_cannot_do_is_said_plainly(changes: dict[str, object], says: str) -> None:
    spec = TrainSpec(task="a", together=("b",)).model_copy(update=changes)
    with pytest.raises(BadInputError, match=f"{says} is not supported"):
        checked_together(spec, (task("a"), task("b")), 1.0)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Store, TaskService, TrainingTogether]]:
    store = Store(tmp_path)
    events = EventLog(store)
    tasks = TaskService(store, events)
    for name in ("a", "b"):
        tasks.create(TaskCreate(name=name, labels=("x", "y"), resolutions=(SIDE,)), ("x", "y"))
    yield store, tasks, TrainingTogether(store, events, tasks)
    store.close()


def score(accuracy: float) -> Evaluation:
    return Evaluation(accuracy=accuracy, samples=100, low=0, high=1)


def patch(store: Store, name: str, accuracy: float, base: str, letter: str) -> tuple[str, PatchMetadata]:
    patch_id = letter * 64
    store.patch_file(patch_id).write_bytes(b"tensors")
    record = bodies.PATCH_VIEW.metadata.training.model_copy(update={"validation": score(accuracy)})
    changes = {"task": name, "labels": ("x", "y"), "resolution": SIDE, "base": base, "training": record}
    return patch_id, bodies.PATCH_VIEW.metadata.model_copy(update=changes)


def version_done(store: Store, accuracies: dict[str, float]) -> VersionDone:
    name, members = "lite0@" + "f" * 8, []
    for letter, (own, accuracy) in zip("cd", accuracies.items(), strict=True):
        patch_id, metadata = patch(store, own, accuracy, name, letter)
        result = RungResult(
            task=own, resolution=SIDE, patch_id=patch_id, parameters=5, share=0.1, bytes=7,
            validation=score(accuracy), test=None, seconds=1.0,
        )  # fmt: skip
        members.append(MemberDone(result=result, metadata=metadata))
    made = VersionMetadata(
        base="lite0", base_hash="0" * 64, hash="1" * 64, parent="lite0", parent_hash="0" * 64, tasks=("a", "b"),
        job_id="job-1", parameters=9, created_s=5.0,
    )  # fmt: skip
    store.base_file("f" * 64).write_bytes(b"tensors")
    return VersionDone(name=name, sha256="f" * 64, bytes=7, metadata=made, members=tuple(members))


def test_a_version_by_which_a_task_gets_worse_is_dropped_with_its_files(
    kept: tuple[Store, TaskService, TrainingTogether],
) -> None:
    store, tasks, together = kept
    for name, accuracy, letter in (("a", 0.8, "a"), ("b", 0.6, "b")):
        patch_id, metadata = patch(store, name, accuracy, "lite0", letter)
        tasks.add_patch(patch_id, 7, metadata)
    outcome, results = together.take(version_done(store, {"a": 0.9, "b": 0.5}), "job-1")
    assert not outcome.registered
    assert outcome.note == "not kept, for it makes worse on validation: b at 32 px (50.0% against 60.0%)"
    assert [result.note for result in results] == [outcome.note] * 2
    assert store.base_versions() == []
    assert not store.base_file("f" * 64).exists()
    assert not store.patch_file("c" * 64).exists()
    assert store.patch_file("a" * 64).exists()


def test_a_version_by_which_none_gets_worse_is_kept_and_told_twice_is_the_same(
    kept: tuple[Store, TaskService, TrainingTogether],
) -> None:
    store, tasks, together = kept
    patch_id, metadata = patch(store, "a", 0.8, "lite0", "a")
    tasks.add_patch(patch_id, 7, metadata)
    made = version_done(store, {"a": 0.8, "b": 0.5})
    first = together.take(made, "job-1")
    assert first[0].registered
    assert [result.published for result in first[1]] == [False, False]
    assert "patchctl task move a --to lite0@ffffffff" in first[1][0].note
    again = together.take(made, "job-1")
    assert again[0] == first[0]
    assert [row["name"] for row in store.base_versions()] == [made.name]
    assert tasks.task("a").base == "lite0"
    assert [rung.patch_id for rung in tasks.pool("a")] == [patch_id]
