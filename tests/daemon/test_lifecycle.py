"""Starting, stopping, dying and coming back: what the daemon owes its state and its callers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from importlib.resources import files
from pathlib import Path

import psutil
import pytest
from patchd.daemon.api.explain_schemas import DecisionList
from patchd.daemon.api.schemas import JobView, TaskCreate, TraceReplay
from patchd.policies.errors import PatchdError, StateError, WorkerCrashedError
from patchd.policies.task import JobState, TrainSpec
from running import RunningDaemon, alive, warm

DIGITS = TaskCreate(name="digits", data="sklearn:digits", resolutions=(64, 32))
SMALL = TrainSpec(task="digits", resolutions=(32,), epochs=3, max_samples=160, batch_size=16)
LONG = SMALL.model_copy(update={"resolutions": (64,)})  # some seconds: long enough to be met in the middle


def worker_pid(daemon: RunningDaemon, name: str) -> int | None:
    return next(worker.pid for worker in daemon.client.status().workers if worker.name == name)


def finished(daemon: RunningDaemon, job_id: str) -> JobView | None:
    job = daemon.client.job(job_id)
    return job if job.state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED) else None


def decisions(daemon: RunningDaemon) -> set[str]:
    body = daemon.client.request("GET", "/v1/decisions", query={"limit": 100})
    return {decision.id for decision in DecisionList.model_validate_json(body).decisions}


def test_sigterm_drains_and_exits_0_within_10_s_leaving_nothing(
    fresh: RunningDaemon, photographs: dict[str, Path]
) -> None:
    fresh.client.infer("imagenet", photographs["flower"].read_bytes())
    pid = worker_pid(fresh, "inference")
    assert pid is not None
    code, seconds = fresh.stop(signal.SIGTERM)
    assert code == 0
    assert seconds < 10
    assert not alive(pid)
    assert not fresh.socket.exists()


def test_sigterm_while_costs_are_measured_again_is_no_error(tmp_path: Path, photographs: dict[str, Path]) -> None:
    config = tmp_path / "config.toml"
    config.write_text("measure_training_s = 0\nprofile_every_s = 10\n")
    with RunningDaemon(warm(tmp_path / "state"), "--config", str(config)) as daemon:
        daemon.client.infer("imagenet", photographs["china"].read_bytes())
        time.sleep(10.3)  # measuring five resolutions takes seconds
        code, _ = daemon.stop()
        assert code == 0
        said = daemon.text()
    assert "CancelledError" not in said
    assert "ERROR" not in said


def test_sigterm_in_the_middle_of_predictions_answers_all_that_were_accepted(
    fresh: RunningDaemon, photographs: dict[str, Path]
) -> None:
    from patchd.client import Client

    image = photographs["china"].read_bytes()
    fresh.client.infer("imagenet", image)
    outcomes: list[str] = []

    def ask() -> None:
        with Client(fresh.socket, retries=0) as client:
            try:
                for _ in range(200):
                    client.infer("imagenet", image)
                    outcomes.append("answered")
            except PatchdError as error:
                outcomes.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    code, seconds = fresh.stop()
    for thread in threads:
        thread.join()
    assert (code, seconds < 10) == (0, True)
    assert outcomes.count("answered") > 4
    assert set(outcomes) <= {"answered", "unavailable"}


def test_a_second_daemon_on_the_same_state_refuses_to_start(fresh: RunningDaemon, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "patchd.daemon.main", "--state", str(fresh.state), "--socket", str(tmp_path / "t")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert second.returncode == 1
    assert f"process {fresh.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert fresh.client.status().pid == fresh.pid


def test_a_killed_inference_worker_costs_a_retryable_error_and_nothing_else(
    fresh: RunningDaemon, photographs: dict[str, Path]
) -> None:
    image = photographs["china"].read_bytes()
    fresh.client.infer("imagenet", image)
    pid = worker_pid(fresh, "inference")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that the request is surely in flight when the worker dies
    caught: list[PatchdError] = []

    def ask() -> None:
        from patchd.client import Client

        with Client(fresh.socket, retries=0) as client:
            try:
                client.infer("imagenet", image)
            except PatchdError as error:
                caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    fresh.until(lambda: any(w.in_flight for w in fresh.client.status().workers), 10)
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert len(caught) == 1
    assert isinstance(caught[0], WorkerCrashedError)
    assert caught[0].retry_after_s
    assert fresh.client.infer("imagenet", image).predictions
    assert "worker.crashed" in {event.kind for event in fresh.client.events().events}


def test_workers_die_with_a_killed_daemon(fresh: RunningDaemon, photographs: dict[str, Path]) -> None:
    fresh.client.infer("imagenet", photographs["flower"].read_bytes())
    pid = worker_pid(fresh, "inference")
    assert pid is not None
    fresh.kill()
    fresh.until(lambda: not alive(pid), 10)


def test_tasks_policy_and_costs_survive_kill_9(fresh: RunningDaemon, photographs: dict[str, Path]) -> None:
    fresh.client.add_task(DIGITS)
    fresh.client.use_policy(name="performance")
    fresh.client.infer("imagenet", photographs["flower"].read_bytes())
    costs = fresh.client.profile().costs
    decided = decisions(fresh)
    fresh.kill()
    fresh.start()
    assert {task.spec.name for task in fresh.client.tasks().tasks} == {"imagenet", "digits"}
    assert fresh.client.status().policy.name == "performance"
    assert fresh.client.profile().costs == costs
    assert decided
    assert decided <= decisions(fresh)


def test_training_publishes_patches_that_answer_and_survive(fresh: RunningDaemon) -> None:
    import io

    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    fresh.client.add_task(DIGITS)
    job = fresh.client.submit(SMALL)
    done = fresh.until(lambda: finished(fresh, job.id), 150)
    assert done.state is JobState.DONE, done.error
    result = done.results[0]
    assert result.published
    assert result.test is not None
    assert result.share < 0.02
    patch = fresh.client.patch(result.patch_id[:8])
    assert patch.in_force
    assert patch.metadata.training is not None
    pixels = load_digits().images[0] * 15.9
    encoded = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(encoded, "PNG")
    answer = fresh.client.infer("digits", encoded.getvalue())
    assert (answer.resolution, answer.patch_id) == (32, result.patch_id)
    imagenet = fresh.client.infer("imagenet", encoded.getvalue(), resolution=96)
    assert len(imagenet.predictions) == 5

    data = fresh.client.patch_file(patch.id)
    fresh.client.remove_patch(patch.id)
    assert fresh.client.task("digits").ladder is None
    restored = fresh.client.import_patch(data)
    assert (restored.id, restored.in_force) == (patch.id, True)
    fresh.kill()
    fresh.start()
    again = fresh.client.infer("digits", encoded.getvalue())
    assert [best.label for best in again.predictions] == [best.label for best in answer.predictions]
    for before, after in zip(answer.predictions, again.predictions, strict=True):  # perhaps by the other engine
        assert after.probability == pytest.approx(before.probability, abs=1e-4)


def test_a_training_job_goes_on_after_kill_9_of_worker_and_daemon(tmp_path: Path) -> None:
    policy = tmp_path / "short.toml"
    policy.write_text(
        '[policy]\nname = "short"\ndescription = "short slices"\n[inference]\nallocation = 1.0\n'
        "[training]\nallocation = 0.5\nslice_s = 1.0\n"
    )
    with RunningDaemon(tmp_path / "state", "--policy", str(policy)) as daemon:
        daemon.client.add_task(DIGITS)
        job = daemon.client.submit(LONG)
        daemon.until(lambda: daemon.client.job(job.id).progress.step >= 3, 60)
        pid = worker_pid(daemon, "training")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        daemon.until(lambda: worker_pid(daemon, "training") not in (None, pid), 60)
        daemon.until(lambda: daemon.client.job(job.id).progress.step >= 6, 60)
        daemon.kill()
        daemon.start()
        assert daemon.client.job(job.id).state in (JobState.QUEUED, JobState.RUNNING)
        done = daemon.until(lambda: finished(daemon, job.id), 150)
        assert done.state is JobState.DONE, done.error
        assert len(done.results) == 1
        kinds = [event.kind for event in daemon.client.events().events]
        assert "worker.crashed" in kinds
        assert "job.recovered" in kinds
        assert not list((daemon.state / "jobs").iterdir())


def test_a_full_disk_stops_neither_deciding_nor_serving_and_loses_nothing(
    fresh: RunningDaemon, photographs: dict[str, Path]
) -> None:
    fresh.client.add_task(DIGITS)
    job = fresh.client.submit(LONG)
    fresh.until(lambda: fresh.client.job(job.id).progress.step >= 3, 60)
    daemon = psutil.Process(fresh.pid)
    unlimited = daemon.rlimit(psutil.RLIMIT_FSIZE)
    daemon.rlimit(psutil.RLIMIT_FSIZE, (4096, unlimited[1]))  # no file may grow beyond 4 KiB: SQLite's writes fail
    other = DIGITS.model_copy(update={"name": "other"})
    with pytest.raises(StateError, match=r"cannot be written.*Nothing was changed"):
        fresh.client.add_task(other)
    with pytest.raises(StateError, match=r"cannot be written.*Nothing was changed"):
        fresh.client.use_policy(name="powersave")
    assert fresh.client.status().policy.name == "steady"
    assert {task.spec.name for task in fresh.client.tasks().tasks} == {"imagenet", "digits"}
    assert fresh.client.infer("imagenet", photographs["flower"].read_bytes()).predictions[0].label == "daisy"
    fresh.until(lambda: list((fresh.state / "patches").iterdir()), 100)
    fresh.until(lambda: fresh.client.status().workers[1].state == "ready", 20)  # told of it, but could not register it
    assert fresh.client.job(job.id).state is JobState.RUNNING
    assert fresh.client.job(job.id).results == ()
    trace = (files("patchd.policies") / "traces" / "demo.jsonl").read_text()
    fresh.client.start_trace(TraceReplay(jsonl=trace, name="demo", speed=10))
    fresh.until(lambda: fresh.client.snapshot().source == "trace:demo", 10)
    daemon.rlimit(psutil.RLIMIT_FSIZE, unlimited)
    done = fresh.until(lambda: finished(fresh, job.id), 60)
    assert done.state is JobState.DONE
    assert [result.published for result in done.results] == [True]
    fresh.client.add_task(other)
    fresh.kill()
    fresh.start()
    assert fresh.client.job(job.id).state is JobState.DONE
    kinds = [event.kind for event in fresh.client.events().events]
    assert kinds.index("job.delayed") < kinds.index("job.done")
    assert "trace.started" in kinds


def test_a_job_can_be_paused_resumed_and_cancelled(fresh: RunningDaemon) -> None:
    fresh.client.add_task(DIGITS)
    job = fresh.client.submit(SMALL.model_copy(update={"epochs": 500}))
    fresh.until(lambda: fresh.client.job(job.id).progress.step > 0, 60)
    assert fresh.client.change_job(job.id, "pause").state is JobState.PAUSED
    fresh.until(lambda: worker_pid(fresh, "training") is None, 20)
    step = fresh.client.job(job.id).progress.step
    fresh.client.change_job(job.id, "resume")
    fresh.until(lambda: fresh.client.job(job.id).progress.step > step, 60)
    assert fresh.client.change_job(job.id, "cancel").state is JobState.CANCELLED
    fresh.until(lambda: worker_pid(fresh, "training") is None, 20)
    with pytest.raises(PatchdError, match="has ended"):
        fresh.client.change_job(job.id, "resume")
    assert not (fresh.state / "jobs" / job.id).exists()


def test_a_changed_policy_is_taken_and_a_wrong_one_refused_with_file_line_and_key(tmp_path: Path) -> None:
    policy = tmp_path / "mine.toml"
    good = '[policy]\nname = "mine"\ndescription = "d"\n[inference]\nallocation = 1.0\n[training]\nallocation = 0.5\n'
    policy.write_text(good)
    with RunningDaemon(tmp_path / "state", "--policy", str(policy)) as daemon:
        assert daemon.client.status().policy.source == str(policy)
        policy.write_text(good.replace("allocation = 1.0", "allocation = 0.0"))
        daemon.until(lambda: daemon.client.status().decision.inference.value == 0.0, 10)
        policy.write_text(good.replace("allocation = 0.5", "allocatoin = 0.5"))
        daemon.until(lambda: daemon.client.status().policy.error, 10)
        error = daemon.client.status().policy.error
        assert error is not None
        assert f"{policy}:7" in error
        assert "allocatoin" in error
        assert daemon.client.status().decision.inference.value == 0.0
        assert [e.kind for e in daemon.client.events(level="error").events] == ["policy.refused"]
        daemon.kill()
        daemon.start()
        assert daemon.client.status().policy.name == "mine"
        assert daemon.client.status().policy.error
        policy.write_text(good)
        daemon.until(lambda: daemon.client.status().policy.error is None, 10)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--policy", "turbo"], "turbo"),
        (["--policy", "/no/such.toml"], "/no/such.toml"),
        (["--config", "/no/such.toml"], "/no/such.toml"),
        (["--socket", "/tmp/" + "x" * 120], "bytes"),
    ],
)
def test_a_daemon_that_cannot_start_says_why_in_one_sentence(
    tmp_path: Path, arguments: list[str], pattern: str
) -> None:
    command = [sys.executable, "-m", "patchd.daemon.main", "--state", str(tmp_path / "s"), *arguments]
    if "--socket" not in arguments:
        command += ["--socket", str(tmp_path / "sock")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("patchd: ")
    assert pattern in last
    assert "Traceback" not in ended.stderr


def test_the_control_plane_maps_no_torch_and_no_numpy(fresh: RunningDaemon, photographs: dict[str, Path]) -> None:
    fresh.client.infer("imagenet", photographs["flower"].read_bytes())
    maps = Path(f"/proc/{fresh.pid}/maps").read_text()
    assert "torch" not in maps
    assert "numpy" not in maps


def test_a_trace_takes_the_place_of_the_device_and_predictions_obey_it(
    fresh: RunningDaemon, photographs: dict[str, Path], tmp_path: Path
) -> None:
    from patchd.daemon.api.schemas import TraceReplay

    policy = tmp_path / "battery.toml"
    policy.write_text(
        '[policy]\nname = "battery"\ndescription = "d"\n[training]\nallocation = 0.5\n[[rule]]\nname = "low"\n'
        'when = [{ signal = "battery.charge", below = 0.2 }]\ninference = 0.1\ntraining = 0.0\n'
    )
    fresh.client.use_policy(path=policy)

    image = photographs["flower"].read_bytes()
    assert fresh.client.infer("imagenet", image).resolution == 224
    records = ['{"format": "patchd-trace", "version": 1, "name": "low", "story": "low battery", "period_s": 1.0}']
    records += [f'{{"t": {t}, "power": {{"on_mains": false, "battery_charge": 0.08}}}}' for t in range(60)]
    body = TraceReplay(name="low", speed=1.0, jsonl="\n".join(records)).model_dump_json().encode()
    fresh.client.request("POST", "/v1/monitor/trace", body=body)
    small = fresh.until(lambda: (a := fresh.client.infer("imagenet", image)).resolution < 224 and a, 15)
    assert small.allocation < 1.0
    explained = fresh.client.explain(request=small.request_id)
    assert explained.snapshot.source == "trace:low"
    assert any("battery" in reason.text for reason in explained.decision.inference.reasons)
    assert explained.decision.plan.plan.paused
    fresh.client.request("DELETE", "/v1/monitor/trace")
    fresh.until(lambda: fresh.client.infer("imagenet", image).resolution == 224, 60)
