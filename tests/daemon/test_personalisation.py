"""Training on what applications handed over: alone, by itself, and never on what may no longer be used."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from patchd.daemon.api.schemas import JobView, TaskCreate
from patchd.policies.errors import BadInputError
from patchd.policies.task import JobState, TrainSpec
from PIL import Image
from running import STEADY, RunningDaemon

ENDED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
SHADES = {"cat": (220, 40, 30), "dog": (30, 40, 220)}
LONG = 30  # epochs: long enough to be paused in the middle


def picture(label: str, number: int) -> bytes:
    """A noisy picture of its class's own shade."""
    drawn = random.Random(f"{label} {number}")
    pixels = [min(255, max(0, value + drawn.randint(-30, 30))) for _ in range(24 * 24) for value in SHADES[label]]
    with io.BytesIO() as file:
        Image.frombytes("RGB", (24, 24), bytes(pixels)).save(file, "PNG")
        return file.getvalue()


class Pets:
    """A daemon with consent in its policy, and a new task of two classes and no data set for each test."""

    def __init__(self, daemon: RunningDaemon, policy: Path) -> None:
        self.daemon, self.policy = daemon, policy
        self.client = daemon.client
        self.tasks = 0
        self.task = ""

    def allow(self, **keys: object) -> None:
        table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())
        self.policy.write_text(f"{STEADY}\n[examples]\n{table}\n")
        self.client.use_policy(path=self.policy)

    def fresh(self) -> None:
        self.tasks += 1
        self.task = f"pets-{self.tasks}"
        self.client.add_task(TaskCreate(name=self.task, labels=("cat", "dog"), resolutions=(32,)))

    def hand_over(self, each: int, first: int = 0) -> list[str]:
        """So many examples of each class; their ids."""
        return [
            self.client.add_example(self.task, label, picture(label, number)).id
            for number in range(first, first + each)
            for label in SHADES
        ]

    def spec(self, epochs: int) -> TrainSpec:
        return TrainSpec(task=self.task, epochs=epochs, batch_size=4)

    def ended(self, job_id: str) -> JobView:
        return self.daemon.until(lambda: job if (job := self.client.job(job_id)).state in ENDED else None, 280)

    def begun_and_paused(self) -> JobView:
        """A job in the middle, which has its examples and does not advance."""
        job_id = self.client.submit(self.spec(LONG)).id
        self.daemon.until(lambda: self.client.job(job_id).examples is not None, every_s=0.02)
        self.client.change_job(job_id, "pause")
        self.daemon.until(lambda: worker(self.daemon) != "busy", every_s=0.02)
        return self.client.job(job_id)


def worker(daemon: RunningDaemon) -> str:
    return next(worker.state for worker in daemon.client.status().workers if worker.name == "training")


@pytest.fixture(scope="module")
def module_pets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pets]:
    folder = tmp_path_factory.mktemp("personal")
    with RunningDaemon(folder / "state") as daemon:
        yield Pets(daemon, folder / "policy.toml")


@pytest.fixture
def pets(module_pets: Pets) -> Pets:
    module_pets.allow(consent=True)
    module_pets.fresh()
    return module_pets


def test_a_task_without_a_data_set_is_trained_on_its_examples_alone(pets: Pets) -> None:
    with pytest.raises(BadInputError, match="no data set to train on, nor two usable examples of each of two classes"):
        pets.client.submit(pets.spec(4))
    pets.hand_over(8)
    job = pets.ended(pets.client.submit(pets.spec(4)).id)
    assert (job.state, job.error, job.examples) == (JobState.DONE, None, 16)
    result = job.results[0]
    assert result.published
    assert (result.validation.samples, result.test) == (2, None)
    assert pets.client.infer(pets.task, picture("dog", 99)).predictions[0].label == "dog"
    record = pets.client.patch(result.patch_id).metadata.training
    assert record is not None
    assert (record.examples, record.train_samples) == (14, 14)
    deleted = pets.client.remove_examples(pets.task)
    assert (deleted.deleted, deleted.patches) == (16, (result.patch_id,))
    assert pets.client.patch(result.patch_id).in_force  # it has learned from them, and says so


def test_enough_new_examples_queue_one_job_by_themselves(pets: Pets) -> None:
    pets.allow(consent=True, train_after=6)
    pets.hand_over(2)
    before = {job.id for job in pets.client.jobs().jobs}
    pets.hand_over(1, first=2)

    def own() -> list[JobView]:
        return [job for job in pets.client.jobs().jobs if job.spec.task == pets.task]

    (job,) = pets.daemon.until(own)
    assert job.id not in before
    told = [event for event in pets.client.events(limit=1000).events if event.kind == "examples.enough"]
    assert (told[-1].data["job"], told[-1].data["count"]) == (job.id, 6)
    assert pets.ended(job.id).state is JobState.DONE
    assert len(own()) == 1


def test_a_job_keeps_to_the_examples_of_its_start_less_those_deleted_since(pets: Pets) -> None:
    pets.hand_over(4)
    job = pets.begun_and_paused()
    assert (job.state, job.examples) == (JobState.PAUSED, 8)
    kept = pets.daemon.state / "jobs" / job.id / "features-0123.f32"
    kept.write_bytes(b"what the network made of the images")
    train = [example.id for example in pets.client.examples(pets.task).examples if example.part == "train"]
    pets.client.remove_example(pets.task, train[0])
    assert not kept.exists()  # what was made of a deleted image goes with it
    pets.hand_over(2, first=50)  # too late for this job
    pets.client.change_job(job.id, "resume")
    done = pets.ended(job.id)
    assert (done.state, done.error) == (JobState.DONE, None)
    record = pets.client.patch(done.results[0].patch_id).metadata.training
    assert record is not None
    assert record.examples == len(train) - 1


def test_a_job_whose_examples_are_withdrawn_says_so_and_ends(pets: Pets) -> None:
    pets.hand_over(4)
    job = pets.begun_and_paused()
    pets.allow(consent=False)
    pets.client.change_job(job.id, "resume")
    failed = pets.ended(job.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert "nor two usable examples of each of two classes" in failed.error
    assert len(pets.client.examples(pets.task).examples) == 8


def test_a_job_that_is_told_to_use_no_examples_uses_none(pets: Pets) -> None:
    pets.hand_over(3)
    with pytest.raises(BadInputError, match="no data set to train on"):
        pets.client.submit(pets.spec(1).model_copy(update={"examples": False}))
