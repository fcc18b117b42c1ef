"""The inference worker as a process: real frames over a real socket, real networks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from inference_worker import WorkerProcess, head_patch, patch_rung, rung
from patchd.daemon.workers.protocol import (
    PREFIX,
    InferRequest,
    InferResult,
    ProfileRequest,
    ProfileResult,
    Ready,
    Stop,
    WorkerError,
    YieldSlice,
)
from patchd.models.bases import Base, imagenet_labels, load_base
from patchd.models.engine import TorchEngine
from patchd.models.patches import load_patch
from patchd.models.preprocessing import decode_image, to_input
from patchd.policies.task import Preprocessing
from PIL import Image

PALACE, DAISY = (imagenet_labels().index(name) for name in ("palace", "daisy"))


@pytest.fixture(scope="module", params=["torch", "openvino"])
def worker(request: pytest.FixtureRequest) -> Iterator[WorkerProcess]:
    worker = WorkerProcess(request.param)
    yield worker
    assert worker.end() == (0, "")


@pytest.fixture
def base() -> Base:
    return load_base("lite0")


def test_the_worker_says_that_it_is_ready(worker):
    assert worker.ready == Ready(engine=worker.engine)


def test_photographs_are_classified_with_timing(worker, photographs):
    for name, index in (("china", PALACE), ("flower", DAISY)):
        answer = worker.infer(rung(), photographs[name].read_bytes(), top_k=3)
        assert isinstance(answer, InferResult)
        assert answer.indices[0] == index
        assert len(answer.indices) == len(answer.probabilities) == 3
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert answer.image_size == (640, 427)
        assert answer.timing.decode_ms > 0
        assert answer.timing.network_ms > answer.timing.bind_ms >= 0


def test_image_pixels_and_input_agree_with_the_library(worker, base, photographs):
    data = photographs["china"].read_bytes()
    pixels = np.asarray(decode_image(data))
    inputs = to_input(pixels, 96, Preprocessing())
    expected = TorchEngine(base, 1).predict(inputs.unsqueeze(0))[0].topk(5)
    raw = inputs.contiguous().numpy().tobytes()
    answers = [
        worker.infer(rung(96), data),
        worker.infer(rung(96), pixels.tobytes(), "pixels", shape=pixels.shape),
        worker.infer(rung(96), raw, "input", shape=(3, 96, 96)),
        worker.infer(rung(96), raw, "input", shape=(1, 3, 96, 96)),
    ]
    for answer in answers:
        assert isinstance(answer, InferResult)
        assert answer.indices == tuple(expected.indices.tolist())
        assert answer.probabilities == pytest.approx(expected.values.tolist(), abs=1e-4)


def test_patches_of_different_class_counts_take_turns(worker, base, photographs, tmp_path):
    data = photographs["flower"].read_bytes()
    inputs = to_input(decode_image(data), 96, Preprocessing()).unsqueeze(0)
    engine = TorchEngine(base, 1)
    bare = worker.infer(rung(96), data)
    rungs = [patch_rung(head_patch(base, labels, labels), tmp_path) for labels in (3, 40)]
    for chosen in (*rungs, *rungs):
        answer = worker.infer(chosen, data, top_k=1000)
        assert isinstance(answer, InferResult), answer
        assert len(answer.indices) == chosen.labels
        expected = engine.predict(inputs, load_patch(Path(str(chosen.patch_file)), base))[0]
        assert answer.indices[0] == int(expected.argmax())
        again = worker.infer(rung(96), data)
        assert again.probabilities == bare.probabilities


def jpeg_header_only() -> bytes:
    buffer = BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    return buffer.getvalue()[:-40]


@pytest.mark.parametrize(
    ("payload", "form", "fields", "code", "says"),
    [
        (b"", "image", {}, "bad_input", "empty"),
        (b"hello", "image", {}, "bad_input", "not an image"),
        (jpeg_header_only(), "image", {}, "bad_input", "broken"),
        (b"\0" * 12, "input", {"shape": (3, 2, 2)}, "bad_input", "takes FP32 [3, 96, 96]"),
        (b"\0" * 12, "input", {"shape": (3, 96, 96)}, "bad_input", "needs 110592 bytes; 12 were sent"),
        (b"\xff" * 110592, "input", {"shape": (3, 96, 96)}, "bad_input", "not finite"),
        (b"\0" * 12, "pixels", {"shape": (2, 2)}, "bad_input", "UINT8 [H, W, 3] is needed"),
        (b"", "pixels", {"shape": (0, 2, 3)}, "bad_input", "UINT8 [H, W, 3] is needed"),
        (b"\0" * 11, "pixels", {"shape": (2, 2, 3)}, "bad_input", "needs 12 bytes; 11 were sent"),
        (b"\0" * 12, "pixels", {"shape": (2, 2, 3), "max_pixels": 3}, "too_large", "megapixels"),
    ],
)
def test_what_cannot_be_used_gets_one_clear_error_and_the_worker_serves_on(
    worker, photographs, payload, form, fields, code, says
):
    answer = worker.infer(rung(96), payload, form, **fields)
    assert isinstance(answer, WorkerError)
    assert answer.code == code
    assert says in answer.message
    assert "\n" not in answer.message
    assert isinstance(worker.infer(rung(96), photographs["china"].read_bytes()), InferResult)


def test_a_bomb_is_refused_before_it_is_decoded(worker):
    buffer = BytesIO()
    Image.new("1", (10_000, 10_000)).save(buffer, "PNG")
    answer = worker.infer(rung(96), buffer.getvalue())
    assert isinstance(answer, WorkerError)
    assert answer.code == "too_large"
    assert "100.0 megapixels" in answer.message
    assert "at most 40.0" in answer.message


def test_patches_that_do_not_fit_are_refused_by_name(worker, base, photographs, tmp_path):
    data = photographs["china"].read_bytes()
    foreign = patch_rung(head_patch(base, 3, 0, base_hash="0" * 64), tmp_path)
    miscounted = patch_rung(head_patch(base, 3, 0), tmp_path, labels=4)
    absent = rung(96, patch_file=str(tmp_path / "absent.safetensors"))
    headless = rung(96, task="t", labels=10)
    unknown = rung(96, base="lite7")
    for chosen, code, says in (
        (foreign, "patch_mismatch", "fingerprint 000000000000"),
        (miscounted, "patch_mismatch", "answers 3 classes; task 't' has 4"),
        (absent, "not_found", "absent.safetensors"),
        (headless, "patch_mismatch", "answers 1000 classes without a patch; task 't' has 10"),
        (unknown, "not_found", "no base called 'lite7'"),
    ):
        answer = worker.infer(chosen, data)
        assert isinstance(answer, WorkerError), chosen
        assert (answer.code, says in answer.message) == (code, True), answer.message


def test_a_message_meant_for_the_other_worker_is_refused(worker):
    answer = worker.ask(YieldSlice())
    assert isinstance(answer, WorkerError)
    assert "yield_slice" in answer.message


def test_an_unforeseen_failure_costs_one_request_only(worker, photographs, tmp_path):
    # A directory in a patch's place: an operating system error that no rule foresees.
    answer = worker.infer(rung(96, patch_file=str(tmp_path)), photographs["china"].read_bytes())
    assert isinstance(answer, WorkerError)
    assert answer.code == "internal"
    assert answer.message.startswith("IsADirectoryError")
    assert isinstance(worker.infer(rung(96), photographs["china"].read_bytes()), InferResult)


def test_profiling_measures_each_resolution(worker):
    answer = worker.ask(ProfileRequest(id=7, base="lite0", resolutions=(224, 96), repeats=5))
    assert isinstance(answer, ProfileResult)
    assert (answer.id, answer.engine, answer.threads) == (7, worker.engine, 1)
    large, small = answer.costs
    assert (large.resolution, small.resolution, large.repeats) == (224, 96, 5)
    assert 0 < small.median_ms < large.median_ms
    assert all(cost.median_ms <= cost.p90_ms for cost in answer.costs)


def test_requests_sent_together_are_each_answered_whatever_becomes_of_the_others(worker, photographs):
    data = photographs["china"].read_bytes()
    for identity in (101, 102, 103):
        worker.channel.send(InferRequest(id=identity, rung=rung(96), form="image"), data if identity != 102 else b"x")
    answers = {answer.id: answer for answer in (worker.receive() for _ in range(3))}
    assert {identity: answer.type for identity, answer in answers.items()} == {
        101: "result", 102: "error", 103: "result",
    }  # fmt: skip


def test_requests_of_several_tasks_share_a_batch_when_they_may_wait_for_each_other(worker, base, photographs, tmp_path):
    data = photographs["flower"].read_bytes()
    rungs = [patch_rung(head_patch(base, classes, classes), tmp_path) for classes in (3, 5, 7)]
    alone = [worker.infer(each, data) for each in rungs]
    for identity, each in enumerate(rungs):
        worker.channel.send(InferRequest(id=200 + identity, rung=each, form="image", batch_delay_ms=500), data)
    began = time.monotonic()
    answers = sorted((worker.receive() for _ in rungs), key=lambda answer: answer.id)
    assert time.monotonic() - began >= 0.4
    assert [answer.batch for answer in answers] == [3, 3, 3]
    for answer, expected in zip(answers, alone, strict=True):
        assert answer.indices == expected.indices
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-4)


def test_what_is_urgent_comes_before_what_was_there_first(worker, photographs):
    data = photographs["china"].read_bytes()
    worker.infer(rung(96), data)
    for identity, priority in ((301, 3), (302, 2), (303, 1)):
        wishes = {"priority": priority, "batch_delay_ms": 400}
        worker.channel.send(InferRequest(id=identity, rung=rung(96), form="image", **wishes), data)
    assert [worker.receive().id for _ in range(3)] == [303, 302, 301]


def test_nothing_waits_for_company_so_long_that_its_deadline_passes(worker, photographs):
    data = photographs["china"].read_bytes()
    worker.infer(rung(96), data)
    began = time.monotonic()
    answer = worker.infer(rung(96), data, batch_delay_ms=60_000, cost_ms=200, expires_s=began + 2.0)
    assert isinstance(answer, InferResult)
    assert 1.0 < time.monotonic() - began < 2.0


def test_a_request_whose_deadline_has_passed_is_not_run(worker, photographs):
    answer = worker.infer(rung(96), photographs["china"].read_bytes(), expires_s=time.monotonic() - 0.1)
    assert isinstance(answer, WorkerError)
    assert (answer.code, "deadline passed" in answer.message) == ("deadline", True)


@pytest.mark.parametrize(("size", "resolution"), [((640, 427), 224), ((160, 300), 160), ((96, 96), 96), ((40, 30), 96)])
def test_an_image_that_has_the_form_of_a_smaller_rung_goes_there(worker, size, resolution):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    smaller = (rung(96), rung(160))
    answer = worker.infer(rung(224), pixels.tobytes(), "pixels", shape=pixels.shape, smaller=smaller)
    assert isinstance(answer, InferResult)
    assert answer.resolution == resolution
    alone = worker.infer(rung(resolution), pixels.tobytes(), "pixels", shape=pixels.shape)
    assert answer.indices == alone.indices
    assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-4)


def test_requests_are_answered_between_the_runs_of_a_measurement(photographs):
    worker = WorkerProcess("torch")
    photograph = photographs["china"].read_bytes()
    worker.infer(rung(96), photograph)
    worker.channel.send(ProfileRequest(id=900, base="lite0", resolutions=(224, 192), repeats=40, threads=1))
    answers = [worker.infer(rung(96), photograph) for _ in range(5)]
    assert all(isinstance(answer, InferResult) for answer in answers)
    measured = worker.receive()
    assert isinstance(measured, ProfileResult)
    assert [(cost.resolution, cost.repeats) for cost in measured.costs] == [(224, 40), (192, 40)]
    assert worker.end() == (0, "")


def test_stop_answers_what_is_in_hand_first(photographs):
    worker = WorkerProcess()
    data = photographs["china"].read_bytes()
    for identity in range(5):
        worker.channel.send(InferRequest(id=identity, rung=rung(96), form="image", batch_delay_ms=60_000), data)
    worker.channel.send(Stop())
    assert sorted(worker.receive().id for _ in range(5)) == list(range(5))
    assert worker.process.wait(timeout=20) == 0
    worker.end()


def test_a_frame_that_is_no_message_ends_the_worker_instead_of_leaving_it_deaf():
    worker = WorkerProcess()
    worker.socket.sendall(PREFIX.pack(2, 0) + b"{}")
    assert worker.process.wait(timeout=20) == 1
    _, stderr = worker.end()
    assert "ValidationError" in stderr


def test_ctrl_c_is_left_to_the_control_plane_and_stop_ends_the_worker():
    worker = WorkerProcess()
    os.kill(worker.process.pid, signal.SIGINT)
    answer = worker.ask(ProfileRequest(id=1, base="lite0", resolutions=(32,), repeats=1))
    assert isinstance(answer, ProfileResult)
    worker.channel.send(Stop())
    assert worker.process.wait(timeout=20) == 0
    worker.end()


def test_the_end_of_the_stream_ends_the_worker():
    worker = WorkerProcess()
    start = time.monotonic()
    assert worker.end() == (0, "")
    assert time.monotonic() - start < 10
