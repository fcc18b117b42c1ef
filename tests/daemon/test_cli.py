"""`patchctl` against a real HTTP server on a Unix socket, and its usage errors."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import bodies
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.api import schemas as s
from patchd.daemon.cli import docs
from patchd.daemon.cli.accuracy import wilson
from patchd.daemon.cli.common import EXIT_CODES
from patchd.daemon.cli.main import cli
from patchd.daemon.cli.render import wrap
from patchd.policies.decision import Rung
from patchd.policies.presets_loader import preset_text, trace_names, trace_text
from patchd.policies.replay import ReplayResult
from patchd.policies.task import BaseRungs, JobState
from unix_server import FakeDaemon, Handler, Seen, fake_daemon


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with fake_daemon() as running:
        yield running


def patchctl(*arguments: str | Path, socket: Path | None = None, **environ: str) -> Result:
    chosen = [] if socket is None else ["--socket", str(socket)]
    runner = CliRunner(env={"COLUMNS": "80", "PATCHD_SOCKET": "/nonexistent/patchd.sock", **environ})
    return runner.invoke(cli, [*chosen, *map(str, arguments)], prog_name="patchctl")


PRESET = s.PolicyInfo(name="balanced", source="preset:balanced", description="d", in_force=True)
READING = [
    (["status"], "/v1/status", bodies.STATUS),
    (["explain"], "/v1/explain", bodies.EXPLAIN),
    (
        ["policy", "list"],
        "/v1/policies",
        s.PolicyList(policies=(PRESET,)),
    ),
    (
        ["policy", "show", "balanced"],
        "/v1/policies/balanced",
        s.PolicyText(name="balanced", source="preset:balanced", in_force=True, toml="[policy]\n"),
    ),
    (["task", "list"], "/v1/tasks", s.TaskList(tasks=(bodies.TASK,))),
    (["task", "show", "digits"], "/v1/tasks/digits", bodies.TASK),
    (["patch", "list"], "/v1/patches", s.PatchList(patches=(bodies.PATCH_VIEW,))),
    (["patch", "show", "4be1"], "/v1/patches/4be1", bodies.PATCH_VIEW),
    (["train", "list"], "/v1/jobs", s.JobList(jobs=(bodies.job(),))),
    (["train", "show", "job-1"], "/v1/jobs/job-1", bodies.job(JobState.DONE)),
    (["train", "usage"], "/v1/training/usage", bodies.USAGE),
    (["base", "list"], "/v1/bases", bodies.BASES),
    (["base", "show", "lite0@3fa9c01d"], "/v1/bases/lite0%403fa9c01d", bodies.BASES.bases[1]),
    (["train", "show", "job-1"], "/v1/jobs/job-1", bodies.TOGETHER),
    (["cascade", "show", "digits"], "/v1/tasks/digits/cascade", bodies.CASCADE),
    (["examples", "list", "pets"], "/v1/tasks/pets/examples", bodies.EXAMPLES),
    (["events"], "/v1/events", s.EventList(events=bodies.EVENTS)),
    (
        ["profile"],
        "/v1/profile",
        s.Profile(
            costs=(
                s.CostView(
                    base="lite0",
                    resolution=96,
                    prepare_ms=0.5,
                    median_ms=2.5,
                    p90_ms=2.75,
                    samples=7,
                    engine="torch",
                    measured_s=1.0,
                ),
            ),
            requests=(
                s.RequestLatency(
                    task="digits", base="lite0", resolution=96, samples=3, p50_ms=9.5, p99_ms=12, network_p50_ms=2.5
                ),
            ),
        ),
    ),
    (["profile", "--training"], "/v1/profile/training", s.TrainingProfile(measured=(bodies.TRAINING_COSTS,))),
]
IDS = [" ".join(command) for command, _, _ in READING]


@pytest.mark.parametrize(("command", "path", "body"), READING, ids=IDS)
def test_every_reading_command_prints_the_body_unchanged_with_json(command, path, body, daemon) -> None:
    sent = body.model_dump_json(indent=1).encode()
    daemon.on("GET", path, sent)
    result = patchctl(*command, "--json", socket=daemon.path)
    assert result.exit_code == 0, result.output
    assert result.stdout_bytes == sent + b"\n"


@pytest.mark.parametrize(("command", "path", "body"), READING, ids=IDS)
def test_every_reading_command_prints_plain_text_within_80_columns(command, path, body, daemon) -> None:
    daemon.on("GET", path, body)
    daemon.on("GET", f"{path}/curve", bodies.CURVE)
    result = patchctl(*command, socket=daemon.path)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "\x1b" not in result.stdout
    events = command == ["events"]  # log lines are for grep: they are never wrapped
    assert events or max(len(line) for line in result.stdout.splitlines()) <= 80


def test_a_job_is_shown_with_its_curves_and_what_it_used(daemon) -> None:
    daemon.on("GET", "/v1/jobs/job-1", bodies.job(JobState.DONE))
    daemon.on("GET", "/v1/jobs/job-1/curve", bodies.CURVE)
    text = patchctl("train", "show", "job-1", socket=daemon.path).stdout
    assert "loss, now 0.500" in text
    assert "validation accuracy, now 0.900" in text
    daemon.on("GET", "/v1/training/usage", bodies.USAGE)
    told = patchctl("train", "usage", "--days", "3", socket=daemon.path).stdout
    assert daemon.seen[-1].query == {"days": ["3"]}
    for words in ("12.3 kJ", "1 min 30 s", "Today 1 min 30 s of the policy's 2 min 0 s of processor time; 30 s left."):
        assert words in told


def test_a_job_of_several_tasks_is_shown_task_by_task(daemon) -> None:
    daemon.on("GET", "/v1/jobs/job-1", bodies.TOGETHER)
    daemon.on("GET", "/v1/jobs/job-1/curve", bodies.CURVE)
    text = patchctl("train", "show", "job-1", socket=daemon.path).stdout
    words = ("digits, groceries", "lite0@3fa9c01d: kept", "2.5", "0.125", "task groceries")
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("arguments", "says"), [((), "Give --task, or several with --tasks"), (("--tasks", "a"), "two tasks at least")]
)
def test_a_job_names_one_task_or_several(arguments, says, daemon) -> None:
    result = patchctl("train", "submit", *arguments, socket=daemon.path)
    assert result.exit_code == 2
    assert says in result.stderr


def test_several_tasks_are_sent_as_one_job(daemon) -> None:
    daemon.on("POST", "/v1/jobs", bodies.TOGETHER)
    assert patchctl("train", "submit", "--tasks", "digits, groceries", socket=daemon.path).exit_code == 0
    sent = json.loads(daemon.seen[-1].body)
    assert (sent["task"], sent["together"]) == ("digits", ["groceries"])


def test_status_tells_allocation_reason_resolution_and_workers(daemon) -> None:
    daemon.on("GET", "/v1/status", bodies.STATUS)
    text = " ".join(patchctl("status", socket=daemon.path).stdout.split())
    shown = ("0.40 (rules ask for 0.30)", "battery.charge is 0.14", "96 px", "inference ready", "battery 14 %")
    for part in shown:
        assert part in text


def test_what_the_machine_lacks_is_not_shown(daemon) -> None:
    bare = bodies.SNAPSHOT.model_copy(update={"memory": None, "power": type(bodies.SNAPSHOT.power)()})
    daemon.on("GET", "/v1/status", bodies.STATUS.model_copy(update={"snapshot": bare, "decision": None}))
    text = patchctl("status", socket=daemon.path).stdout
    assert "battery" not in text
    assert "mains" not in text
    assert "none yet" in text


def test_explain_sends_the_moment_that_was_asked_for(daemon) -> None:
    daemon.on("GET", "/v1/explain", bodies.EXPLAIN)
    result = patchctl("explain", "--at", "-5m", socket=daemon.path)
    assert result.exit_code == 0
    assert float(daemon.seen[0].query["at"][0]) == pytest.approx(time.time() - 300, abs=5)
    assert "The battery is low." in result.stdout


@pytest.mark.parametrize(
    ("code", "status", "exits"),
    [
        ("bad_input", 400, 5),
        ("bad_policy", 400, 5),
        ("patch_mismatch", 400, 5),
        ("conflict", 409, 5),
        ("too_large", 413, 5),
        ("not_found", 404, 4),
        ("forbidden", 403, 7),
        ("busy", 503, 6),
        ("worker_crashed", 502, 6),
        ("unavailable", 503, 3),
        ("internal", 500, 1),
        ("bad_state", 500, 1),
    ],
)
def test_an_error_is_one_line_on_stderr_with_its_exit_code(code, status, exits, daemon) -> None:
    body = {"error": "That failed.", "code": code, "hint": "Do this.", "retry_after_s": 2.0 if code == "busy" else None}
    daemon.on("GET", "/v1/status", json.dumps(body).encode(), status=status)
    result = patchctl("status", socket=daemon.path)
    assert result.exit_code == exits
    assert exits in EXIT_CODES
    retry = " Try again in 2 s." if code == "busy" else ""
    assert result.stderr == f"patchctl: That failed. Do this.{retry}\n"
    assert result.stdout == ""


def test_no_daemon_is_exit_code_3_and_says_how_to_start_it() -> None:
    result = patchctl("status")
    assert result.exit_code == 3
    assert result.stderr.startswith("patchctl: patchd does not answer at /nonexistent/patchd.sock.")
    assert "`patchd`" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sttus"], "No such command 'sttus'"),
        (["status", "--jsn"], "No such option"),
        (["task", "add", "digits"], "needs --data"),
        (["task", "add", "t", "--data", "sklearn:digits", "--resolutions", "98"], "98 px is no multiple of 4"),
        (["task", "add", "t", "--data", "sklearn:digits", "--also", "lite2"], "'lite2' is not of the form BASE:PX,PX"),
        (["task", "add", "t", "--data", "sklearn:digits", "--also", "lite2:99"], "99 px is no multiple of 4"),
        (["task", "add", "t", "--data", "sklearn:digits", "--resolutions", "a,b"], "no comma-separated list"),
        (["task", "add", "t", "--data", "sklearn:digits", "--crop", "0"], "0"),
        (["train", "submit"], "--task"),
        (["train", "submit", "--task", "t", "--kinds", "magic"], "'magic' is not one of scale_bias"),
        (["train", "submit", "--task", "t", "--option", "gate"], "'gate' is not of the form KIND.KEY=VALUE"),
        (["train", "submit", "--task", "t", "--option", "magic.rank=2"], "'magic' is not one of scale_bias"),
        (["train", "submit", "--task", "t", "--epochs", "0"], "0"),
        (["infer", "--task", "t"], "FILE"),
        (["infer", "x.jpg"], "--task"),
        (["infer", "--task", "t", "--resolution", "97", "x.jpg"], "97 px"),
        (["infer", "--task", "t", "--expect", "a", "--top1-from-dirs", "x.jpg"], "exclude each other"),
        (["cascade", "calibrate", "t", "--again", "--from-requests"], "one of IMAGES, --from-requests and --again"),
        (["cascade", "calibrate", "t", "--unlabelled"], "--unlabelled and --label-map speak of IMAGES; name some"),
        (["cascade", "calibrate", "t", "--reference", "lite0"], "'lite0' is not of the form BASE:PX"),
        (["cascade", "calibrate", "t", "--reference", "lite0:98"], "98 px is no multiple of 4"),
        (["cascade", "calibrate", "t", "--epsilon", "0.5"], "0.5"),
        (["cascade", "plot", "t"], "--output"),
        (["explain", "--at", "soon"], "is no time"),
        (["explain", "--decision", "a", "--request", "b"], "exclude each other"),
        (["profile", "--base", "lite0"], "add --run"),
        (["policy", "use"], "NAME|FILE"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2_and_one_line(arguments, says) -> None:
    result = patchctl(*arguments)
    assert result.exit_code == 2, result.output
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert re.match(r"patchctl: .* See 'patchctl[a-z ]* --help'\.\n", result.stderr)


def test_a_task_name_that_cannot_be_is_one_clear_error() -> None:
    result = patchctl("task", "add", "Two Words", "--data", "sklearn:digits")
    assert result.exit_code == 5
    assert "'Two Words' is no task name" in result.stderr


def test_adding_a_task_sends_what_was_asked_and_an_absolute_directory(daemon, tmp_path, monkeypatch) -> None:
    (tmp_path / "shop").mkdir()
    monkeypatch.chdir(tmp_path)
    daemon.on("POST", "/v1/tasks", bodies.TASK)
    options = ["--data", "shop", "--resolutions", "128,96", "--crop", "1.0", "--augment", "flip,colour"]
    result = patchctl("task", "add", "digits", *options, socket=daemon.path)
    assert result.exit_code == 0, result.output
    sent = s.TaskCreate.model_validate_json(daemon.seen[0].body)
    assert sent.data == str(tmp_path / "shop")
    assert sent.resolutions == (128, 96)
    assert sent.preprocessing.crop_fraction == 1.0
    assert sent.augmentation == ("flip", "colour")
    assert "3 labels" in result.stdout


def test_other_bases_are_sent_and_their_rungs_shown(daemon) -> None:
    others = (BaseRungs(base="lite2", resolutions=(260, 224)), BaseRungs(base="lite1", resolutions=(240,)))
    finer = Rung(base="lite2", resolution=260, patch_id=bodies.PATCH, cost_ms=31.5, accuracy=0.97)
    spec = bodies.TASK.spec.model_copy(update={"others": others})
    view = bodies.TASK.model_copy(update={"spec": spec, "pool": (*bodies.RUNGS, finer)})
    daemon.on("POST", "/v1/tasks", view)
    also = ("--also", "lite2:260,224", "--also", "lite1:240")
    result = patchctl("task", "add", "digits", "--data", "sklearn:digits", *also, socket=daemon.path)
    assert s.TaskCreate.model_validate_json(daemon.seen[0].body).others == others
    assert "rungs at 128, 96 px; lite2 at 260, 224 px; lite1 at 240 px." in result.stdout
    daemon.on("GET", "/v1/tasks/digits", view)
    lines = [line.split() for line in patchctl("task", "show", "digits", socket=daemon.path).stdout.splitlines()]
    assert ["lite2", "260", "px", "4be100000000", "31.5", "ms", "97.0", "%", "-"] in lines
    assert ["lite1", "240", "px", "none", "yet", "-", "-", "-"] in lines
    twice = patchctl("task", "add", "t", "--data", "sklearn:digits", "--also", "lite0:64", socket=daemon.path)
    assert (twice.exit_code, twice.stderr) == (
        5,
        "patchctl: The other bases of a task are each named once: 'lite0' is the task's own.\n",
    )


def test_a_data_set_that_is_not_there_is_refused_before_the_daemon_is_asked() -> None:
    result = patchctl("task", "add", "t", "--data", "/nonexistent/shop")
    assert result.exit_code == 5
    assert "/nonexistent/shop is no directory" in result.stderr


def test_a_patch_is_exported_whole_and_imported_as_it_is(daemon, tmp_path) -> None:
    content = os.urandom(100_000)
    daemon.on("GET", "/v1/patches/4be1/file", content)
    daemon.on("POST", "/v1/patches", bodies.PATCH_VIEW)
    file = tmp_path / "p.safetensors"
    assert patchctl("patch", "export", "4be1", "-o", file, socket=daemon.path).exit_code == 0
    assert file.read_bytes() == content
    assert patchctl("patch", "import", file, socket=daemon.path).exit_code == 0
    assert daemon.seen[-1].body == content
    assert list(tmp_path.iterdir()) == [file]


def test_a_failed_export_leaves_the_old_file(daemon, tmp_path) -> None:
    file = tmp_path / "p.safetensors"
    file.write_bytes(b"old")
    assert patchctl("patch", "export", "none", "--force", "-o", file, socket=daemon.path).exit_code == 4
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["patch", "import", "none.safetensors"], "none.safetensors"),
        (["patch", "export", "x", "-o", "/nonexistent/p"], "/nonexistent/p"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(arguments, says, daemon) -> None:
    daemon.on("GET", "/v1/patches/x/file", b"1")
    result = patchctl(*arguments, socket=daemon.path)
    assert result.exit_code == 5
    assert says in result.stderr
    assert "No such file" in result.stderr


def test_training_is_submitted_as_asked(daemon) -> None:
    daemon.on("POST", "/v1/jobs", bodies.job(JobState.QUEUED))
    arguments = ["--kinds", "head", "--resolutions", "96", "--epochs", "2", "--lr", "0.01", "--max-samples", "64"]
    result = patchctl("train", "submit", "--task", "digits", "--base", "lite2", *arguments, socket=daemon.path)
    assert result.exit_code == 0, result.output
    sent = json.loads(daemon.seen[0].body)
    assert sent["base"] == "lite2"
    assert (sent["kinds"], sent["resolutions"], sent["epochs"]) == (["head"], [96], 2)
    assert (sent["learning_rate"], sent["max_samples"], sent["batch_size"]) == (0.01, 64, 32)


def test_options_of_patch_kinds_are_sent_and_wrong_ones_refused_in_one_sentence(daemon) -> None:
    daemon.on("POST", "/v1/jobs", bodies.job(JobState.QUEUED))
    submit = ("train", "submit", "--task", "digits", "--kinds", "gate,added_layer,head")
    options = ("--option", "gate.where=blocks.1*", "--option", "added_layer.rank=4")
    assert patchctl(*submit, *options, socket=daemon.path).exit_code == 0
    sent = json.loads(daemon.seen[0].body)["options"]
    assert (sent["gate"]["where"], sent["added_layer"]["rank"]) == ("blocks.1*", 4)
    for wrong, sentence in {
        "gate.rank=4": "The patch kind 'gate' has no option 'rank'; it takes where.",
        "added_layer.rank=many": "rank: Input should be a valid integer",
        "added_layer.size=3": "size: Extra inputs are not permitted",
        "depthwise.where=x": "There are options for 'depthwise', which is not among the patch's kinds.",
    }.items():
        result = patchctl(*submit, "--option", wrong, socket=daemon.path)
        assert result.exit_code == 5
        assert sentence in result.stderr, result.stderr
        assert len(result.stderr.splitlines()) == 1


def follow_server(daemon: FakeDaemon, *jobs: s.JobView) -> None:
    left = list(jobs)

    def next_state(handler: Handler, seen: Seen) -> None:
        job = left.pop(0) if len(left) > 1 else left[0]
        handler.answer(200, job.model_dump_json().encode())

    daemon.on("GET", "/v1/jobs/job-1", next_state)


def test_without_a_command_the_whole_help_is_printed() -> None:
    result = patchctl()
    assert result.exit_code == 2
    assert "First steps:\n" in result.stderr
    assert len(result.stderr.splitlines()) > 30


def test_following_prints_plain_lines_and_a_table_at_the_end(daemon, monkeypatch) -> None:
    monkeypatch.setattr("patchd.daemon.cli.follow.POLL_S", 0.01)
    follow_server(daemon, bodies.job(JobState.QUEUED), bodies.job(), bodies.job(step=60), bodies.job(JobState.DONE))
    result = patchctl("train", "follow", "job-1", socket=daemon.path)
    assert result.exit_code == 0, result.output
    assert "rung 1/2 128 px, epoch 2/4, step 10/100, loss 0.500, 88 images/s" in result.stderr
    assert "patch in the upper 72 % of the network, 25 % of the base" in result.stderr
    assert "93.1 % [90.0-95.3] n=360" in result.stdout
    assert "42016" in result.stdout


@pytest.mark.parametrize(("state", "says"), [(JobState.FAILED, "it broke"), (JobState.CANCELLED, "was cancelled")])
def test_following_a_job_that_does_not_succeed_is_exit_code_1(state, says, daemon) -> None:
    follow_server(daemon, bodies.job(state, error="it broke"))
    result = patchctl("train", "follow", "job-1", socket=daemon.path)
    assert result.exit_code == 1
    assert says in result.stderr


@pytest.mark.parametrize("action", ["pause", "resume", "cancel"])
def test_a_job_is_changed(action, daemon) -> None:
    daemon.on("POST", f"/v1/jobs/job-1/{action}", bodies.job(JobState.PAUSED))
    result = patchctl("train", action, "job-1", socket=daemon.path)
    assert result.exit_code == 0, result.output
    assert "job-1" in result.stdout


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of two files each; the content names the class that the server answers."""
    for folder, answers in {"one": "12", "two": "22"}.items():
        (tmp_path / folder).mkdir()
        for number, index in enumerate(answers):
            (tmp_path / folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + index.encode())
    return tmp_path


