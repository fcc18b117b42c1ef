"""Cascades in a running daemon: calibrated, followed, watched, and still there after whatever died."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from colours import LABELS, SIDES, data_set, encoded, patch, unsure
from patchd.daemon.api.schemas import CalibrateCreate, CascadeState, CascadeView, CostView, InferAnswer, TaskCreate
from patchd.daemon.app import Daemon
from patchd.daemon.cli.main import cli
from patchd.daemon.config import DaemonConfig
from patchd.models.patches import save_patch
from patchd.policies.cascade import Basis, CalibrationImage, missing
from patchd.policies.errors import BadInputError, ConflictError, NotFoundError
from running import RunningDaemon, alive, warm

EPSILON, DELTA = 0.3, 0.2
ENOUGH = missing(0, EPSILON, DELTA)
POLICY = """
[policy]
name = "{name}"
[inference]
{inference}
[training]
allocation = 0.0
[cascade]
epsilon = 0.3
delta = 0.2
{cascade}
"""


def policy_file(folder: Path, name: str, inference: str = "", cascade: str = "") -> Path:
    """A policy under which cascades of few inputs can be promised."""
    file = folder / f"{name}.toml"
    file.write_text(POLICY.format(name=name, inference=inference, cascade=cascade))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cascades")
    data_set(folder / "colours", test=10)
    return folder


@pytest.fixture(scope="module")
def daemon(folder: Path) -> Iterator[RunningDaemon]:
    """With the task `colours`: rungs of 128, 64 and 32 px, and its own data set."""
    plain = policy_file(folder, "plain", cascade="audit_share = 0")
    with RunningDaemon(warm(folder / "state"), "--policy", str(plain)) as running:
        running.client.add_task(TaskCreate(name="colours", data=str(folder / "colours"), resolutions=SIDES))
        for side in SIDES:
            running.client.import_patch(save_patch(patch(side), folder)[1].read_bytes())
        yield running


@pytest.fixture
def cascade(daemon: RunningDaemon, folder: Path) -> CascadeState:
    """The task's cascade, in force, under the plain policy."""
    daemon.client.use_policy(path=folder / "plain.toml")
    state = daemon.client.cascade("colours").state
    if state is None or not state.in_force:
        state = calibrated(daemon).state
    assert state is not None
    assert state.in_force, (state.reason, state.prices)
    return state


def ended(daemon: RunningDaemon) -> CascadeView:
    """The cascade once the calibration that runs has ended."""

    def view() -> CascadeView | None:
        now = daemon.client.cascade("colours")
        return None if now.calibration is None or now.calibration.state == "running" else now

    return daemon.until(view)


def calibrated(daemon: RunningDaemon, **asked: object) -> CascadeView:
    daemon.client.calibrate("colours", CalibrateCreate(**asked))
    view = ended(daemon)
    assert view.calibration.state == "done", view.calibration.error
    return view


def patchctl(daemon: RunningDaemon, *arguments: str | Path) -> Result:
    runner = CliRunner(env={"COLUMNS": "100"})
    return runner.invoke(cli, ["--socket", str(daemon.socket), *map(str, arguments)], prog_name="patchctl")


def events(daemon: RunningDaemon, kind: str) -> list[str]:
    return [event.message for event in daemon.client.events(limit=1000).events if event.kind == kind]


def calibrating_worker(daemon: RunningDaemon) -> int:
    """The process id of the calibrating worker, once it runs."""

    def found() -> int | None:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == daemon.pid and b"patchd.daemon.workers.calibrating" in words:
                return int(folder.name)
        return None

    return daemon.until(found, every_s=0.02)


# before there is one


