"""Images pass the stages of a cascade in the inference worker: real frames, real networks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from inference_worker import WorkerProcess, head_patch, patch_rung, rung
from patchd.daemon.workers.protocol import Audited, InferRequest, InferResult, Note, StageRef, Stop, WorkerError
from patchd.models.bases import load_base
from patchd.models.cascades import read_logits
from patchd.models.engine import TorchEngine
from patchd.models.preprocessing import decode_image, to_input
from patchd.policies.cascade import AcceptRule, RuleKind
from patchd.policies.task import Preprocessing

ALWAYS = AcceptRule(kind=RuleKind.ALWAYS)
NEVER = AcceptRule(kind=RuleKind.MARGIN, threshold=2.0)
SIDES = (96, 128, 160)


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    worker = WorkerProcess()
    yield worker
    assert worker.end() == (0, "")


def stages(*rules: AcceptRule, cost_ms: float = 5.0) -> tuple[StageRef, ...]:
    return tuple(
        StageRef(rung=rung(side), rule=rule, cost_ms=cost_ms) for side, rule in zip(SIDES, rules, strict=False)
    )


def ask(worker: WorkerProcess, data: bytes, *rules: AcceptRule, **fields: Any) -> InferResult:
    answer = worker.infer(rung(224), data, stages=stages(*rules), **fields)
    assert isinstance(answer, InferResult), answer
    return answer


def features(data: bytes, side: int) -> tuple[int, np.ndarray]:
    engine = TorchEngine(load_base("lite0"), 1)
    side_needed = 160 / 0.875
    inputs = to_input(decode_image(data, needed_side=round(side_needed)), side, Preprocessing()).unsqueeze(0)
    answers, found = read_logits(engine.run(inputs).logits)
    return int(answers[0]), found[0]


def test_the_first_sure_stage_answers_and_says_how_sure_it_is(worker, photographs):
    data = photographs["china"].read_bytes()
    _, found = features(data, 128)
    margin = AcceptRule(kind=RuleKind.MARGIN, threshold=float(found[1]) - 0.01)
    answer = ask(worker, data, NEVER, margin, ALWAYS)
    assert answer.passage is not None
    assert (answer.passage.stage, answer.resolution, answer.passage.late) == (1, 128, False)
    assert answer.passage.confidence == pytest.approx(float(found[1]), abs=2e-3)
    alone = worker.infer(rung(128), data)
    assert answer.indices == alone.indices


def test_a_margin_just_too_small_sends_the_image_on(worker, photographs):
    data = photographs["china"].read_bytes()
    _, found = features(data, 96)
    answer = ask(worker, data, AcceptRule(kind=RuleKind.MARGIN, threshold=float(found[1]) + 0.01), ALWAYS)
    assert answer.passage is not None
    assert (answer.passage.stage, answer.resolution) == (1, 128)


def test_learned_confidence_is_the_same_as_in_calibrating(worker, photographs):
    data = photographs["flower"].read_bytes()
    _, found = features(data, 96)
    weights = (-0.5, 1.5, 0.25, -0.75, 0.1)
    expected = 1 / (1 + np.exp(-(weights[0] + np.dot(weights[1:], found))))
    for threshold, stage in ((expected - 0.005, 0), (expected + 0.005, 1)):
        rule = AcceptRule(kind=RuleKind.CONFIDENCE, weights=weights, threshold=float(threshold))
        answer = ask(worker, data, rule, ALWAYS)
        assert answer.passage is not None
        assert answer.passage.stage == stage
        if stage == 0:
            assert answer.passage.confidence == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("name", ["china", "flower"])
def test_agreement_takes_an_answer_only_where_the_earlier_stage_gave_the_same(worker, photographs, name):
    data = photographs[name].read_bytes()
    same = features(data, 96)[0] == features(data, 128)[0]
    answer = ask(worker, data, NEVER, AcceptRule(kind=RuleKind.AGREEMENT, earlier=0), ALWAYS)
    assert answer.passage is not None
    assert answer.passage.stage == (1 if same else 2)


def test_the_last_stage_s_confidence_is_its_probability(worker, photographs):
    answer = ask(worker, photographs["china"].read_bytes(), NEVER, NEVER, ALWAYS)
    assert answer.passage is not None
    assert answer.passage.stage == 2
    assert answer.passage.confidence == pytest.approx(answer.probabilities[0], abs=1e-6)


def test_stages_of_different_bases_follow_each_other(worker, photographs):
    data = photographs["china"].read_bytes()
    dear = StageRef(rung=rung(128, base="lite1"), rule=ALWAYS)
    answer = worker.infer(rung(224), data, stages=(StageRef(rung=rung(128), rule=NEVER), dear))
    assert isinstance(answer, InferResult)
    alone = worker.infer(rung(128, base="lite1"), data)
    assert answer.indices == alone.indices
    assert answer.probabilities == pytest.approx(alone.probabilities, abs=1e-4)


def test_an_image_that_has_the_form_of_a_smaller_rung_passes_no_cascade(worker):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    answer = worker.infer(
        rung(224), pixels.tobytes(), "pixels", shape=pixels.shape, smaller=(rung(96),), stages=stages(NEVER, ALWAYS)
    )
    assert isinstance(answer, InferResult)
    assert (answer.resolution, answer.passage) == (96, None)


def test_without_time_for_the_next_stage_the_answer_in_hand_is_given(worker, photographs):
    data = photographs["china"].read_bytes()
    ask(worker, data, NEVER, ALWAYS)
    answer = worker.infer(
        rung(224), data, stages=stages(NEVER, ALWAYS, cost_ms=60_000), expires_s=time.monotonic() + 30.0
    )
    assert isinstance(answer, InferResult)
    assert answer.passage is not None
    assert (answer.passage.stage, answer.passage.late, answer.resolution) == (0, True, 96)


def test_images_that_go_on_share_batches_with_others(worker, photographs):
    data = photographs["china"].read_bytes()
    for identity in range(4):
        request = InferRequest(
            id=500 + identity, rung=rung(224), form="image", stages=stages(NEVER, ALWAYS), batch_delay_ms=300
        )
        worker.channel.send(request, data)
    answers = [worker.receive() for _ in range(4)]
    assert all(isinstance(answer, InferResult) for answer in answers)
    assert max(answer.batch for answer in answers) >= 2


def test_a_stage_that_cannot_run_costs_its_request_one_clear_error(worker, photographs, tmp_path):
    data = photographs["china"].read_bytes()
    absent = rung(128, patch_file=str(tmp_path / "absent.safetensors"))
    broken = (StageRef(rung=rung(96), rule=NEVER), StageRef(rung=absent, rule=ALWAYS))
    answer = worker.infer(rung(224), data, stages=broken)
    assert isinstance(answer, WorkerError)
    assert answer.code == "not_found"
    assert isinstance(worker.infer(rung(96), data), InferResult)


def test_an_audit_tells_what_every_rung_says_once_nothing_else_is_to_do(worker, photographs):
    data = photographs["china"].read_bytes()
    audit = tuple(rung(side) for side in SIDES)
    answer = worker.infer(rung(224), data, stages=stages(NEVER, ALWAYS), audit=audit)
    assert isinstance(answer, InferResult)
    told = worker.receive()
    assert isinstance(told, Audited)
    assert (told.id, told.given) == (answer.id, answer.indices[0])
    for side, said, found in zip(SIDES, told.answers, told.features, strict=True):
        index, expected = features(data, side)
        assert said == index
        assert found == pytest.approx(expected.tolist(), abs=5e-3)


def test_an_image_that_passes_no_cascade_is_not_audited(worker, photographs):
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    audit = tuple(rung(side) for side in SIDES)
    asked = {"shape": pixels.shape, "smaller": (rung(96),), "audit": audit}
    past = worker.infer(rung(224), pixels.tobytes(), "pixels", stages=stages(NEVER, ALWAYS), **asked)
    without = worker.infer(rung(224), pixels.tobytes(), "pixels", **asked)
    through = worker.infer(rung(224), photographs["china"].read_bytes(), smaller=(rung(96),), audit=audit)
    assert (past.resolution, without.resolution, through.resolution) == (96, 96, 224)
    told = worker.receive()
    assert isinstance(told, Audited)
    assert told.id == through.id


def test_an_audit_whose_patch_is_gone_is_dropped_and_said(worker, photographs, tmp_path):
    data = photographs["china"].read_bytes()
    kept = patch_rung(head_patch(load_base("lite0"), 3, 3), tmp_path)
    worker.infer(rung(96), data, audit=(kept.model_copy(update={"patch_file": str(tmp_path / "gone")}), rung(96)))
    told = worker.receive()
    assert isinstance(told, Note)
    assert "audit of task 't' was dropped" in told.message
    assert isinstance(worker.infer(rung(96), data), InferResult)


def test_stop_lets_images_on_their_way_reach_their_last_stage(photographs):
    worker = WorkerProcess()
    data = photographs["china"].read_bytes()
    for identity in range(3):
        request = InferRequest(id=identity, rung=rung(224), form="image", stages=stages(NEVER, NEVER, ALWAYS))
        worker.channel.send(request, data)
    worker.channel.send(Stop())
    answers = [worker.receive() for _ in range(3)]
    assert sorted(answer.id for answer in answers) == [0, 1, 2]
    assert {answer.passage.stage for answer in answers} == {2}
    assert worker.process.wait(timeout=20) == 0
    worker.end()