@pytest.fixture
def classifier(daemon: FakeDaemon) -> FakeDaemon:
    """Answers the class that a file's fourth byte names; 'x' is no image."""

    def classify(handler: Handler, seen: Seen) -> None:
        if seen.body[3:4] == b"x":
            body = {"error": "The body is no image.", "code": "bad_input"}
            handler.answer(400, json.dumps(body).encode())
        else:
            handler.answer(200, bodies.answer(int(seen.body[3:4])).model_dump_json().encode())

    daemon.on("GET", "/v1/tasks/digits", bodies.TASK)
    daemon.on("POST", "/v1/tasks/digits/infer", classify)
    return daemon


def test_infer_shows_labels_rung_times_and_why(classifier, images) -> None:
    result = patchctl("infer", "--task", "digits", images / "one" / "0.jpg", socket=classifier.path)
    assert result.exit_code == 0, result.output
    text = " ".join(result.stdout.split())
    for part in ("one 75.0 %", "96 px", "allocation 0.40", "9.50 ms", "network 5.00 ms", "best that fits 3.1 ms"):
        assert part in text


def test_infer_walks_directories_and_prints_one_json_line_a_file(classifier, images) -> None:
    result = patchctl("infer", "--task", "digits", "--json", images, socket=classifier.path)
    assert result.exit_code == 0, result.output
    found = [s.InferAnswer.model_validate_json(line).predictions[0].index for line in result.stdout.splitlines()]
    assert found == [1, 2, 2, 2]


