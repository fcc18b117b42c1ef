"""Predictions of many clients: gathered, fair, routed by the form of what was sent, and kept on a bounded device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from patchd.client import Client
from patchd.daemon.api.schemas import TaskCreate
from patchd.models.bases import load_base
from patchd.models.patches import Patch, save_patch
from patchd.policies.errors import BusyError
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing
from PIL import Image
from running import STEADY, RunningDaemon, warm

GATHERING = STEADY.replace("allocation = 1.0", "allocation = 1.0\nbatch_delay_ms = 300", 1)
SHORT_OF_MEMORY = STEADY.replace("allocation = 1.0", "allocation = 1.0\nunload_memory_below = 1.0", 1)

FLOOD = """
import sys, threading
from pathlib import Path
from patchd.client import Client
from patchd.policies.errors import BusyError
busy = 0
def ask():
    global busy
    with Client(Path(sys.argv[1]), retries=0) as client:
        while True:
            try:
                client.infer_tensor("imagenet", bytes(224 * 224 * 3), (224, 224, 3), "UINT8")
            except BusyError:
                busy += 1
                if busy == 1:
                    print("busy", flush=True)
for _ in range(24):
    threading.Thread(target=ask, daemon=True).start()
sys.stdin.read()
"""


def policy(folder: Path, text: str) -> str:
    file = folder / "policy.toml"
    file.write_text(text)
    return str(file)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("serving")
    with RunningDaemon(folder / "state", "--policy", policy(folder, GATHERING)) as running:
        yield running


def picture(width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels, "RGB").save(file := BytesIO(), "PNG")
    return file.getvalue()


def test_predictions_that_come_together_run_together_and_agree_with_those_alone(daemon: RunningDaemon) -> None:
    data = picture(300, 300)
    alone = daemon.client.infer("imagenet", data)

    def ask(_: int):
        with Client(daemon.socket, retries=0) as client:
            return client.infer("imagenet", data)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(6)))
    assert max(answer.batch for answer in answers) > 1
    for answer in answers:
        assert [p.index for p in answer.predictions] == [p.index for p in alone.predictions]
        assert answer.predictions[0].probability == pytest.approx(alone.predictions[0].probability, abs=1e-3)


@pytest.mark.parametrize(("size", "resolution"), [((400, 300), 224), ((160, 200), 160), ((60, 500), 96)])
def test_an_image_that_has_a_smaller_rung_s_form_goes_there_and_the_answer_says_so(
    daemon: RunningDaemon, size: tuple[int, int], resolution: int
) -> None:
    answer = daemon.client.infer("imagenet", picture(*size))
    assert answer.resolution == resolution
    said = f"the image has {size[0]} x {size[1]} pixels, nearest to this rung's form"
    assert (said in answer.why) == (resolution != 224)


def test_a_resolution_that_the_caller_names_is_used_whatever_the_image(daemon: RunningDaemon) -> None:
    assert daemon.client.infer("imagenet", picture(60, 60), resolution=224).resolution == 224


def test_compiled_graphs_are_kept_in_the_state_and_used_by_the_next_worker(daemon: RunningDaemon) -> None:
    daemon.client.infer("imagenet", picture(300, 300))
    before = {path.name: path.read_bytes() for path in (daemon.state / "graphs").iterdir()}
    assert before
    worker = next(worker for worker in daemon.client.status().workers if worker.name == "inference")
    assert worker.pid is not None
    subprocess.run(["kill", "-9", str(worker.pid)], check=True)
    daemon.until(lambda: next(w for w in daemon.client.status().workers if w.name == "inference").pid is None)
    assert daemon.client.infer("imagenet", picture(300, 300)).engine == "openvino"
    after = {path.name: path.read_bytes() for path in (daemon.state / "graphs").iterdir()}
    assert {name: after[name] for name in before} == before


def test_a_client_that_floods_is_told_when_to_ask_again_and_the_others_are_served(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("queue_limit = 16\n")
    with RunningDaemon(warm(tmp_path / "state"), "--config", str(tmp_path / "config.toml")) as running:
        running.client.infer("imagenet", picture(300, 300))
        flood = subprocess.Popen(
            [sys.executable, "-c", FLOOD, str(running.socket)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert flood.stdout is not None
            assert flood.stdout.readline() == "busy\n"
            for _ in range(20):  # one refusal would raise BusyError
                assert running.client.infer("imagenet", picture(300, 300)).predictions
        finally:
            flood.kill()
            flood.communicate()


def test_busy_names_the_limit_and_the_seconds_to_wait(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("queue_limit = 1\n")
    arguments = ("--config", str(tmp_path / "config.toml"), "--policy", policy(tmp_path, GATHERING))
    with RunningDaemon(warm(tmp_path / "state"), *arguments) as running:
        running.client.infer("imagenet", picture(300, 300))

        def ask(_: int) -> BusyError | None:
            with Client(running.socket, retries=0) as client:
                try:
                    client.infer("imagenet", picture(300, 300))
                except BusyError as error:
                    return error
            return None

        with ThreadPoolExecutor(4) as pool:
            refusals = [error for error in pool.map(ask, range(4)) if error is not None]
    assert refusals
    for error in refusals:
        assert "1 predictions are in flight; the limit is 1." in error.message
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0


def test_short_of_memory_the_idle_worker_is_unloaded_and_the_next_prediction_says_its_wait(
    tmp_path: Path,
) -> None:
    with RunningDaemon(warm(tmp_path / "state"), "--policy", policy(tmp_path, SHORT_OF_MEMORY)) as running:
        running.client.infer("imagenet", picture(300, 300))

        def unloaded() -> str | None:
            return next(w for w in running.client.status().workers if w.name == "inference").reason

        assert running.until(unloaded, 30).startswith("memory pressure: ")
        index = json.loads(running.client.request("POST", "/v2/repository/index", body=b"{}"))
        said = next(model["reason"] for model in index if model["name"] == "imagenet")
        assert said.startswith("its worker was unloaded (memory pressure: ")
        answer = running.client.infer("imagenet", picture(300, 300))
        assert answer.timing.start_worker_ms > 100
        assert answer.timing.total_ms > answer.timing.start_worker_ms
        assert any("memory pressure" in event.message for event in running.client.events().events)


def test_nobody_waits_while_the_rungs_of_a_new_task_are_measured(fresh, tmp_path):
    base, old = load_base("lite0"), bytes(96 * 96 * 3 * 4)
    fresh.client.infer_tensor("imagenet", old, (3, 96, 96), "FP32")
    labels = ("left", "right")
    metadata = PatchMetadata(
        base=base.name, base_hash=base.hash, task="sides", labels=labels, kinds=(PatchKind.HEAD,), resolution=64,
        preprocessing=Preprocessing(), parameters=2562, base_parameters=base.parameters_count, created_s=0.0,
    )  # fmt: skip
    head = {"classifier.weight": torch.eye(2, 1280), "classifier.bias": torch.zeros(2)}
    _, file = save_patch(Patch(metadata, head), tmp_path)
    fresh.client.add_task(TaskCreate(name="sides", labels=labels, resolutions=(64, 256)))
    fresh.client.import_patch(file.read_bytes())
    answered = 0
    with ThreadPoolExecutor(1) as pool, Client(fresh.socket, retries=0) as other:
        first = pool.submit(other.infer_tensor, "sides", bytes(64 * 64 * 3 * 4), (3, 64, 64), "FP32")
        while not first.done():
            assert fresh.client.infer_tensor("imagenet", old, (3, 96, 96), "FP32").timing.start_worker_ms == 0.0
            answered += 1
        assert first.result().timing.start_worker_ms > 0.0
    assert answered > 5
    assert {cost.resolution for cost in fresh.client.profile().costs} >= {64, 256}