def test_without_a_cascade_that_is_said_and_one_rung_answers(daemon: RunningDaemon) -> None:
    answer = daemon.client.infer("colours", encoded(1, 5))
    assert (answer.cascade, answer.resolution, answer.predictions[0].label) == (None, 128, "green")
    assert daemon.client.cascade("colours").state is None
    assert patchctl(daemon, "cascade", "show", "colours").stdout == (
        "Task colours has no cascade. Make one: patchctl cascade calibrate colours\n"
    )
    with pytest.raises(ConflictError, match="has not been calibrated yet"):
        daemon.client.calibrate("colours", CalibrateCreate(again=True))
    with pytest.raises(NotFoundError, match="has no cascade yet"):
        daemon.client.cascade_points("colours")
    with pytest.raises(NotFoundError, match="is not being calibrated"):
        daemon.client.cancel_calibration("colours")


def test_what_cannot_be_calibrated_on_is_refused_in_one_sentence(daemon: RunningDaemon, folder: Path) -> None:
    for task in ("imagenet", "nothing"):
        with pytest.raises((BadInputError, NotFoundError), match=f"'{task}'"):
            daemon.client.calibrate(task, CalibrateCreate())
    daemon.client.add_task(TaskCreate(name="bare", labels=("a", "b"), resolutions=(64,)))
    with pytest.raises(NotFoundError, match="'bare' has no patch yet"):
        daemon.client.calibrate("bare", CalibrateCreate())
    daemon.client.remove_task("bare")
    with pytest.raises(ConflictError, match=f"0 audited requests; {ENOUGH} are needed"):
        daemon.client.calibrate("colours", CalibrateCreate(from_requests=True))
    path = "/v1/tasks/colours/cascade/calibration"
    for body, says in (
        ({"again": True, "from_requests": True}, "^Give only one of images, from_requests and again"),
        ({"epsilon": 0}, "epsilon"),
        ({"images": [{"file": "relative.png"}]}, "relative.png is not an absolute path"),
    ):
        with pytest.raises(BadInputError, match=says):
            daemon.client.request("POST", path, body=json.dumps(body).encode())
    for options, says in (
        (("--again", "--from-requests"), "Give only one of IMAGES, --from-requests and --again"),
        (("--unlabelled",), "speak of IMAGES"),
        ((folder, "--unlabelled", "--label-map", folder), "exclude each other"),
        (("--reference", "lite0"), "BASE:PX"),
    ):
        told = patchctl(daemon, "cascade", "calibrate", "colours", *options)
        assert (told.exit_code, told.stderr.count("\n")) == (2, 1)
        assert says in told.stderr
    assert daemon.client.cascade("colours").calibration is None


# calibrating


def test_on_the_task_s_own_data_the_promise_is_on_labels(daemon: RunningDaemon) -> None:
    told = patchctl(daemon, "cascade", "calibrate", "colours")
    assert told.exit_code == 0, told.output
    view = daemon.client.cascade("colours")
    state = view.state
    assert (view.calibration.state, view.calibration.done, view.calibration.images) == ("done", 30, 30)
    assert state.in_force, state.reason
    assert (state.cascade.promise.basis, state.cascade.promise.holds) == (Basis.LABELS, True)
    assert (state.cascade.promise.epsilon, state.cascade.promise.delta, state.samples) == (EPSILON, DELTA, 30)
    assert state.cascade.reference.resolution == 128
    assert 1 < len(state.cascade.stages) <= 3
    assert state.cascade.cost_ms < state.cascade.reference_cost_ms
    assert "in force" in told.stdout
    assert "30.0% of accuracy lost against the reference, with probability 80%" in told.stdout
    (said,) = events(daemon, "cascade.calibrated")
    assert "the test part of" in said


def test_images_without_labels_promise_agreement_and_with_labels_accuracy(daemon: RunningDaemon, folder: Path) -> None:
    images = folder / "colours" / "test"
    for options, basis in ((("--unlabelled",), Basis.AGREEMENT), ((), Basis.LABELS)):
        told = patchctl(daemon, "cascade", "calibrate", "colours", images, *options)
        assert told.exit_code == 0, told.output
        state = daemon.client.cascade("colours").state
        assert (state.calibrated_on, state.cascade.promise.basis) == ("30 images", basis)
        answer = daemon.client.infer("colours", encoded(0, 7))
        assert answer.cascade.promise == state.cascade.promise