def test_a_broken_image_among_others_is_named_and_the_others_are_answered(classifier, images) -> None:
    (images / "one" / "0.jpg").write_bytes(b"\xff\xd8\xffx")
    result = patchctl("infer", "--task", "digits", images, socket=classifier.path)
    assert result.exit_code == 5
    assert result.stderr == f"patchctl: {images}/one/0.jpg: The body is no image.\n"
    assert result.stdout.count("request") == 3


@pytest.mark.parametrize(("label", "exits"), [("two", 0), ("TWO", 0), ("2", 0), ("one", 1), ("nine", 5)])
def test_the_expected_label_decides_the_exit_code(label, exits, classifier, images) -> None:
    result = patchctl("infer", "--task", "digits", "--expect", label, images / "two", socket=classifier.path)
    assert result.exit_code == exits, result.output


def test_top1_over_directories_has_its_wilson_interval(classifier, images) -> None:
    result = patchctl("infer", "--task", "digits", "--top1-from-dirs", images, socket=classifier.path)
    assert result.exit_code == 0, result.output
    assert "75.0 % (3 of 4), 95 % interval 30.1 to 95.4 %" in result.stdout
    asked = patchctl("infer", "--task", "digits", "--top1-from-dirs", "--json", images, socket=classifier.path)
    summary = json.loads(asked.stdout)
    assert summary["classes"] == {"one": {"images": 2, "correct": 1}, "two": {"images": 2, "correct": 2}}
    assert (summary["top1"], summary["resolutions"]) == (0.75, {"96": 4})


