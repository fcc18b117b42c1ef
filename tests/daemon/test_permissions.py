"""What a policy takes away from an application or a task, on a running daemon; and whom a section is for."""

from __future__ import annotations

import getpass
import os
import time
from pathlib import Path

import pytest
from patchd.client import Client
from patchd.daemon.api.schemas import TaskCreate
from patchd.daemon.applications import TICKS_A_SECOND, sections_for
from patchd.daemon.sockets import Caller
from patchd.policies.errors import ForbiddenError
from patchd.policies.policy import parse_policy
from patchd.policies.task import TrainSpec
from running import STEADY, RunningDaemon

ME = getpass.getuser()
PROGRAM = Path("/proc/self/comm").read_text().strip()


def use(daemon: RunningDaemon, folder: Path, text: str) -> Client:
    file = folder / "policy.toml"
    file.write_text(STEADY + text)
    daemon.client.use_policy(path=file)
    return daemon.client


def test_an_application_is_held_to_its_caps_whatever_it_asks_for(
    daemon: RunningDaemon, tmp_path: Path, photographs: dict[str, Path]
) -> None:
    image = photographs["china"].read_bytes()
    client = use(daemon, tmp_path, f'[application.camera]\nuser = "{ME}"\nmax_resolution = 128\n')
    answer = client.infer("imagenet", image)
    assert answer.resolution <= 128
    assert "[application.camera] allows 128 px at most" in answer.why
    with pytest.raises(ForbiddenError, match=r"may not ask for 224 px: .*\[application.camera\] allows it 128"):
        client.infer("imagenet", image, resolution=224)
    assert client.infer("imagenet", image, resolution=96).resolution == 96
    told = client.explain(request=answer.request_id)
    assert any(
        "[application.camera] allows 128 px at most" in sentence
        for section in told.sections
        for sentence in (*section.sentences, *section.items)
    )
    use(daemon, tmp_path, '[application.camera]\nuser = "somebody-else"\nmax_resolution = 128\n')
    assert client.infer("imagenet", image, resolution=224).resolution == 224


def test_an_application_that_may_spend_less_gets_what_that_affords(
    daemon: RunningDaemon, tmp_path: Path, photographs: dict[str, Path]
) -> None:
    client = use(
        daemon,
        tmp_path,
        f'[application.me]\nprogram = "{Path("/proc/self/comm").read_text().strip()}"\ninference = 0.0\n',
    )
    answer = client.infer("imagenet", photographs["china"].read_bytes())
    assert answer.allocation == 0.0
    assert "[application.me] allows an allocation of 0.00 at most" in answer.why
    assert client.status().decision.inference.value == 1.0
    dearest = max(client.status().decision.rungs[0].candidates, key=lambda each: each.cost_ms)
    with pytest.raises(ForbiddenError, match=r"an allocation of 0.00 at most, a budget of"):
        client.infer("imagenet", photographs["china"].read_bytes(), resolution=dearest.rung.resolution)


def test_a_refused_permission_is_answered_with_403_and_one_sentence(
    daemon: RunningDaemon, tmp_path: Path, photographs: dict[str, Path]
) -> None:
    consent = "[examples]\nconsent = true\n"
    client = use(daemon, tmp_path, f'{consent}[application.me]\nuser = "{ME}"\ntraining = false\nexamples = false\n')
    with pytest.raises(ForbiddenError, match=r"\[application.me\] does not let this application ask for tr"):
        client.submit(TrainSpec(task="imagenet"))
    with pytest.raises(ForbiddenError, match=r"\[application.me\] does not permit examples of task 'imagenet'"):
        client.add_example("imagenet", "tench", photographs["china"].read_bytes())
    use(daemon, tmp_path, f"{consent}[task.imagenet]\ntraining = false\nexamples = false\n")
    with pytest.raises(ForbiddenError, match=r"\[task.imagenet\] does not permit the task to be trained"):
        client.submit(TrainSpec(task="imagenet"))
    with pytest.raises(ForbiddenError, match=r"\[task.imagenet\] does not permit examples"):
        client.add_example("imagenet", "tench", photographs["china"].read_bytes())