def test_again_plans_on_the_same_inputs_for_another_promise_or_reference(
    daemon: RunningDaemon, cascade: CascadeState
) -> None:
    state = calibrated(daemon, again=True, epsilon=0.4, delta=0.25, reference=("lite0", 64)).state
    assert (state.samples, state.cascade.promise.epsilon, state.cascade.promise.delta) == (30, 0.4, 0.25)
    assert state.cascade.reference.resolution == 64
    assert {rung.resolution for rung in state.cascade.rungs} <= {32, 64}
    few = calibrated(daemon, again=True, epsilon=0.01, delta=0.05, reference=("lite0", 128)).state
    assert (few.in_force, len(few.cascade.stages), few.cascade.promise.missing) == (False, 1, 399 - 30)
    assert "369 more inputs are needed" in few.reason
    assert daemon.client.infer("colours", encoded(0, 7)).cascade is None
    told = patchctl(daemon, "cascade", "calibrate", "colours", "--again", "--reference", "lite2:260")
    assert (told.exit_code, "no rung of lite2 at 260 px" in told.output) == (1, True)


def test_a_broken_image_is_named_and_the_old_cascade_stays(
    daemon: RunningDaemon, cascade: CascadeState, tmp_path: Path
) -> None:
    file = tmp_path / "broken.png"
    file.write_bytes(encoded(0, 1)[:400])
    daemon.client.calibrate("colours", CalibrateCreate(images=(CalibrationImage(file=str(file)),)))
    view = ended(daemon)
    assert view.calibration.state == "failed"
    assert f"The image {file} cannot be used" in str(view.calibration.error)
    assert view.state == cascade
    told = patchctl(daemon, "cascade", "show", "colours")
    assert told.stdout.startswith("Calibration failed: The image ")


# answers


def test_answers_say_which_stage_answered_how_sure_it_was_and_what_it_cost(
    daemon: RunningDaemon, cascade: CascadeState
) -> None:
    before = [count.answers for count in daemon.client.cascade("colours").counts]
    answers = [daemon.client.infer("colours", encoded(seed % 3, seed)) for seed in range(6)]
    answers += [daemon.client.infer("colours", data) for data in unsure(4)]
    stages = cascade.cascade.stages
    assert {answer.cascade.stage for answer in answers} >= {0, len(stages) - 1}
    for answer in answers:
        passed = answer.cascade
        stage = stages[passed.stage]
        assert (answer.base, answer.resolution, answer.patch_id) == (
            stage.rung.base, stage.rung.resolution, stage.rung.patch_id,
        )  # fmt: skip
        known_ms = math.fsum(each.cost_ms for each in stages[: passed.stage + 1])
        assert passed.cost_ms == pytest.approx(known_ms)
        if passed.stage < len(stages) - 1:
            assert passed.confidence >= stage.rule.threshold
        else:
            assert passed.confidence == pytest.approx(answer.predictions[0].probability, abs=1e-9)
        assert (passed.stages, passed.late, passed.shortened) == (len(stages), False, False)
        assert passed.promise == cascade.cascade.promise
    counts = daemon.client.cascade("colours").counts
    assert sum(count.answers for count in counts) == sum(before) + 10
    assert all(count.spent_ms > 0 for count in counts if count.answers)


def test_explain_and_infer_tell_how_far_a_request_went(
    daemon: RunningDaemon, cascade: CascadeState, tmp_path: Path
) -> None:
    (tmp_path / "green.png").write_bytes(encoded(1, 5))
    told = patchctl(daemon, "infer", "--task", "colours", tmp_path / "green.png").stdout
    assert f"stage 1 of {len(cascade.cascade.stages)}, confidence " in told
    request = told.split()[-1]
    explained = daemon.client.explain(request=request)
    assert (explained.request.reason, explained.request.cascade.stage) == ("cascade", 0)
    stages = f"Stage 1 of {len(cascade.cascade.stages)} answered, with a score of "
    assert any(sentence.startswith(stages) for sentence in explained.sections[0].sentences)
    assert any(section.key == "cascade:colours" for section in daemon.client.explain().sections)
    assert "Stage 1 of" in patchctl(daemon, "explain", "--request", request).stdout


