"""What predictions take, against what their rungs were measured to cost: what counts, and what follows from it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from patchd.daemon.api.schemas import CostView, TraceReplay
from patchd.daemon.pace import WARM_RUNS, Pace
from patchd.daemon.workers.protocol import InferResult, Passage, RungRef, Timing
from patchd.policies.task import Preprocessing
from running import RunningDaemon, warm

RUNG = RungRef(task="t", base="lite0", resolution=224, labels=3, preprocessing=Preprocessing())
COST = CostView(
    base="lite0",
    resolution=224,
    prepare_ms=2.0,
    median_ms=12.0,
    p90_ms=13.0,
    samples=20,
    engine="torch",
    measured_s=0.0,
)
TRUSTED = """
[policy]
name = "trusted"
[inference]
feedback = true
"""


class Surroundings:
    """The worker that runs, and what patchd does beside it."""

    def __init__(self) -> None:
        self.worker, self.training = 100, False

    def pace(self) -> Pace:
        known = {("lite0", 224): COST}
        return Pace(lambda base, side: known.get((base, side)), lambda: self.worker, lambda: self.training)


def result(network_ms: float = 20.0) -> InferResult:
    timing = Timing(decode_ms=50.0, preprocess_ms=30.0, bind_ms=40.0, network_ms=network_ms)
    return InferResult(id=1, indices=(0,), probabilities=(1.0,), timing=timing, engine="torch", resolution=224)


def warmed(pace: Pace) -> Pace:
    for _ in range(WARM_RUNS):
        pace.heard(RUNG, result(500.0), alone=True)
    assert pace.take() is None
    return pace


def test_the_median_of_network_times_over_what_the_network_was_measured_to_take_is_told_once() -> None:
    pace = warmed(Surroundings().pace())
    for network_ms in (19.0, 20.0, 90.0):
        pace.heard(RUNG, result(network_ms), alone=True)
    assert pace.take() == 2.0
    assert pace.take() is None


@pytest.mark.parametrize(
    "changed",
    [
        {"batch": 2},
        {"engine": "openvino"},
        {"passage": Passage(stage=0, confidence=1.0)},
        {"resolution": 128},
    ],
    ids=["batch", "engine", "cascade", "unmeasured"],
)
def test_what_does_not_compare_with_the_measured_cost_is_left_out(changed: dict[str, object]) -> None:
    pace = warmed(Surroundings().pace())
    pace.heard(RUNG, result().model_copy(update=changed), alone=True)
    assert pace.take() is None


def test_what_patchd_slows_itself_is_left_out() -> None:
    around = Surroundings()
    pace = warmed(around.pace())
    pace.heard(RUNG, result(), alone=False)
    around.training = True
    pace.heard(RUNG, result(), alone=True)
    assert pace.take() is None
    around.training = False
    pace.heard(RUNG, result(), alone=True)
    assert pace.take() == 2.0


def test_the_first_runs_of_a_new_worker_are_left_out() -> None:
    around = Surroundings()
    pace = warmed(around.pace())
    around.worker = 101
    warmed(pace).heard(RUNG, result(), alone=True)
    assert pace.take() == 2.0


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that takes its rungs for ten times as cheap as they are: so each prediction is slow, on any machine."""
    folder = tmp_path_factory.mktemp("mistaken")
    state = warm(folder / "state")
    with closing(sqlite3.connect(state / "patchd.db")) as database:
        database.execute("update costs set median_ms = median_ms / 10, p90_ms = p90_ms / 10, prepare_ms = 0")
        database.commit()
    (folder / "trusted.toml").write_text(TRUSTED)
    (folder / "config.toml").write_text("measure_training_s = 0\nprofile_every_s = 1e9\n")
    with RunningDaemon(
        state, "--policy", str(folder / "trusted.toml"), "--config", str(folder / "config.toml")
    ) as running:
        yield running


def test_slow_predictions_choose_a_cheaper_rung_and_it_is_told_why(
    mistaken: RunningDaemon, photographs: dict[str, Path]
) -> None:
    image = photographs["flower"].read_bytes()
    assert mistaken.client.infer("imagenet", image).resolution == 224
    header = {"format": "patchd-trace", "version": 1, "name": "busy", "story": "Other work.", "period_s": 1.0}
    other = {"t": 0, "cpu": {"count": 2, "busy": 0.9, "busy_own": 0.1}}  # slow for a reason
    lines = "\n".join(map(json.dumps, (header, other, {"t": 600})))
    mistaken.client.start_trace(TraceReplay(jsonl=lines, name="busy"))
    small = mistaken.until(lambda: (a := mistaken.client.infer("imagenet", image)).resolution < 224 and a, 60)
    assert small.allocation == 1.0
    assert "on this slowed device" in small.why
    decision = mistaken.client.explain(request=small.request_id).decision
    assert decision.slowdown is not None
    assert decision.slowdown.factor > 2
    told = decision.slowdown.text
    assert "times as long as measured calm; costs are scaled by" in told
    assert any(told in sentence for sentence in _sentences(mistaken, small.request_id))
    assert any("times as long as measured calm" in event.message for event in mistaken.client.events().events)


def _sentences(daemon: RunningDaemon, request_id: str) -> list[str]:
    return [text[0].lower() + text[1:] for text in daemon.client.explain(request=request_id).sentences]


def test_a_policy_without_feedback_goes_by_the_measured_costs(
    mistaken: RunningDaemon, photographs: dict[str, Path], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.toml"
    plain.write_text('[policy]\nname = "plain"\n')
    mistaken.client.use_policy(path=plain)
    image = photographs["flower"].read_bytes()
    assert {mistaken.client.infer("imagenet", image).resolution for _ in range(WARM_RUNS + 3)} == {224}
    assert mistaken.client.explain().decision.slowdown is None
