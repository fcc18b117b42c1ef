"""What training costs, in the daemon: measured before the first slice, corrected by slices, planned with, and told."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patchd.daemon.api.schemas import JobView, TaskCreate, TrainingProfileRun
from patchd.daemon.migrations import MIGRATIONS
from patchd.daemon.sqlite import Database
from patchd.daemon.store import Store
from patchd.daemon.training_costs import TrainingCostBook
from patchd.daemon.training_records import MeasuredTraining, processor, torch_version
from patchd.policies.decision import TrainingPlan
from patchd.policies.errors import BadInputError
from patchd.policies.task import PatchKind, TrainSpec
from patchd.policies.training_corrections import WINDOW, PlanUse
from patchd.policies.training_costs import JobOutline, TrainingCosts, Way
from patchd.policies.training_plan import default_costs
from running import RunningDaemon

ENDED = ("done", "failed", "cancelled")
POLICY = """
[policy]
name = "{name}"
[training]
allocation = {allocation}
raise_after_s = 0
{more}
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that measures by itself, as briefly as it can, with one thread, on a task of small digits."""
    folder = tmp_path_factory.mktemp("costs")
    config = folder / "config.toml"
    config.write_text("measure_training_s = 0.01\nthreads = 1\n")
    with RunningDaemon(folder / "state", "--config", str(config)) as running:
        running.client.add_task(TaskCreate(name="small", data="sklearn:digits", resolutions=(32,)))
        yield running


def trained(daemon: RunningDaemon, **asked: object) -> JobView:
    """A job on few small digits, once it has ended."""
    given = {"task": "small", "max_samples": 16, "batch_size": 8, "epochs": 2, **asked}
    job = daemon.client.submit(TrainSpec.model_validate(given))
    return daemon.until(lambda: (view := daemon.client.job(job.id)).state.value in ENDED and view, 200)


def use(daemon: RunningDaemon, tmp_path: Path, allocation: float, more: str = "", name: str = "other") -> None:
    """Put a policy in force."""
    file = tmp_path / f"{name}.toml"
    file.write_text(POLICY.format(name=name, allocation=allocation, more=more))
    daemon.client.use_policy(path=file)


def kinds_of(daemon: RunningDaemon) -> list[str]:
    return [event.kind for event in daemon.client.events(limit=500).events]


def test_a_base_is_measured_once_before_its_first_slice_and_what_slices_took_is_told(daemon: RunningDaemon) -> None:
    before = daemon.client.explain().decision.plan.text
    assert before.startswith("nothing waits to be trained; a usual job on lite0 would get: ")
    assert before.endswith("estimated from the costs of another machine")
    assert daemon.client.training_profile().measured == ()
    job = trained(daemon)
    assert job.state.value == "done", job.error
    kinds = kinds_of(daemon)
    assert kinds.index("job.queued") < kinds.index("training.measured") < kinds.index("job.started")
    measured = daemon.client.training_profile().measured[0]
    assert (measured.torch, measured.processor) == (torch_version(), processor())
    assert (measured.costs.base, measured.costs.threads) == ("lite0", 1)
    assert [at.resolution for at in measured.costs.at] == [32]
    report = job.plans_run[-1]
    assert sum(ran.samples for ran in job.plans_run) == 32
    assert report.predicted_step_ms is not None
    assert report.predicted_step_ms > 0
    assert report.measured_step_ms > 0
    assert report.predicted_bytes is not None
    seen = measured.costs.corrections[-1]
    assert (seen.resolution, seen.slices >= 1) == (32, True)
    assert "estimated" not in daemon.client.explain().decision.plan.text
    again = trained(daemon)
    assert again.state.value == "done"
    assert kinds_of(daemon).count("training.measured") == 1


def test_costs_are_measured_again_when_asked_and_a_base_that_is_not_there_is_refused(daemon: RunningDaemon) -> None:
    before = kinds_of(daemon).count("training.measured")
    profile = daemon.client.run_training_profile(TrainingProfileRun(base="lite0", resolutions=(32,)))
    assert [at.resolution for at in profile.measured[0].costs.at] == [32]
    assert kinds_of(daemon).count("training.measured") == before + 1
    with pytest.raises(BadInputError, match="no base 'lite9'"):
        daemon.client.run_training_profile(TrainingProfileRun(base="lite9"))


def test_a_plan_is_for_the_job_in_hand_and_says_what_it_refused(daemon: RunningDaemon, tmp_path: Path) -> None:
    use(daemon, tmp_path, 0.0)
    job = daemon.client.submit(TrainSpec(task="small", max_samples=16, epochs=1))
    view = daemon.until(lambda: (shown := daemon.client.job(job.id)).plan and shown)
    assert view.plan.plan.paused
    assert view.waiting == "training pauses: the allocation is 0"
    explained = daemon.client.explain()
    assert explained.decision.plan.job == job.id
    assert any("refused" in sentence for sentence in explained.sentences)
    daemon.client.change_job(job.id, "cancel")
    daemon.until(lambda: daemon.client.explain().decision.plan.job is None)
    past = daemon.client.explain(decision=explained.decision.id)
    assert past.decision.plan.job == job.id


def test_what_memory_does_not_allow_is_refused_in_words(daemon: RunningDaemon, tmp_path: Path) -> None:
    use(daemon, tmp_path, 1.0, "memory_bytes = 1000000", "poor")
    job = daemon.client.submit(TrainSpec(task="small", max_samples=16, epochs=1))
    view = daemon.until(lambda: (shown := daemon.client.job(job.id)).plan and shown)
    assert view.plan.plan.paused
    assert "of memory, and 1 MB are allowed" in view.waiting
    use(daemon, tmp_path, 1.0, "memory_bytes = 400000000", "rich")
    ended = daemon.until(lambda: (shown := daemon.client.job(job.id)).state.value in ENDED and shown, 200)
    assert ended.state.value == "done"
    assert all((ran.plan.memory_bytes or 0) <= 400_000_000 for ran in ended.plans_run)
    assert any("A step may take" in sentence for sentence in daemon.client.explain().sentences)


def test_sparse_unfreezes_tensors_here_and_there_and_the_patch_holds_them(
    daemon: RunningDaemon, tmp_path: Path
) -> None:
    # From the head down not even the first convolution, an eighth of the base, is within so small a share.
    use(daemon, tmp_path, 1.0, 'order = "sparse"\nmax_fraction = 0.05', "sparse")
    job = trained(daemon)
    assert job.state.value == "done", job.error
    assert kinds_of(daemon).count("training.importance") == 1
    plan = job.plans_run[-1].plan
    assert plan.order.value == "sparse"
    order = [tensor.name for unit in default_costs().at[0].units for tensor in unit.plain.tensors]
    convolutions = [name for name in order if name.endswith(".conv.weight")]
    assert plan.tensors
    assert set(plan.tensors) <= set(convolutions)
    assert convolutions[-1] not in plan.tensors
    assert 0 < plan.fraction <= 0.05
    patch = daemon.client.patch(job.results[0].patch_id)
    assert PatchKind.BASE_FRACTION in patch.metadata.kinds
    header = patch_header(daemon.client.patch_file(patch.id))
    unfrozen = {name for name in header if name in convolutions}
    assert unfrozen == {name for ran in job.plans_run for name in ran.plan.tensors}


def patch_header(data: bytes) -> set[str]:
    """Names of the tensors in a safetensors file."""
    size = int.from_bytes(data[:8], "little")
    return set(json.loads(data[8 : 8 + size])) - {"__metadata__"}


# what the state keeps


def a_use(step_ms: float) -> PlanUse:
    return PlanUse(
        plan=TrainingPlan(paused=False, reach=0.0),
        resolution=64,
        batch=32,
        steps=20,
        samples=640,
        seconds=1.0,
        cpu_seconds=1.0,
        step_ms=step_ms,
        step_cpu_ms=step_ms,
    )


def measured(**changes: object) -> MeasuredTraining:
    costs: TrainingCosts = default_costs("lite0").model_copy(update={"measured_s": 1.0, "threads": 1, **changes})
    return MeasuredTraining(torch=torch_version(), processor=processor(), costs=costs)


def test_costs_and_corrections_survive_a_restart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    book = TrainingCostBook(store)
    assert book.costs("lite0", 1).estimated
    assert book.to_measure("lite0", 1, (64,)) == (64,)
    book.put(measured())
    job = JobOutline(kinds=(PatchKind.HEAD,), resolutions=(64,), full_resolution=64)
    for _ in range(3):
        reports = book.observe(job, [a_use(1000.0)])
    kept = book.costs("lite0", 1)
    store.close()
    again = TrainingCostBook(Store(tmp_path))
    assert again.costs("lite0", 1) == kept
    assert not kept.estimated
    assert kept.corrections[0].time == reports[0].time_factor > 1.0
    assert again.to_measure("lite0", 1, (kept.at[0].resolution,)) == ()


def test_slices_in_bf16_are_remembered_beside_those_in_float32(tmp_path: Path) -> None:
    store = Store(tmp_path)
    book = TrainingCostBook(store)
    book.put(measured())
    job = JobOutline(kinds=(PatchKind.HEAD,), resolutions=(64,), full_resolution=64)
    for _ in range(2):
        book.observe(job, [a_use(1000.0), a_use(2000.0).model_copy(update={"bf16": True})])
    store.close()
    seen = TrainingCostBook(Store(tmp_path)).costs("lite0", 1).corrections
    assert [(one.way.bf16, one.slices) for one in seen] == [(False, 2), (True, 2)]


def test_what_slices_showed_before_floats_counted_was_shown_in_float32(tmp_path: Path) -> None:
    database = Database(sqlite3.connect(tmp_path / "patchd.db", isolation_level=None))
    MIGRATIONS.apply(database, stop_before="m014_ways_of_running")
    observed = {"time": [2.0, 2.0], "correction": {"resolution": 64, "lean": True, "time": 2.0, "slices": 2}}
    row = {"base": "lite0", "threads": 1, "resolution": 64, "lean": 1, "keep_features": 0}
    database.table("training_observed").insert({**row, "observed": json.dumps(observed)})
    database.conn.close()
    ((base, threads, found),) = Store(tmp_path).training_observed()
    assert (base, threads, found.correction.way) == ("lite0", 1, Way(64, lean=True))
    assert found.correction.time == 2.0


def test_a_new_measurement_forgets_what_slices_showed_of_the_old_one(tmp_path: Path) -> None:
    store = Store(tmp_path)
    book = TrainingCostBook(store)
    book.put(measured())
    book.observe(JobOutline(kinds=(PatchKind.HEAD,), resolutions=(64,), full_resolution=64), [a_use(1000.0)])
    book.put(measured(measured_s=2.0))
    assert book.costs("lite0", 1).corrections == ()
    assert store.training_observed() == []


def test_costs_that_slices_contradict_for_a_while_are_measured_again(tmp_path: Path) -> None:
    book = TrainingCostBook(Store(tmp_path))
    job = JobOutline(kinds=(PatchKind.HEAD,), resolutions=(64,), full_resolution=64)
    side = measured().costs.at[0].resolution
    for when, again in ((1.0, True), (time.time(), False)):
        book.put(measured(measured_s=when))
        for _ in range(WINDOW - 1):
            book.observe(job, [a_use(1000.0)])
            assert book.to_measure("lite0", 1, (side,)) == ()
        book.observe(job, [a_use(1000.0)])
        assert bool(book.to_measure("lite0", 1, (side,))) is again


@pytest.mark.parametrize("stranger", [{"torch": "1.0"}, {"processor": "another"}])
def test_what_another_torch_or_processor_measured_is_measured_again(tmp_path: Path, stranger: dict[str, str]) -> None:
    store = Store(tmp_path)
    store.put_training_costs(measured().model_copy(update=stranger))
    book = TrainingCostBook(store)
    assert book.to_measure("lite0", 1, (64,)) == (64,)
    assert book.costs("lite0", 1).estimated
    assert book.view().measured == ()


def test_threads_between_the_same_powers_of_two_share_a_measurement(tmp_path: Path) -> None:
    book = TrainingCostBook(Store(tmp_path))
    book.put(measured(threads=2))
    sides = (measured().costs.at[0].resolution,)
    assert book.to_measure("lite0", 3, sides) == ()
    assert book.to_measure("lite0", 4, sides) == sides
    assert book.costs("lite0", 3) == book.costs("lite0", 2)
