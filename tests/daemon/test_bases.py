"""Tasks with rungs of several bases: stored, trained, priced and asked for beside the ladder of the task's own base."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bodies
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.daemon.api.schemas import InferAnswer, ProfileRun, TaskCreate
from patchd.daemon.app import Daemon
from patchd.daemon.config import DaemonConfig
from patchd.daemon.events import EventLog
from patchd.daemon.migrations import MIGRATIONS
from patchd.daemon.sqlite import Database
from patchd.daemon.store import Store
from patchd.daemon.task_service import TaskService
from patchd.policies.decision import Decision
from patchd.policies.errors import BadInputError, NotFoundError
from patchd.policies.ladder import choose_rung
from patchd.policies.task import BaseRungs, Evaluation, JobState, PatchMetadata, TaskSpec, TrainSpec
from PIL import Image
from pydantic import ValidationError
from running import RunningDaemon
from sklearn.datasets import load_digits

LITE1 = BaseRungs(base="lite1", resolutions=(64,))
DIGITS = TaskCreate(name="digits", data="sklearn:digits", resolutions=(96, 64), others=(LITE1,))
ON_LITE1 = TrainSpec(task="digits", base="lite1", epochs=1, max_samples=32, batch_size=16)


@pytest.fixture(scope="module")
def digit() -> bytes:
    encoded = io.BytesIO()
    Image.fromarray((load_digits().images[0] * 15.9).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


@contextmanager
def opened(state: Path) -> Iterator[tuple[Store, TaskService]]:
    store = Store(state)
    try:
        yield store, TaskService(store, EventLog(store))
    finally:
        store.close()


def metadata(base: str, resolution: int, validation: float, task: str = "t") -> PatchMetadata:
    score = Evaluation(accuracy=validation, samples=100, low=0, high=1)
    training = bodies.PATCH_VIEW.metadata.training.model_copy(update={"validation": score, "test": score})
    changes = {"base": base, "resolution": resolution, "task": task, "labels": ("a", "b"), "training": training}
    return bodies.PATCH_VIEW.metadata.model_copy(update=changes)


# what is declared


@pytest.mark.parametrize(
    ("others", "says"), [(("lite0",), "'lite0' is the task's own"), (("lite1", "lite1"), "'lite1' is named twice")]
)
def test_a_task_names_each_base_once(others: tuple[str, ...], says: str) -> None:
    rungs = tuple(BaseRungs(base=base, resolutions=(64,)) for base in others)
    with pytest.raises(ValidationError, match=says):
        TaskSpec(name="t", labels=("a", "b"), resolutions=(96,), others=rungs)
    with pytest.raises(ValidationError, match=says):
        TaskCreate(name="t", labels=("a", "b"), others=rungs)


def test_what_older_versions_stored_is_still_read() -> None:
    spec = bodies.TASK.spec
    assert TaskSpec.model_validate_json(spec.model_dump_json(exclude={"others"})) == spec
    assert TrainSpec.model_validate_json('{"task": "t"}').base is None
    old = bodies.DECISION.model_dump(mode="json")
    for candidate in old["rungs"][0]["candidates"]:
        del candidate["rung"]["base"]
    read = Decision.model_validate_json(json.dumps(old))
    assert [candidate.rung.base for candidate in read.rungs[0].candidates] == ["", ""]


# what is stored


def test_a_database_of_the_first_schema_keeps_its_rungs(tmp_path: Path) -> None:
    own = TaskSpec(name="t", base="lite1", labels=("a", "b"), resolutions=(96, 64))
    old = TaskSpec(name="imagenet", labels=("x", "y"), resolutions=(224,), builtin=True)
    database = Database(sqlite3.connect(tmp_path / "patchd.db", isolation_level=None))
    MIGRATIONS.apply(database, stop_before="m002_rungs_of_several_bases")
    for spec in (own, old):
        row = {"name": spec.name, "spec": spec.model_dump_json(exclude={"others"}), "created_s": 5.0}
        database.table("tasks").insert(row)
    for task, side in (("t", 64), ("t", 96), ("gone", 64)):
        row = {"task": task, "resolution": side, "patch_id": f"{side}" * 32, "accuracy": 0.5, "accuracy_samples": 9}
        database.table("rungs").insert({**row, "validation": 0.5, "since_s": 6.0})
    database.conn.close()
    for _ in range(2):  # the second start finds what the first one made of it
        with opened(tmp_path) as (store, tasks):
            assert store.rungs() == [
                {
                    "task": "t",
                    "base": "lite1",
                    "resolution": side,
                    "patch_id": f"{side}" * 32,
                    "accuracy": 0.5,
                    "accuracy_samples": 9,
                    "validation": 0.5,
                    "since_s": 6.0,
                }
                for side in (64, 96)
            ]
            assert [(rung.base, rung.resolution) for rung in tasks.pool("t")] == [("lite1", 64), ("lite1", 96)]
            assert tasks.ladders["t"].rungs == tasks.pool("t")
            assert tasks.add_patch("0" * 64, 1, metadata("lite1", 64, 0.4))[0] is False
            spec, created_s = tasks.tasks["imagenet"]
            assert (len(spec.labels), created_s) == (1000, 5.0)  # the built-in task is this version's
            assert dict(spec.bases) == {"lite0": (224, 192, 160, 128, 96), "lite1": (240,), "lite2": (260,)}


ACCURACIES = st.sampled_from([0.25, 0.5, 0.75])
PATCHES = st.lists(st.tuples(st.sampled_from(["lite0", "lite1", "lite2"]), st.sampled_from([64, 96]), ACCURACIES))


@settings(max_examples=25)
@given(PATCHES)
def test_the_best_patch_of_each_base_and_resolution_is_in_force_and_the_ladder_is_of_the_own_base(patches) -> None:
    others = tuple(BaseRungs(base=base, resolutions=(96, 64)) for base in ("lite2", "lite1"))
    with tempfile.TemporaryDirectory() as state, opened(Path(state)) as (_, tasks):
        tasks.create(TaskCreate(name="t", labels=("a", "b"), resolutions=(64, 96), others=others), ("a", "b"))
        best: dict[tuple[str, int], float] = {}
        for number, (base, side, accuracy) in enumerate(patches):
            better, _ = tasks.add_patch(f"{number:064x}", 1, metadata(base, side, accuracy))
            assert better == (accuracy > best.get((base, side), 0.0))
            best[base, side] = max(accuracy, best.get((base, side), 0.0))
        pool = tasks.pool("t")
        assert {(rung.base, rung.resolution): rung.accuracy for rung in pool} == best
        order = [(("lite0", "lite2", "lite1").index(rung.base), rung.resolution) for rung in pool]
        assert order == sorted(order)
        own = tuple(rung for rung in pool if rung.base == "lite0")
        assert (own == tasks.ladders["t"].rungs) if own else ("t" not in tasks.ladders)
        if own:
            assert choose_rung(tasks.ladders["t"], 1.0).patch_id in {rung.patch_id for rung in own}
        for rung in pool:
            ref = tasks.rung_ref("t", rung.resolution, rung.base)
            assert (ref.base, ref.resolution, ref.patch_id) == (rung.base, rung.resolution, rung.patch_id)


def test_the_costs_of_a_pool_are_measured_on_demand_and_only_then(tmp_path: Path, monkeypatch) -> None:
    small = (BaseRungs(base="lite1", resolutions=(64,)), BaseRungs(base="lite2", resolutions=(68,)))
    monkeypatch.setattr("patchd.daemon.inference_worker.CALIBRATION_REPEATS", 1)
    monkeypatch.setattr("patchd.daemon.task_service.IMAGENET_RESOLUTIONS", (64,))
    monkeypatch.setattr("patchd.daemon.task_service.IMAGENET_OTHERS", small)

    async def measured() -> None:
        daemon = Daemon(DaemonConfig(engine="torch"), tmp_path / "state", tmp_path / "s")
        try:
            await daemon.inference.load("imagenet")
            assert {cost.base for cost in daemon.tasks.costs} == {"lite0"}
            pool = await daemon.inference.worker.measure_pool("imagenet")
            assert [(rung.base, rung.resolution) for rung in pool] == [("lite0", 64), ("lite1", 64), ("lite2", 68)]
            assert all(rung.cost_ms for rung in pool)
            assert daemon.tasks.cost_ms("imagenet", 68, "lite2") == pool[-1].cost_ms
            assert daemon.tasks.cost_ms("imagenet", 68) is None
        finally:
            await daemon.inference.drain(10)

    asyncio.run(measured())


# what is asked for


def test_the_rungs_of_another_base_are_trained_in_force_and_answer_by_its_name(
    cold: RunningDaemon, digit: bytes
) -> None:
    client = cold.client
    added = client.add_task(DIGITS)
    assert (added.spec.others, added.pool, added.ladder) == ((LITE1,), (), None)
    with pytest.raises(NotFoundError, match=r"no patch for base lite1 yet.*--task digits --base lite1"):
        client.infer("digits", digit, base="lite1")
    with pytest.raises(BadInputError, match=r"has no rungs of base 'lite2'\. It has rungs of lite0, lite1\."):
        client.submit(ON_LITE1.model_copy(update={"base": "lite2"}))
    with pytest.raises(BadInputError, match=r"no rung of lite1 at 96 px\. Its rungs of lite1: 64\."):
        client.submit(ON_LITE1.model_copy(update={"resolutions": (96,)}))
    job = client.submit(ON_LITE1)
    assert (job.spec.base, job.spec.resolutions) == ("lite1", (64,))
    ended = (JobState.DONE, JobState.FAILED)
    done = cold.until(lambda: (now := client.job(job.id)).state in ended and now, 100)
    assert done.state is JobState.DONE, done.error
    made = done.results[0].patch_id
    assert done.results[0].published
    assert client.patch(made).metadata.base == "lite1"
    task = client.task("digits")
    assert task.ladder is None  # and so nothing is decided for it
    assert [(rung.base, rung.resolution, rung.patch_id) for rung in task.pool] == [("lite1", 64, made)]
    assert [rung.task for rung in client.explain().decision.rungs] == ["imagenet"]
    for resolution in (64, None):
        answer = client.infer("digits", digit, base="lite1", resolution=resolution)
        assert (answer.base, answer.resolution, answer.patch_id) == ("lite1", 64, made)
        assert answer.why.startswith("lite1, for which the caller asked; ")
    assert {cost.base for cost in client.profile().costs} == {"lite1"}
    assert client.task("digits").pool[0].cost_ms
    for base, says in {
        None: "has no patch yet",
        "lite0": "has no patch yet",
        "lite9": "no rungs of base 'lite9'",
    }.items():
        with pytest.raises(NotFoundError, match=says):
            client.infer("digits", digit, base=base)
    with pytest.raises(NotFoundError, match=r"no rung of lite1 at 96 px\. Its rungs of lite1: 64\."):
        client.infer("digits", digit, base="lite1", resolution=96)

    data = client.patch_file(made)
    cold.kill()
    cold.start()
    assert client.infer("digits", digit, base="lite1").patch_id == made
    client.remove_task("digits")
    client.add_task(DIGITS.model_copy(update={"others": ()}))
    with pytest.raises(BadInputError, match=r"made for base lite1 and 10 labels; task 'digits' has base lite0 and 10"):
        client.import_patch(data)
    client.remove_task("digits")
    client.add_task(DIGITS.model_copy(update={"others": (BaseRungs(base="lite1", resolutions=(128,)),)}))
    with pytest.raises(BadInputError, match=r"for lite1 at 64 px, which is no rung of task 'digits' \(it has 128 px\)"):
        client.import_patch(data)


def test_the_built_in_task_answers_on_every_base_and_loads_one_only_when_it_is_named(
    daemon: RunningDaemon, photographs: dict[str, Path]
) -> None:
    image = photographs["china"].read_bytes()
    plain = daemon.client.infer("imagenet", image)
    assert (plain.base, plain.resolution) == ("lite0", 224)
    assert {cost.base for cost in daemon.client.profile().costs} == {"lite0"}
    named = daemon.client.infer("imagenet", image, base="lite2", resolution=260)
    assert (named.base, named.resolution, named.predictions[0].label) == ("lite2", 260, "palace")
    own = daemon.client.infer("imagenet", image, base="lite0")
    assert (own.base, own.resolution, own.predictions) == ("lite0", 224, plain.predictions)
    assert {cost.base for cost in daemon.client.profile().costs} == {"lite0", "lite2"}
    measured = daemon.client.run_profile(ProfileRun(base="lite2", repeats=1)).costs
    assert [cost.resolution for cost in measured if cost.base == "lite2"] == [260]
    assert {(latency.base, latency.resolution) for latency in daemon.client.profile().requests} == {
        ("lite0", 224),
        ("lite2", 260),
    }


def test_a_base_is_named_in_json_and_by_the_open_inference_protocol_too(daemon: RunningDaemon) -> None:
    pixels = [127] * (8 * 8 * 3)
    tensor = {"shape": [8, 8, 3], "datatype": "UINT8", "data": pixels}
    body = json.dumps({"tensor": tensor, "base": "lite2"}).encode()
    answer = InferAnswer.model_validate_json(daemon.client.request("POST", "/v1/tasks/imagenet/infer", body=body))
    assert (answer.base, answer.resolution) == ("lite2", 260)
    given = {"inputs": [{"name": "pixels", **tensor}], "outputs": [{"name": "label"}]}
    for key, base, side in (("base", "lite2", 260), ("patchd_base", "lite0", 96)):  # an image of 8 px: the nearest rung
        body = json.dumps({**given, "parameters": {key: base}}).encode()
        told = json.loads(daemon.client.request("POST", "/v2/models/imagenet/infer", body=body))["parameters"]
        assert (told["patchd_base"], told["patchd_resolution"]) == (base, side)
    for parameters, error, says in (
        ({"base": 2}, BadInputError, "The parameter 'base' is 2; it must be the name of a base network"),
        ({"base": "lite9"}, NotFoundError, "Task 'imagenet' has no rungs of base 'lite9'"),
        ({"base": "lite1", "patchd_base": "lite1"}, BadInputError, "mean the same"),
    ):
        body = json.dumps({**given, "parameters": parameters}).encode()
        with pytest.raises(error, match=says):
            daemon.client.request("POST", "/v2/models/imagenet/infer", body=body)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"others": [{"base": "lite0", "resolutions": [64]}]}, "^The other bases of a task are each named once"),
        ({"others": [{"base": "lite9", "resolutions": [64]}]}, "There is no base 'lite9'"),
        ({"others": [{"base": "lite2", "resolutions": []}]}, "others.0.resolutions"),
        ({"others": [{"base": "lite2", "resolutions": [90]}]}, "multiple of 4"),
        ({"resolutions": []}, "resolutions"),
    ],
)
def test_a_task_whose_bases_cannot_be_is_refused_in_one_sentence(
    daemon: RunningDaemon, body: dict[str, object], says: str
) -> None:
    sent = json.dumps({"name": "wrong", "labels": ["a", "b"], **body}).encode()
    with pytest.raises(BadInputError, match=says):
        daemon.client.request("POST", "/v1/tasks", body=sent)