def test_a_queued_job_waits_while_the_policy_does_not_permit_its_task_to_be_trained(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    paused = "[[rule]]\nname = 'never'\nwindows = ['00:00-24:00']\ntraining = false\n"
    client = use(daemon, tmp_path, paused)
    client.add_task(TaskCreate(name="digits", data="sklearn:digits", resolutions=(32,)))
    job = client.submit(TrainSpec(task="digits", epochs=1, max_samples=64))
    assert "rule 'never' does not permit training because it is" in str(client.job(job.id).waiting)
    use(daemon, tmp_path, f"{paused}[task.digits]\ntraining = false\n")
    assert client.job(job.id).waiting == "the policy's [task.digits] does not permit the task to be trained"
    assert client.job(job.id).state == "queued"
    client.change_job(job.id, "cancel")
    client.remove_task("digits")


def test_a_task_answers_within_its_section_and_a_rule_that_forbids_examples_is_named(
    daemon: RunningDaemon, tmp_path: Path, photographs: dict[str, Path]
) -> None:
    image = photographs["china"].read_bytes()
    rule = "[[rule]]\nname = 'always'\nwindows = ['00:00-24:00']\nexamples = false\nmax_resolution = 192\n"
    client = use(daemon, tmp_path, f"[examples]\nconsent = true\n[task.imagenet]\nmax_resolution = 160\n{rule}")
    answer = client.infer("imagenet", image)
    assert answer.resolution <= 160
    assert "[task.imagenet] allows 160 px at most" in answer.why
    with pytest.raises(ForbiddenError, match=r"rule 'always' does not permit examples .*no longer matches"):
        client.add_example("imagenet", "tench", image)
    decision = client.status().decision
    assert {cap.key: cap.value for cap in decision.caps} == {"max_resolution": 192.0, "examples": 0.0}
    told = [item for section in client.explain().sections for item in section.items]
    assert any("'always' matches: it is" in each and "allows 192 px at most" in each for each in told)


# whom a section is for


def tree(folder: Path, pid: int, cgroup: str, program: str, began_s: float) -> Path:
    """A /proc with one process."""
    own = folder / str(pid)
    own.mkdir(parents=True)
    (own / "cgroup").write_text(cgroup)
    (own / "comm").write_text(f"{program}\n")
    fields = ["S", *["0"] * 18, str(int(began_s * TICKS_A_SECOND)), *["0"] * 30]
    (own / "stat").write_text(f"{pid} (a) b {program}) {' '.join(fields)}\n")
    return folder


SECTIONS = parse_policy(
    '[policy]\nname = "p"\n[application.user]\nuser = "cam"\n[application.unit]\nunit = "camera.service"\n'
    '[application.program]\nprogram = "grab*"\n[application.all]\nuser = "cam"\nunit = "app.slice"\n',
    "p.toml",
)


@pytest.mark.parametrize(
    ("cgroup", "program", "found"),
    [
        ("0::/system.slice/camera.service\n", "grabber", ("user", "unit", "program")),
        ("0::/user.slice/user@7.service/app.slice/app-x.scope\n", "sh", ("user", "all")),
        ("12:cpu,cpuacct:/\n1:name=systemd:/system.slice/camera.service\n", "sh", ("user", "unit")),
        ("0::/\n", "sh", ("user",)),
    ],
    ids=["service", "slice", "cgroup-v1", "none"],
)
def test_a_caller_is_known_by_user_cgroups_and_program(
    tmp_path: Path, cgroup: str, program: str, found: tuple[str, ...]
) -> None:
    proc = tree(tmp_path, 42, cgroup, program, began_s=10.0)
    assert sections_for(SECTIONS, Caller(42, 7, 7, "cam", connected_s=20.0), proc) == found


def test_a_process_that_began_after_the_connection_is_not_taken_for_the_caller(tmp_path: Path) -> None:
    proc = tree(tmp_path, 42, "0::/system.slice/camera.service\n", "grab", began_s=30.0)
    assert sections_for(SECTIONS, Caller(42, 7, 7, "cam", connected_s=20.0), proc) == ("user",)


def test_a_caller_that_is_gone_or_unknown_has_its_user_alone(tmp_path: Path) -> None:
    assert sections_for(SECTIONS, Caller(42, 7, 7, "cam", connected_s=20.0), tmp_path) == ("user",)
    assert sections_for(SECTIONS, Caller.unknown(), tmp_path) == ()


def test_this_process_began_before_it_asks_on_the_real_proc() -> None:
    caller = Caller(os.getpid(), os.getuid(), os.getgid(), ME, time.clock_gettime(time.CLOCK_BOOTTIME))
    mine = parse_policy(f'[policy]\nname = "p"\n[application.mine]\nprogram = "{PROGRAM}"\n', "p.toml")
    assert sections_for(mine, caller, Path("/proc")) == ("mine",)
