"""Ladders in a running daemon: taught jobs, jobs without labels, and what they put in force."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bodies import job
from click.testing import CliRunner
from patchd.daemon.api.schemas import EventList, JobView, TaskCreate
from patchd.daemon.cli.main import cli
from patchd.daemon.training_outline import outline
from patchd.models.datasets import open_data
from patchd.policies.errors import BadInputError
from patchd.policies.task import JobProgress, JobState, Measure, PatchKind, TaskSpec, Teacher, TrainSpec
from running import RunningDaemon

K = PatchKind
FULL, LOW = 48, 32
SPEC = TrainSpec(task="digits", resolutions=(LOW,), epochs=1, batch_size=8, max_samples=16)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    root = tmp_path_factory.mktemp("daemon")
    policy = root / "whole.toml"  # jobs of a few images spend most on evaluating, which a smaller share does not buy
    policy.write_text('[policy]\nname = "whole"\n[training]\nallocation = 1.0\n')
    with RunningDaemon(root / "state", "--policy", str(policy)) as running:
        running.client.add_task(TaskCreate(name="digits", data="sklearn:digits", resolutions=(FULL, LOW)))
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("camera")
    for index, sample in enumerate(open_data("sklearn:digits").train[:24]):
        sample.load(8).save(root / f"{index}.png")
    (root / "broken.png").write_bytes(b"no image")
    return root


def done(daemon: RunningDaemon, job_id: str) -> JobView:
    ended = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
    job = daemon.until(lambda: found if (found := daemon.client.job(job_id)).state in ended else None, 240.0)
    assert job.state is JobState.DONE, job.error
    return job


def patchctl(daemon: RunningDaemon, *arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(cli, ["--socket", str(daemon.socket), *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def submitted(output: str) -> str:
    found = re.search(r"job-[0-9a-f]+", output)
    assert found is not None
    return found.group()


def test_what_needs_the_full_resolution_is_refused_while_none_is_in_force(daemon: RunningDaemon, images: Path) -> None:
    headless = SPEC.model_copy(update={"kinds": (K.SCALE_BIAS,)})
    cases = {
        "no rung is in force at 48 px whose head could be kept": headless,
        "no rung in force at 48 px, its full resolution, that could teach": SPEC.model_copy(
            update={"unlabelled": str(images)}
        ),
        "no rung in force at 48 px, its full": SPEC.model_copy(update={"teacher": Teacher.FULL}),
    }
    for words, spec in cases.items():
        with pytest.raises(BadInputError, match=words):
            daemon.client.submit(spec)


def test_the_directory_of_a_job_without_labels_must_be_one_and_the_teacher_does_not_learn_from_itself(
    daemon: RunningDaemon, images: Path
) -> None:
    bare = SPEC.model_copy(update={"task": "imagenet", "kinds": (K.SCALE_BIAS,), "resolutions": (96,)})
    with pytest.raises(BadInputError, match="directory /nowhere is none"):
        daemon.client.submit(bare.model_copy(update={"unlabelled": "/nowhere"}))
    with pytest.raises(BadInputError, match="the rung at 224 px is the teacher"):
        daemon.client.submit(bare.model_copy(update={"unlabelled": str(images), "resolutions": (224, 96)}))


def test_one_job_trains_the_full_resolution_which_then_teaches_the_others(daemon: RunningDaemon) -> None:
    spec = SPEC.model_copy(update={"teacher": Teacher.FULL, "resolutions": (LOW, FULL)})
    ended = done(daemon, daemon.client.submit(spec).id)
    assert ended.spec.resolutions == (FULL, LOW)
    assert [result.resolution for result in ended.results] == [FULL, LOW]
    assert all(result.published for result in ended.results)
    metadata = daemon.client.patch(ended.results[1].patch_id).metadata
    assert metadata.training is not None
    assert metadata.training.teacher is Teacher.FULL


def test_a_job_without_labels_tells_what_it_left_out_and_is_judged_by_agreement_on_the_same_images(
    daemon: RunningDaemon, images: Path
) -> None:
    arguments = ("--kinds", "scale_bias", "--unlabelled", str(images), "--epochs", "1", "--lr", "1e-4")
    ended = done(daemon, submitted(patchctl(daemon, "train", "submit", "--task", "digits", *arguments)))
    (result,) = ended.results
    assert (ended.spec.teacher, ended.spec.resolutions) == (Teacher.FULL, (LOW,))
    assert result.validation.measure is Measure.AGREEMENT
    assert result.rival is not None
    assert result.rival.measure is Measure.AGREEMENT
    assert result.rival.samples == result.validation.samples
    assert result.published == (result.validation.accuracy >= result.rival.accuracy)  # of equals, with fewer parameters
    assert "agreement with the teacher" in result.note
    assert result.test is not None
    assert result.test.measure is Measure.ACCURACY
    events = EventList.model_validate_json(daemon.client.request("GET", "/v1/events", query={"limit": 200})).events
    assert any("1 of the unlabelled images" in event.message and "broken.png" in event.message for event in events)
    shown = patchctl(daemon, "train", "show", ended.id)
    assert "agreement with the teacher" in shown
    assert f"{images}" in shown


def test_statistics_alone_train_nothing_and_keep_the_head(daemon: RunningDaemon) -> None:
    ended = done(daemon, daemon.client.submit(SPEC.model_copy(update={"kinds": (K.STATISTICS,)})).id)
    (result,) = ended.results
    assert result.parameters == 0
    metadata = daemon.client.patch(result.patch_id).metadata
    assert set(metadata.kinds) == {K.SCALE_BIAS, K.STATISTICS, K.HEAD}


def test_a_rung_s_plan_counts_the_answers_of_the_teachers_that_have_still_to_answer_and_of_no_other() -> None:
    def taught_at(teacher: Teacher, *made: int, step: int = 0) -> tuple[int, ...]:
        task = TaskSpec(name="digits", labels=("0", "1"), resolutions=(128, 96, 64))
        spec = TrainSpec(task="digits", resolutions=(128, 96, 64), teacher=teacher)
        (result,) = job(JobState.DONE).results
        results = tuple(result.model_copy(update={"resolution": side}) for side in made)
        progress = JobProgress(rungs=3, resolution=64, epochs=1, step=step)
        now = job(step=step).model_copy(update={"spec": spec, "results": results, "progress": progress})
        return outline(now, task, None).taught_at

    assert taught_at(Teacher.FULL) == ()  # the full resolution does not teach itself
    assert taught_at(Teacher.FULL, 128) == (128,)
    assert taught_at(Teacher.FULL, 128, 96) == ()
    assert taught_at(Teacher.FULL, 128, step=3) == ()
    assert taught_at(Teacher.ENSEMBLE) == (128, 96, 64)
    assert taught_at(Teacher.ENSEMBLE, 128, 96) == (96,)
    assert taught_at(Teacher.NONE, 128) == ()