def test_top1_refuses_a_directory_that_names_no_label(classifier, images) -> None:
    (images / "two").rename(images / "n002")
    result = patchctl("infer", "--task", "digits", "--top1-from-dirs", images, socket=classifier.path)
    assert result.exit_code == 5
    assert "'n002' is no label of task 'digits'" in result.stderr
    (images / "map.tsv").write_text("index\twnid\n2\tn002\ttwo, pair\n")
    arguments = ["--top1-from-dirs", "--label-map", images / "map.tsv", images]
    assert patchctl("infer", "--task", "digits", *arguments, socket=classifier.path).exit_code == 0


@pytest.mark.parametrize(("path", "exits"), [("/nonexistent/x.jpg", 4), ("empty", 5)])
def test_images_that_are_not_there_are_named(path, exits, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    result = patchctl("infer", "--task", "digits", path)
    assert result.exit_code == exits
    assert path in result.stderr


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_wilson_interval_holds_the_proportion(counts) -> None:
    correct, samples = counts
    low, high = wilson(correct, samples)
    assert 0 <= low <= correct / samples <= high <= 1
    assert wilson(samples - correct, samples) == pytest.approx((1 - high, 1 - low))


def test_an_answer_shows_how_far_it_went_through_a_cascade(daemon, images) -> None:
    daemon.on("POST", "/v1/tasks/digits/infer", bodies.answer().model_copy(update={"cascade": bodies.PASSED}))
    result = patchctl("infer", "--task", "digits", images / "one" / "1.jpg", socket=daemon.path)
    assert "stage 2 of 3, confidence 0.875, known cost 9.00 ms" in result.stdout
    assert "cascade" not in daemon.seen[0].query
    patchctl("infer", "--task", "digits", "--no-cascade", images / "one" / "1.jpg", socket=daemon.path)
    assert daemon.seen[1].query["cascade"] == ["false"]


def cascade_text(daemon: FakeDaemon, view: s.CascadeView) -> str:
    daemon.on("GET", "/v1/tasks/digits/cascade", view)
    return " ".join(patchctl("cascade", "show", "digits", socket=daemon.path).stdout.split())


def test_a_cascade_shows_expected_against_measured_and_its_evidence(daemon) -> None:
    text = cascade_text(daemon, bodies.CASCADE)
    for part in (
        "1 lite0 at 96 px margin from 0.750 70.0% 60.0% 4.00 ms 5.00 ms",
        "2 lite0 at 128 px same as stage 1 20.0% 30.0% 5.00 ms 10.0 ms",
        "3 lite2 at 260 px always 10.0% 10.0% 30.0 ms 40.0 ms",
        "in force: 3 stages at 25%",
        "8.50 ms expected for an image",
        "lite2 at 260 px alone 34.0 ms (4.00 times)",
        "10.0 ms a prediction, mean of 100",
        "at most 1.0% of accuracy lost against the reference, with probability 95%",
        "on 480 inputs kept apart it lost 0.20% and differed in 1.25%, p = 0.03",
        "on the test part of sklearn:digits: 950 inputs",
        "12 inputs are kept as numbers",
    ):
        assert part in text


def test_a_cascade_that_does_not_answer_says_why(daemon) -> None:
    lacking = bodies.PROMISE.model_copy(update={"holds": False, "missing": 150})
    state = bodies.CASCADE.state.model_copy(
        update={
            "in_force": False,
            "reason": "it has drifted",
            "cascade": bodies.CASCADE.state.cascade.model_copy(update={"promise": lacking}),
        }
    )
    view = bodies.CASCADE.model_copy(update={"state": state, "counts": ()})
    text = cascade_text(daemon, view)
    assert "not in force: it has drifted" in text
    assert "no prediction yet" in text
    assert "none: 150 more inputs are needed for a loss of at most 1.0%" in text
    off = cascade_text(daemon, view.model_copy(update={"enabled": False}))
    assert "switched off: the policy has cascade.enabled = false" in off
    none = view.model_copy(update={"state": None})
    assert cascade_text(daemon, none).endswith("Make one: patchctl cascade calibrate digits")
    for state, says in {
        "running": "Calibrating on 9 images, 4 of 9 images.",
        "failed": "Calibration failed: It broke.",
        "cancelled": "The last calibration, on 9 images, was cancelled.",
    }.items():
        at = s.CalibrationView(state=state, what="9 images", done=4, images=9, error="It broke.")
        at_work = none.model_copy(update={"calibration": at})
        assert cascade_text(daemon, at_work) == f"{says} Task digits has no cascade yet."


def test_calibrating_sends_the_images_with_their_labels_and_follows_to_the_end(daemon, images, monkeypatch) -> None:
    monkeypatch.setattr("patchd.daemon.cli.cascade.POLL_S", 0.01)
    running = s.CalibrationView(state="running", what="3 images", done=1, images=3)
    left = [running, running.model_copy(update={"done": 2}), running.model_copy(update={"state": "done", "done": 3})]

    def next_view(handler: Handler, seen: Seen) -> None:
        view = bodies.CASCADE.model_copy(update={"calibration": left.pop(0)})
        handler.answer(200, view.model_dump_json().encode())

    path = "/v1/tasks/digits/cascade"
    daemon.on("GET", "/v1/tasks/digits", bodies.TASK)
    daemon.on("GET", path, next_view)
    daemon.on("POST", f"{path}/calibration", bodies.CASCADE.model_copy(update={"calibration": running}))
    options = ("--epsilon", "0.02", "--delta", "0.1", "--reference", "lite2:260")
    result = patchctl("cascade", "calibrate", "digits", images, *options, socket=daemon.path)
    assert result.exit_code == 0, result.output
    (sent,) = (s.CalibrateCreate.model_validate_json(seen.body) for seen in daemon.seen if seen.body)
    assert {(Path(image.file).parent.name, image.label) for image in sent.images} == {("one", 1), ("two", 2)}
    assert (sent.epsilon, sent.delta, sent.reference) == (0.02, 0.1, ("lite2", 260))
    assert "1 of 3 images" in result.stderr
    assert "in force: 3 stages" in " ".join(result.stdout.split())
    left = [running.model_copy(update={"state": "failed", "error": "It broke."})]
    unlabelled = patchctl("cascade", "calibrate", "digits", images, "--unlabelled", "--json", socket=daemon.path)
    assert unlabelled.exit_code == 1
    assert json.loads(unlabelled.stdout)["calibration"]["error"] == "It broke."
    last = s.CalibrateCreate.model_validate_json(daemon.seen[-2].body)
    assert {image.label for image in last.images} == {None}


def test_a_plot_shows_what_was_weighed_and_says_what_it_wrote(daemon, tmp_path) -> None:
    daemon.on("GET", "/v1/tasks/digits/cascade", bodies.CASCADE)
    daemon.on("GET", "/v1/tasks/digits/cascade/points", bodies.POINTS)
    file = tmp_path / "c.svg"
    result = patchctl("cascade", "plot", "digits", "-o", file, socket=daemon.path)
    assert (result.exit_code, result.stdout) == (0, f"Wrote {file}.\n")
    assert file.read_text().count("<svg") == 1


def test_events_are_filtered_by_level_and_kind(daemon) -> None:
    daemon.on("GET", "/v1/events", s.EventList(events=bodies.EVENTS))
    assert patchctl("events", "--level", "warning", socket=daemon.path).stdout.count("\n") == 2
    assert patchctl("events", "--kind", "job", socket=daemon.path).stdout.count("\n") == 2
    one = patchctl("events", "--kind", "job.failed", "--json", socket=daemon.path)
    assert [event["id"] for event in json.loads(one.stdout)["events"]] == [3]


def test_following_events_goes_on_where_the_past_ended(daemon) -> None:
    def stream(handler: Handler, seen: Seen) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(f"data: {bodies.EVENTS[3].model_dump_json()}\n\n".encode())
        handler.close_connection = True

    daemon.on("GET", "/v1/events", s.EventList(events=bodies.EVENTS[:3]))
    daemon.on("GET", "/v1/events/stream", stream)
    result = patchctl("events", "--follow", socket=daemon.path)
    assert result.stdout.count("\n") == 4
    assert daemon.seen[-1].query["since"] == ["3"]


def test_a_number_stays_with_its_unit_when_a_line_is_wrapped() -> None:
    text = "some words and then 34 % at 192 px for 12 ms, 5 sheep " * 4
    for columns in range(20, 60):
        lines = wrap(text, columns)
        assert " ".join(lines).split() == text.split()
        assert not any(re.match(r"(%|px|ms)", line) for line in lines)
        assert max(map(len, lines)) <= columns


def test_a_policy_file_is_checked_without_a_daemon(tmp_path) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(preset_text("balanced"))
    assert patchctl("policy", "check", good).exit_code == 0
    bad.write_text(preset_text("balanced") + "\n[inferense]\nmin_resolution = 96\n")
    line = bad.read_text().splitlines().index("[inferense]") + 1
    result = patchctl("policy", "check", bad)
    assert result.exit_code == 5
    assert result.stderr.startswith(f"patchctl: {bad}:{line}:2: ")
    assert "inferense" in result.stderr
    assert patchctl("policy", "check", tmp_path / "none.toml").exit_code == 5


@pytest.mark.parametrize(("given", "sent"), [("powersave", "name"), ("./mine.toml", "path")])
def test_a_policy_is_put_in_force_by_name_or_by_absolute_path(given, sent, daemon, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(preset_text("powersave"))
    daemon.on("POST", "/v1/policies/use", bodies.POLICY)
    assert patchctl("policy", "use", given, socket=daemon.path).exit_code == 0
    body = s.PolicyUse.model_validate_json(daemon.seen[0].body)
    assert getattr(body, sent) == (given if sent == "name" else str(tmp_path / "mine.toml"))
    assert (body.name is None) != (body.path is None)


def test_a_trace_is_replayed_offline_through_several_policies() -> None:
    result = patchctl("replay", "demo", "--policy", "balanced", "--policy", "performance", "--json")
    assert result.exit_code == 0, result.output
    found = [ReplayResult.model_validate_json(line) for line in result.stdout.splitlines()]
    assert [one.policy for one in found] == ["balanced", "performance"]
    assert found[0].mean_inference < found[1].mean_inference
    shown = patchctl("replay", "demo").stdout
    assert "battery-low" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_an_offline_replay_uses_the_daemons_ladders_when_asked(daemon) -> None:
    daemon.on("GET", "/v1/tasks", s.TaskList(tasks=(bodies.TASK,)))
    daemon.on("GET", "/v1/profile/training", s.TrainingProfile(measured=(bodies.TRAINING_COSTS,)))
    daemon.on("GET", "/v1/status", bodies.STATUS)
    result = patchctl("replay", "demo", "--measured", "--json", socket=daemon.path)
    replayed = ReplayResult.model_validate_json(result.stdout)
    assert [task.task for task in replayed.tasks] == ["digits"]
    assert replayed.inference.processor_s is not None
    # 1 prediction a second, at the two rungs' measured costs, on the worker's two threads
    at = replayed.tasks[0].predictions_at
    assert replayed.inference.processor_s == pytest.approx(2 * (at.get(128, 0) * 0.0045 + at.get(96, 0) * 0.0025))
    shown = patchctl("replay", "demo", "--measured", "--rate", "30/min", socket=daemon.path).stdout
    assert "processor time for them" in shown
    assert "at the given rate" in shown


@pytest.mark.parametrize(("trace", "exits"), [("nothing", 4), ("/nonexistent/t.jsonl", 5), ("broken.jsonl", 5)])
def test_a_trace_that_cannot_be_replayed_is_named(trace, exits, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.jsonl").write_text("{}\n")
    result = patchctl("replay", trace)
    assert result.exit_code == exits
    assert trace in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_live_replay_shows_each_changed_decision_until_it_ends(daemon) -> None:
    changed = bodies.EVENTS[3].model_copy(update={"data": {"decision": "d-7"}})
    ended = changed.model_copy(update={"id": 9, "kind": "trace.ended", "message": "The trace has ended."})

    def stream(handler: Handler, seen: Seen) -> None:
        handler.send_response(200)
        handler.end_headers()
        for event in (bodies.EVENTS[1], changed, ended):
            handler.wfile.write(f"data: {event.model_dump_json()}\n\n".encode())
        handler.close_connection = True

    daemon.on("GET", "/v1/events", s.EventList(events=bodies.EVENTS[:1]))
    daemon.on("GET", "/v1/events/stream", stream)
    daemon.on("GET", "/v1/decisions/d-7", bodies.DECISION)
    daemon.on("POST", "/v1/monitor/trace", s.TraceState(active=True, name="demo", position_s=0, duration_s=36))
    result = patchctl("replay", "demo", "--live", "--speed", "4", "--wait", socket=daemon.path)
    assert result.exit_code == 0, result.output
    sent = s.TraceReplay.model_validate_json(next(seen.body for seen in daemon.seen if seen.method == "POST"))
    assert (sent.name, sent.speed, sent.jsonl) == ("demo", 4.0, trace_text("demo"))
    assert "for 9.0 s" in result.stdout
    assert "inference 0.40, training 0.00 (paused), digits 96 px" in result.stdout
    assert result.stdout.rstrip().endswith("The trace has ended.")


def test_policies_stand_side_by_side_within_80_columns() -> None:
    four = [part for name in ("balanced", "performance", "powersave", "balanced") for part in ("--policy", name)]
    shown = patchctl("replay", "laptop-day", *four, "--from", "2:00:00", "--until", "3:30:00").stdout
    assert shown.startswith("laptop-day, 1 h 30 min from 2:00:00 on")
    assert max(map(len, shown.splitlines())) <= 80
    assert shown.count("\ninference allocation") == 2  # three policies fit, and one below them


def test_the_traces_that_ship_are_listed_with_their_stories() -> None:
    shown = patchctl("replay", "--list")
    assert shown.exit_code == 0
    assert max(map(len, shown.stdout.splitlines())) <= 80
    listed = [json.loads(line)["name"] for line in patchctl("replay", "--list", "--json").stdout.splitlines()]
    assert tuple(listed) == trace_names()
    assert all(name in shown.stdout for name in listed)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "noon"), "'noon' is no moment of a trace; write seconds, 12:30 or 1:12:30"),
        (("--rate", "5/year"), "'5/year' is no rate; write 5/s, 30/min or 100/h"),
        (("--start", "monday"), "'monday' is no date and time; write 2026-07-06T07:30"),
        (("--live", "--from", "5"), "--from, --until and --start are for offline replays"),
        (("--from", "1:00:00"), "The trace demo has nothing between 3600 s and 36 s."),
    ],
)
def test_a_replay_that_cannot_be_is_refused_in_one_sentence(arguments, said) -> None:
    result = patchctl("replay", "demo", *arguments)
    assert result.exit_code in (2, 5)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_recording_that_was_cut_off_is_replayed_and_the_cut_is_said(tmp_path) -> None:
    file = tmp_path / "cut.jsonl"
    file.write_text(trace_text("demo")[:-20])
    result = patchctl("replay", file)
    assert result.exit_code == 0, result.output
    assert "ends in the middle of a line" in result.stderr