def test_whoever_asks_for_one_rung_gets_it(daemon: RunningDaemon, cascade: CascadeState, tmp_path: Path) -> None:
    data = encoded(2, 11)
    (tmp_path / "red.png").write_bytes(data)
    pixels = {"shape": [120, 120, 3], "datatype": "UINT8", "data": [90] * (120 * 120 * 3)}

    def asked(**more: object) -> InferAnswer:
        body = json.dumps({"tensor": pixels, **more}).encode()
        return InferAnswer.model_validate_json(daemon.client.request("POST", "/v1/tasks/colours/infer", body=body))

    assert asked().cascade is not None
    for answer in (asked(cascade=False), daemon.client.infer("colours", data, cascade=False)):
        assert (answer.cascade, answer.resolution) == (None, 128)
    for side in SIDES:
        answer = daemon.client.infer("colours", data, resolution=side)
        assert (answer.cascade, answer.resolution) == (None, side)
    assert daemon.client.infer("colours", data, base="lite0").cascade is None
    inputs = bytes(4 * 3 * 64 * 64)
    answer = daemon.client.infer_tensor("colours", inputs, (3, 64, 64), "FP32")
    assert (answer.cascade, answer.resolution) == (None, 64)
    command = ("infer", "--task", "colours", tmp_path / "red.png", "--json")
    assert json.loads(patchctl(daemon, *command).stdout)["cascade"]["stages"] == len(cascade.cascade.stages)
    assert json.loads(patchctl(daemon, *command, "--no-cascade").stdout)["cascade"] is None


def test_the_open_inference_protocol_tells_and_refuses_cascades_too(
    daemon: RunningDaemon, cascade: CascadeState
) -> None:
    tensor = {"name": "pixels", "shape": [120, 120, 3], "datatype": "UINT8", "data": [90] * (120 * 120 * 3)}

    def told(**parameters: object) -> dict[str, Any]:
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}], "parameters": parameters}).encode()
        return json.loads(daemon.client.request("POST", "/v2/models/colours/infer", body=body))["parameters"]

    passed = told()
    stage = cascade.cascade.stages[passed["patchd_stage"]]
    assert passed["patchd_resolution"] == stage.rung.resolution
    assert (passed["patchd_confidence"] > 0, passed["patchd_cost_ms"] > 0) == (True, True)
    for key in ("cascade", "patchd_cascade"):
        alone = told(**{key: False})
        assert (alone["patchd_resolution"], "patchd_stage" in alone) == (128, False)
    with pytest.raises(BadInputError, match="The parameter 'cascade' is 'no'; it must be true or false"):
        told(cascade="no")


@pytest.mark.parametrize(
    ("name", "inference", "more", "stages"),
    [
        ("low", "allocation = 0.0", "", "one"),
        ("capped", "max_resolution = 64", "", "cut"),
        ("whole", "allocation = 0.0", "shorten = false", "all"),
        ("off", "", "enabled = false", "none"),
    ],
)
def test_the_policy_shortens_caps_and_switches_off(
    daemon: RunningDaemon, cascade: CascadeState, folder: Path, name: str, inference: str, more: str, stages: str
) -> None:
    daemon.client.use_policy(path=policy_file(folder, name, inference, f"audit_share = 0\n{more}"))
    answers = [daemon.client.infer("colours", data) for data in (encoded(1, 5), *unsure(4))]
    if stages == "none":
        assert {answer.cascade for answer in answers} == {None}
        assert "switched off" in patchctl(daemon, "cascade", "show", "colours").stdout
        return
    for passed in (answer.cascade for answer in answers):
        assert passed.stages == len(cascade.cascade.stages)
        assert passed.shortened == (stages != "all")
        assert (passed.promise is None) == (stages != "all")
        assert ("carries no promise" in passed.text) == (stages != "all")
    if stages == "one":
        assert len({answer.resolution for answer in answers}) == 1
    if stages == "cut":
        assert max(answer.resolution for answer in answers) <= 64


