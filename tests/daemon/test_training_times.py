"""When training runs and what it used, in a running daemon; what the clock does, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from click.testing import CliRunner
from patchd.daemon.api.schemas import JobView, TaskCreate
from patchd.daemon.app import Daemon
from patchd.daemon.cli.main import cli
from patchd.daemon.config import DaemonConfig
from patchd.daemon.training_calendar import TrainingCalendar
from patchd.policies.task import JobState, PatchKind, TrainSpec
from patchd.policies.windows import DAYS
from PIL import Image
from running import RunningDaemon

HEAD = TrainSpec(task="tints", kinds=(PatchKind.HEAD,), epochs=1, batch_size=8)
IMAGES = 8  # of each class to train on; two of them are set apart to validate on
POLICY = '[policy]\nname = "{name}"\n[training]\nallocation = 0.5\n{training}\n'


def policy(folder: Path, name: str, training: str) -> Path:
    file = folder / f"{name}.toml"
    file.write_text(POLICY.format(name=name, training=training))
    return file


@pytest.fixture(scope="module")
def tints(tmp_path_factory: pytest.TempPathFactory) -> TaskCreate:
    """A task of few images, so that training it is over soon beside any other work."""
    folder = tmp_path_factory.mktemp("tints")
    for part, count in (("train", IMAGES), ("test", 2)):
        for label, tint in {"dark": 40, "light": 200}.items():
            (folder / part / label).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (32, 32), (tint, tint + 5 * index, tint)).save(folder / part / label / f"{index}.png")
    return TaskCreate(name="tints", data=str(folder), resolutions=(32,))


def closed_window() -> str:
    """A window of the day after tomorrow."""
    day = (datetime.now().astimezone() + timedelta(days=2)).weekday()
    return f'windows = ["{DAYS[day]} 10:00-12:00"]'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, tints: TaskCreate) -> Iterator[RunningDaemon]:
    """A daemon whose machine shows no user, no battery and no energy."""
    folder = tmp_path_factory.mktemp("times")
    config = folder / "config.toml"
    config.write_text(
        "measure_training_s = 0\n"
        f'dev_root = "{folder / "dev"}"\nproc_root = "{folder / "proc"}"\nsys_root = "{folder / "sys"}"\n'
    )
    with RunningDaemon(folder / "state", "--config", str(config)) as running:
        running.client.add_task(tints)
        yield running


def patchctl(daemon: RunningDaemon, *arguments: str) -> str:
    runner = CliRunner(env={"COLUMNS": "80"})
    told = runner.invoke(cli, ["--socket", str(daemon.socket), *arguments], prog_name="patchctl")
    assert told.exit_code == 0, told.output
    return " ".join(told.stdout.split())


@pytest.fixture(scope="module")
def waiting(daemon: RunningDaemon, tmp_path_factory: pytest.TempPathFactory) -> JobView:
    """A job under a policy of which nothing is met."""
    hard = policy(tmp_path_factory.mktemp("p"), "hard", f"{closed_window()}\nidle_for_s = 60\nonly_on_mains = true")
    daemon.client.use_policy(path=hard)
    return daemon.client.submit(HEAD)


def test_a_job_waits_and_every_place_says_for_what(daemon: RunningDaemon, waiting: JobView) -> None:
    assert waiting.state is JobState.QUEUED
    for words in ("is outside the policy's windows", "the next opens", "this machine does not tell (no user.idle_s)"):
        assert words in str(waiting.waiting)
        for command in (("status",), ("explain",), ("train", "show", waiting.id), ("train", "list")):
            assert words in patchctl(daemon, *command), (command, words)
    assert "so it is on mains" in patchctl(daemon, "explain")
    assert "max_celsius" not in patchctl(daemon, "explain")


def test_it_trains_once_the_policy_lets_it_and_what_it_used_is_kept(
    daemon: RunningDaemon, waiting: JobView, tmp_path: Path
) -> None:
    assert "Nothing was trained in the last 7 days." in patchctl(daemon, "train", "usage")
    daemon.client.use_policy(path=policy(tmp_path, "open", 'windows = ["00:00-24:00"]\nmax_minutes_per_day = 600'))
    done = daemon.until(lambda: (job := daemon.client.job(waiting.id)).state is JobState.DONE and job, 250)
    assert (done.use.samples % (2 * (IMAGES - 1)), done.use.slices) == (0, done.slices)
    assert done.use.cpu_seconds > done.cpu_seconds > 0  # loading its programs counts too
    assert (done.use.rapl_joules, done.use.battery_joules) == (None, None)
    curve = daemon.client.curve(done.id).points
    assert [point.resolution for point in curve] == [32] * len(curve)
    assert curve[-1].validation == done.results[0].validation.accuracy
    assert "validation accuracy, now" in patchctl(daemon, "train", "show", done.id)
    usage = daemon.client.training_usage()
    assert usage.today_cpu_seconds == pytest.approx(usage.use.cpu_seconds)
    assert [each.job for day in usage.days for each in day.jobs] == [done.id] * len(usage.days)
    assert usage.max_minutes_per_day == 600
    told = patchctl(daemon, "train", "usage")
    assert done.id in told
    assert "of the policy's 10 h 0 min of processor time" in told
    assert f"{done.use.samples} images" in patchctl(daemon, "train", "show", done.id)
    daemon.until(lambda: daemon.client.status().workers[1].pid is None)  # the last of what it used is counted
    used = daemon.client.training_usage().use
    daemon.stop()
    daemon.start()
    assert daemon.client.training_usage().use == used
    assert daemon.client.curve(done.id).points == curve
    daemon.client.use_policy(path=policy(tmp_path, "spent", "max_minutes_per_day = 0.001"))
    assert "of the 0.001 processor minutes of this day" in str(daemon.client.submit(HEAD).waiting)
    daemon.client.change_job(daemon.client.jobs().jobs[-1].id, "cancel")


def test_the_policy_queues_training_by_itself_once(daemon: RunningDaemon, tints: TaskCreate, tmp_path: Path) -> None:
    retrain = '[[retrain]]\ntask = "{}"\nevery_days = 3650\nkinds = ["head"]\nepochs = 1\n'
    daemon.client.remove_task("tints")
    daemon.client.add_task(tints.model_copy(update={"name": "again"}))
    tables = closed_window() + "\n" + retrain.format("again") + retrain.format("nobody") + retrain.format("imagenet")
    daemon.client.use_policy(path=policy(tmp_path, "retrain", tables))
    job = daemon.until(lambda: next((j for j in daemon.client.jobs().jobs if j.spec.task == "again"), None))
    assert (job.spec.kinds, job.spec.epochs, job.spec.resolutions) == ((PatchKind.HEAD,), 1, (32,))
    assert job.state is JobState.QUEUED
    said = [event for event in daemon.client.events(limit=1000).events if event.kind.startswith("retrain.")]
    assert [(event.kind, event.data["task"]) for event in said] == [
        ("retrain.queued", "again"),
        ("retrain.refused", "imagenet"),
    ]
    assert "has no data set to train on" in said[1].message
    daemon.client.change_job(job.id, "cancel")


# the calendar


class Clock:
    def __init__(self, text: str) -> None:
        self.zone = ZoneInfo("Europe/Berlin")
        self.set(text)

    def set(self, text: str) -> None:
        self.now = datetime.fromisoformat(text).replace(tzinfo=self.zone).timestamp()

    def __call__(self) -> float:
        return self.now


def test_the_calendar_wakes_at_bounds_and_makes_up_for_times_that_were_missed(
    tints: TaskCreate, tmp_path: Path
) -> None:
    clock = Clock("2026-06-05T12:00")  # a Friday
    file = policy(tmp_path, "p", 'windows = ["22:00-06:00"]\n[[retrain]]\ntask = "tints"\nat = "sun 03:00"\n')

    async def inside() -> None:
        daemon = Daemon(DaemonConfig(policy=str(file)), tmp_path / "state", tmp_path / "s")
        scheduler, woken = AsyncIOScheduler(timezone=clock.zone), []

        async def wake() -> None:
            woken.append(clock.now)

        scheduler.start(paused=True)
        calendar = TrainingCalendar(
            scheduler, daemon.events, daemon.policies, daemon.tasks, daemon.training, wake, clock
        )
        try:
            daemon.tasks.create(tints, ("dark", "light"))
            calendar.plan()
            assert f"{calendar.next_boundary():%a %H:%M}" == "Fri 22:00"
            boundary = scheduler.get_job("training-boundary")
            assert f"{boundary.next_run_time:%H:%M}" == "13:00"  # a look each hour: a clock may be set
            clock.set("2026-06-05T21:30")
            await boundary.func()
            assert f"{scheduler.get_job('training-boundary').next_run_time:%H:%M}" == "22:00"
            assert woken == [clock.now]

            (again,) = daemon.policies.policy.retrain
            job = daemon.training.submit(TrainSpec(task="tints"))
            assert calendar.due(again) is None  # one is open
            daemon.training.cancel(job.id)
            records = daemon.training.records
            records.keep(records.get(job.id).model_copy(update={"created_s": clock.now}))
            assert f"{calendar.due(again):%a %d %H:%M}" == "Sun 07 03:00"
            clock.set("2026-06-09T08:00")  # the machine slept through Sunday
            await scheduler.get_job("retrain").func()
            assert [each.state for each in daemon.training.jobs()] == [JobState.CANCELLED, JobState.QUEUED]
            daemon.policies.use(str(policy(tmp_path, "plain", "")))
            calendar.plan()
            assert scheduler.get_jobs() == []
        finally:
            scheduler.shutdown(wait=False)
            daemon.store.close()
            daemon._lock.release()

    asyncio.run(inside())