def test_the_live_screen_needs_a_terminal() -> None:
    result = patchctl("top")
    assert result.exit_code == 5
    assert "needs a terminal" in result.stderr


def run_program(*arguments: str, socket: Path, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "patchd.daemon.cli.main", "--socket", str(socket), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,  # type: ignore[call-overload]
    )


def test_ctrl_c_while_following_leaves_the_job_alone_and_exits_130(daemon) -> None:
    follow_server(daemon, bodies.job())
    with run_program("train", "follow", "job-1", socket=daemon.path) as process:
        assert process.stderr is not None
        assert "rung 1/2" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "goes on" in said
    assert "patchctl train cancel job-1" in said
    assert {seen.method for seen in daemon.seen} == {"GET"}


def test_ctrl_c_while_measuring_prints_what_was_done(classifier, images) -> None:
    answer = classifier.answers["POST", "/v1/tasks/digits/infer"]

    def hang_at_the_third(handler: Handler, seen: Seen) -> None:
        if sum(seen.method == "POST" for seen in classifier.seen) > 2:
            time.sleep(5)
        assert callable(answer)
        answer(handler, seen)

    classifier.on("POST", "/v1/tasks/digits/infer", hang_at_the_third)
    with run_program("infer", "--task", "digits", "--top1-from-dirs", str(images), socket=classifier.path) as process:
        deadline = time.monotonic() + 10
        while sum(seen.method == "POST" for seen in classifier.seen) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        said, warned = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "50.0 % (1 of 2)" in said
    assert "after 2 of 4" in warned