# seen


def test_show_prints_stages_shares_costs_and_the_promise(daemon: RunningDaemon, cascade: CascadeState) -> None:
    daemon.client.infer("colours", encoded(1, 5))
    told = patchctl(daemon, "cascade", "show", "colours")
    assert (told.exit_code, "\x1b" in told.stdout) == (0, False)
    text = " ".join(told.stdout.split())
    for part in ("lite0 at 128 px", "share", "measured", "adds", "in force: ", "expected for an image", "promise",
                 "kept apart it lost", "a prediction, mean of", "audits"):  # fmt: skip
        assert part in text
    view = CascadeView.model_validate_json(patchctl(daemon, "cascade", "show", "colours", "--json").stdout)
    assert (view.state, view.task) == (cascade, "colours")


def test_plot_writes_pictures_and_refuses_what_it_cannot_write(
    daemon: RunningDaemon, cascade: CascadeState, tmp_path: Path
) -> None:
    png, svg = tmp_path / "c.png", tmp_path / "c.svg"
    told = patchctl(daemon, "cascade", "plot", "colours", "-o", png, "-o", svg)
    assert told.exit_code == 0, told.output
    assert png.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"<svg" in svg.read_bytes()[:1000]
    points = daemon.client.cascade_points("colours")
    assert sum(point.frontier for point in points.points) >= 1
    assert any(point.chosen for point in points.points)
    svg.write_text("mine")
    for output, says in (
        (svg, "is there already. Overwrite it with --force."),
        (tmp_path / "c.pdf", "pictures are written as .png or .svg."),
        (tmp_path / "none" / "c.png", "cannot be written: No such file or directory."),
    ):
        told = patchctl(daemon, "cascade", "plot", "colours", "-o", output)
        assert (told.exit_code, told.stderr.count("\n")) == (5, 1)
        assert says in told.stderr
    assert svg.read_text() == "mine"
    assert patchctl(daemon, "cascade", "plot", "colours", "-o", svg, "--force").exit_code == 0
    assert patchctl(daemon, "cascade", "plot", "imagenet", "-o", png, "--force").exit_code == 4


# one at a time, and ended


def test_a_second_calibration_is_told_to_wait_and_one_that_is_cancelled_leaves_the_old_cascade(
    daemon: RunningDaemon, cascade: CascadeState
) -> None:
    daemon.client.calibrate("colours", CalibrateCreate())
    with pytest.raises(ConflictError, match="is being calibrated") as refused:
        daemon.client.calibrate("colours", CalibrateCreate(again=True))
    assert refused.value.retry_after_s == 10
    pid = calibrating_worker(daemon)
    assert daemon.client.infer("colours", encoded(1, 5)).cascade is not None
    assert patchctl(daemon, "cascade", "cancel", "colours").stdout == "The calibration of task colours is ended.\n"
    assert not alive(pid)
    view = daemon.client.cascade("colours")
    assert (view.state, view.calibration.state, view.calibration.error) == (cascade, "cancelled", None)
    assert events(daemon, "cascade.cancelled") == ["Calibrating task colours was cancelled."]
    told = patchctl(daemon, "cascade", "cancel", "colours")
    assert (told.exit_code, "is not being calibrated" in told.stderr) == (4, True)


def test_a_killed_calibrating_worker_is_one_clear_error_and_the_next_one_works(
    daemon: RunningDaemon, cascade: CascadeState
) -> None:
    daemon.client.calibrate("colours", CalibrateCreate(again=True))
    os.kill(calibrating_worker(daemon), signal.SIGKILL)
    view = ended(daemon)
    assert (view.calibration.state, view.state) == ("failed", cascade)
    told = patchctl(daemon, "cascade", "show", "colours").stdout
    first = "Calibration failed: The calibrating worker died (exit status -9); the journal holds its last words."
    assert told.splitlines()[0] == first
    assert len(events(daemon, "cascade.failed")) >= 1
    assert calibrated(daemon, again=True).state.in_force


# watched


def audited(daemon: RunningDaemon, images: list[bytes], rows: int) -> CascadeView:
    """The cascade once so many audited inputs are known."""
    for data in images:
        daemon.client.infer("colours", data)

    def view() -> CascadeView | None:
        now = daemon.client.cascade("colours")
        return now if now.audit_rows >= rows else None

    return daemon.until(view)


def test_audited_requests_are_enough_to_calibrate_on(
    daemon: RunningDaemon, cascade: CascadeState, folder: Path
) -> None:
    daemon.client.use_policy(path=policy_file(folder, "watched", cascade="audit_share = 1\nfalse_alarm_every = 100"))
    given = [encoded(seed % 3, seed) for seed in range(500, 520)]
    view = audited(daemon, given, len(given))
    assert (view.state.drift.audits, view.state.in_force) == (len(given), True)
    state = calibrated(daemon, from_requests=True).state
    assert (state.calibrated_on, state.samples) == ("audited requests", len(given))
    assert (state.cascade.promise.basis, state.in_force) == (Basis.AGREEMENT, True)
    assert state.drift.audits == 0


def test_drift_puts_the_cascade_out_of_force_and_what_comes_then_is_gathered(
    daemon: RunningDaemon, cascade: CascadeState, folder: Path
) -> None:
    daemon.client.use_policy(path=folder / "watched.toml")
    images = iter(encoded(seed % 3, seed, striped=True) for seed in range(900, 1000))

    def drifted() -> CascadeState | None:
        daemon.client.infer("colours", next(images))
        state = daemon.client.cascade("colours").state
        return None if state.in_force else state

    state = daemon.until(drifted, every_s=0.4)
    assert state.drifted_since_s is not None
    assert state.reason.startswith("it has drifted: ")
    (said,) = events(daemon, "cascade.drifted")
    assert said == f"The cascade of task colours is out of force: {state.reason}."
    assert daemon.client.infer("colours", next(images)).cascade is None
    view = audited(daemon, [next(images) for _ in range(ENOUGH)], ENOUGH)
    assert view.state.drifted_since_s == state.drifted_since_s


def test_a_killed_daemon_finds_cascade_drift_and_audits_again(daemon: RunningDaemon) -> None:
    before = daemon.client.cascade("colours")
    daemon.client.calibrate("colours", CalibrateCreate())
    pid = calibrating_worker(daemon)
    daemon.kill()
    daemon.start()
    daemon.until(lambda: not alive(pid))
    view = daemon.client.cascade("colours")
    assert (view.state, view.audit_rows, view.calibration) == (before.state, before.audit_rows, None)
    assert view.state.drifted_since_s is not None


def costing(inside: Daemon, *, small_ms: float) -> tuple[CostView, ...]:
    """Costs that no other work on the machine has a part in: 10 ms at 128 px, `small_ms` below."""
    return tuple(
        cost.model_copy(update={"median_ms": 10.0 if cost.resolution == 128 else small_ms, "prepare_ms": 0.5})
        for cost in inside.tasks.costs
        if cost.base == "lite0"
    )