def test_a_reader_that_goes_away_ends_the_program_quietly(daemon) -> None:
    daemon.on("GET", "/v1/events", s.EventList(events=bodies.EVENTS * 500))
    with run_program("events", "--limit", "5000", socket=daemon.path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""


def test_status_imports_neither_rich_nor_asyncio_nor_torch(daemon) -> None:
    daemon.on("GET", "/v1/status", bodies.STATUS)
    code = (
        "import sys\nfrom patchd.daemon.cli.main import cli\n"
        "try:\n    cli(['--socket', sys.argv[1], 'status'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'rich', 'asyncio', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(daemon.path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_help_texts_in_the_documentation_are_those_of_the_commands() -> None:
    present = docs.DOCUMENT.read_text(encoding="utf-8")
    assert present == docs.with_help(present), "run `python -m patchd.daemon.cli.docs`"


def test_every_exit_code_is_in_help_and_documentation() -> None:
    document = docs.DOCUMENT.read_text(encoding="utf-8")
    shown = " ".join(patchctl("--help").stdout.split())
    for code, meaning in EXIT_CODES.items():
        assert f"| {code} | {meaning} |" in document
        assert f"{code} {meaning}" in shown


def test_a_job_shows_its_plan_what_was_refused_and_what_plans_took(daemon) -> None:
    daemon.on("GET", "/v1/jobs/job-1", bodies.job())
    text = " ".join(patchctl("train", "show", "job-1", socket=daemon.path).stdout.split())
    for part in ("upper 72 % chosen", "400.0 / 420.5", "1.05", "300 / 310", "0.47"):
        assert part in text


def test_what_training_costs_is_measured_as_asked(daemon) -> None:
    daemon.on("POST", "/v1/profile/training", s.TrainingProfile(measured=(bodies.TRAINING_COSTS,)))
    arguments = ("profile", "--training", "--run", "--base", "lite1", "--resolutions", "128,96")
    result = patchctl(*arguments, socket=daemon.path)
    assert result.exit_code == 0, result.output
    assert json.loads(daemon.seen[0].body) == {"base": "lite1", "resolutions": [128, 96]}
    assert "predictions are multiplied by" in result.stdout
    wrong = patchctl("profile", "--training", "--repeats", "3", socket=daemon.path)
    assert wrong.exit_code == 2
    assert "--repeats" in wrong.output


def test_unmeasured_training_costs_say_what_plans_follow(daemon) -> None:
    daemon.on("GET", "/v1/profile/training", s.TrainingProfile(measured=()))
    assert "that patchd ships" in " ".join(patchctl("profile", "--training", socket=daemon.path).stdout.split())