def test_by_itself_it_calibrates_after_a_drift_and_plans_anew_when_costs_change(
    daemon: RunningDaemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("patchd.daemon.calibration_service.PAUSE_S", 0.0)
    daemon.stop()

    async def ticked(inside: Daemon) -> CascadeState:
        await inside.calibration.tick()
        view = inside.calibration.view("colours")
        assert view is not None
        while view.state == "running":
            await asyncio.sleep(0.05)
            view = inside.calibration.view("colours")
        assert (view.state, view.images) == ("done", 0), view.error
        state = inside.cascades.state("colours")
        assert state is not None
        return state

    async def by_itself() -> None:
        inside = Daemon(DaemonConfig(policy=str(folder / "plain.toml")), folder / "state", folder / "s")
        try:
            drifted = inside.cascades.state("colours")
            state = await ticked(inside)
            assert state.calibrated_on == "audited requests since the drift"
            assert (state.samples >= ENOUGH, state.in_force) == (True, False)  # the rungs agree on nothing any more
            # it is tried again once half as many more have come
            assert (state.drifted_since_s, state.retry_from) == (
                drifted.drifted_since_s,
                math.ceil(1.5 * state.samples),
            )
            await inside.calibration.tick()
            assert inside.cascades.state("colours") == state
            inside.tasks.put_costs(costing(inside, small_ms=2.0))
            inside.calibration.start("colours", CalibrateCreate(epsilon=0.35))
            while inside.calibration.view("colours").state == "running":
                await asyncio.sleep(0.05)
            before = inside.cascades.state("colours")
            assert before.in_force, before.reason
            await inside.calibration.tick()
            assert inside.calibration.view("colours").state == "done"  # nothing has changed
            inside.tasks.put_costs(costing(inside, small_ms=2.6))
            state = await ticked(inside)
            assert state.in_force, (state.reason, state.prices)
            assert state.cascade.made_s > before.cascade.made_s
            assert (state.samples, state.calibrated_on) == (before.samples, before.calibrated_on)
            assert state.cascade.promise.epsilon == 0.35
            assert state.prices == inside.tasks.prices("colours")
            assert state.cascade.cost_ms > before.cascade.cost_ms
        finally:
            await inside.calibration.stop()
            await inside.inference.drain(10)
            inside.store.close()
            inside._lock.release()

    asyncio.run(by_itself())
    daemon.start()


# other patches, and the end


def test_a_stage_with_another_patch_puts_the_cascade_out_of_force(
    daemon: RunningDaemon, cascade: CascadeState, folder: Path
) -> None:
    first = cascade.cascade.stages[0].rung
    daemon.client.remove_patch(str(first.patch_id))
    daemon.client.import_patch(save_patch(patch(first.resolution, seed=1), folder)[1].read_bytes())
    assert not daemon.client.cascade("colours").state.in_force
    answer = daemon.client.infer("colours", encoded(1, 5))
    assert (answer.cascade, answer.resolution) == (None, 128)
    (said,) = events(daemon, "cascade.outdated")
    assert f"the rung {first} is no longer the one it was calibrated with" in said
    again = calibrated(daemon, again=True).state
    assert first not in again.cascade.rungs  # what the old patch said is of no use
    new = calibrated(daemon).state
    assert new.in_force
    assert daemon.client.infer("colours", encoded(1, 5)).cascade is not None


def test_a_cancelled_calibration_that_still_measures_costs_is_ended_at_once(
    daemon: RunningDaemon, cascade: CascadeState
) -> None:
    daemon.stop()
    daemon.start()  # the inference worker has yet to start
    daemon.client.calibrate("colours", CalibrateCreate())
    began = time.monotonic()
    daemon.client.cancel_calibration("colours")
    assert time.monotonic() - began < 2
    daemon.client.infer("colours", encoded(1, 5))
    view = daemon.client.cascade("colours")
    assert (view.calibration.state, view.state) == ("cancelled", cascade)


def test_a_removed_task_leaves_nothing_of_its_cascade(daemon: RunningDaemon, folder: Path) -> None:
    table = folder / "state" / "cascades" / "colours.safetensors"
    assert table.is_file()
    daemon.client.calibrate("colours", CalibrateCreate())
    pid = calibrating_worker(daemon)
    daemon.client.remove_task("colours")
    assert not alive(pid)
    assert not table.exists()
    with pytest.raises(NotFoundError):
        daemon.client.cascade("colours")
    daemon.client.add_task(TaskCreate(name="colours", labels=LABELS, resolutions=SIDES))
    view = daemon.client.cascade("colours")
    assert (view.state, view.audit_rows, view.calibration, view.counts) == (None, 0, None, ())
