"""Base versions in the daemon: tasks answer on several at once, move when they have patches, and none in use goes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from inference_worker import head_patch
from patchd.daemon.api.schemas import ProfileRun, TaskCreate
from patchd.daemon.cli.main import cli
from patchd.daemon.events import EventLog
from patchd.daemon.store import Store
from patchd.daemon.task_service import TaskService
from patchd.models.base_versions import BaseVersion, save_version
from patchd.models.bases import Base, fingerprint, load_base
from patchd.models.patches import save_patch
from patchd.policies.base_version import VersionMetadata
from patchd.policies.errors import BadInputError, ConflictError, NotFoundError
from patchd.policies.task import ExportFormat
from PIL import Image
from running import RunningDaemon

CHANGED = "neck.conv.weight"
SIDE = 64


@dataclass(frozen=True)
class Prepared:
    """A daemon with tasks `one` and `two` that answer on lite0, and a version for which `one` alone has a patch."""

    daemon: RunningDaemon
    version: str
    patches: dict[str, str]  # by base, of task one


def _registered(state: Path) -> tuple[str, dict[str, str]]:
    base = load_base("lite0")
    changed = base.tensors[CHANGED].flip(0).contiguous()
    network = load_base("lite0").network
    network.load_state_dict({**base.tensors, CHANGED: changed})
    metadata = VersionMetadata(
        base="lite0", base_hash=base.hash, hash=fingerprint(network), parent="lite0", parent_hash=base.hash,
        tasks=("one", "two"), job_id="job-1", parameters=changed.numel(), created_s=5.0,
    )  # fmt: skip
    store = Store(state)
    try:
        tasks = TaskService(store, EventLog(store))
        name, path = save_version(BaseVersion(metadata, {CHANGED: changed}), store.bases_dir)
        store.put_base_version(name, path.stem, path.stat().st_size, metadata)
        version = load_base(name, store.bases_dir)
        patches = {}
        for task, on in (("one", base), ("two", base), ("one", version)):
            if task not in tasks.tasks:
                made = TaskCreate(name=task, labels=("0", "1", "2"), resolutions=(SIDE,))
                tasks.create(made, made.labels)
            patches[f"{task} {on.name}"] = _patch(tasks, store, on, task)
        return name, {base: patches[f"one {base}"] for base in ("lite0", name)}
    finally:
        store.close()


def _patch(tasks: TaskService, store: Store, base: Base, task: str) -> str:
    changes = {"task": task, "resolution": SIDE}
    patch = head_patch(base, 3, seed=1, **changes)
    patch_id, path = save_patch(patch, store.patches_dir)
    tasks.add_patch(patch_id, path.stat().st_size, patch.metadata)
    return patch_id


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    torch.set_num_threads(1)
    state = tmp_path_factory.mktemp("state")
    version, patches = _registered(state)
    with RunningDaemon(state) as daemon:
        yield Prepared(daemon, version, patches)


@pytest.fixture(scope="module")
def image() -> bytes:
    encoded = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    Image.fromarray(noise).save(encoded, "PNG")
    return encoded.getvalue()


def ctl(daemon: RunningDaemon, *arguments: str) -> str:
    ran = CliRunner().invoke(cli, ["--socket", str(daemon.socket), *arguments])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_the_versions_are_listed_with_who_uses_them_and_who_could(prepared: Prepared) -> None:
    client = prepared.daemon.client
    views = {view.name: view for view in client.bases().bases}
    assert list(views) == ["lite0", prepared.version, "lite1", "lite2"]
    assert [use.task for use in views["lite0"].used_by] == ["imagenet", "one", "two"]
    version = client.base(prepared.version)
    assert version.used_by == ()
    assert [(use.task, use.resolutions) for use in version.ready] == [("one", (SIDE,))]
    assert version.bytes is not None
    assert version.metadata.parameters < version.bytes / 4 < version.metadata.parameters * 1.01  # only what differs
    assert prepared.version in ctl(prepared.daemon, "base", "list")
    assert "one (64 px)" in ctl(prepared.daemon, "base", "show", prepared.version)
    with pytest.raises(NotFoundError, match="no base 'lite0@00000000'"):
        client.base("lite0@00000000")


def test_a_patch_for_a_version_waits_until_its_task_moves(prepared: Prepared) -> None:
    view = prepared.daemon.client.patch(prepared.patches[prepared.version])
    assert not view.in_force
    assert prepared.daemon.client.patch(prepared.patches["lite0"]).in_force


def test_a_task_moves_only_with_patches_and_answers_on_its_version_while_others_stay(
    prepared: Prepared, image: bytes
) -> None:
    client, version = prepared.daemon.client, prepared.version
    with pytest.raises(ConflictError, match=f"Task 'two' has no patch for {version} at 64 px") as refused:
        client.move_task("two", version)
    assert "patchctl train submit --task two" in str(refused.value)
    with pytest.raises(ConflictError, match="built in"):
        client.move_task("imagenet", version)
    with pytest.raises(BadInputError, match="no rungs of base 'lite1'"):
        client.move_task("one", "lite1")
    before = client.infer("one", image)
    assert before.base == "lite0"
    assert f"answers on {version} at 64 px" in ctl(prepared.daemon, "task", "move", "one", "--to", version)
    there, other = client.infer("one", image), client.infer("two", image)
    assert (there.base, there.patch_id) == (version, prepared.patches[version])
    assert other.base == "lite0"
    probability = {p.label: p.probability for p in before.predictions}
    assert {p.label: p.probability for p in other.predictions} == probability  # the same head on the same base
    assert {p.label: p.probability for p in there.predictions} != probability  # on another one
    costs = {(cost.base, cost.resolution) for cost in client.profile().costs}
    assert {("lite0", SIDE), (version, SIDE)} <= costs
    client.run_profile(ProfileRun(base=version, resolutions=(SIDE,), repeats=1))
    with pytest.raises(ConflictError, match=f"Task 'one' answers on {version}") as in_use:
        client.remove_base(version)
    assert "patchctl task move one --to lite0" in str(in_use.value)
    body = json.loads(ctl(prepared.daemon, "task", "move", "one", "--to", "lite0", "--json"))
    assert body["spec"]["base"] == "lite0"
    back = client.infer("one", image)
    assert {p.label: p.probability for p in back.predictions} == probability


def test_a_patch_on_a_version_is_exported_as_a_model_and_imported_again(prepared: Prepared) -> None:
    client, patch = prepared.daemon.client, prepared.patches[prepared.version]
    assert client.export_patch(patch, ExportFormat.SAFETENSORS).bytes > 10_000_000
    data = client.patch_file(patch)
    client.remove_patch(patch)
    assert client.base(prepared.version).ready == ()
    assert client.import_patch(data).id == patch
    assert [use.task for use in client.base(prepared.version).ready] == ["one"]


def test_a_new_task_may_begin_on_a_version_which_then_cannot_go(prepared: Prepared) -> None:
    client = prepared.daemon.client
    client.add_task(TaskCreate(name="three", labels=("a", "b"), base=prepared.version, resolutions=(SIDE,)))
    with pytest.raises(ConflictError, match="Task 'three' answers on"):
        client.remove_base(prepared.version)
    client.remove_task("three")
    with pytest.raises(BadInputError, match=f"Known bases: lite0, lite1, lite2, {prepared.version}"):
        client.add_task(TaskCreate(name="four", labels=("a", "b"), base="lite0@00000000"))


def test_a_version_goes_with_its_patches_and_files_and_a_packaged_base_never(prepared: Prepared) -> None:
    client, state = prepared.daemon.client, prepared.daemon.state
    with pytest.raises(ConflictError, match="comes with a package"):
        client.remove_base("lite0")
    file = state / "bases" / f"{client.base(prepared.version).sha256}.safetensors"
    assert file.exists()
    assert "deleted" in ctl(prepared.daemon, "base", "rm", prepared.version)
    assert not file.exists()
    with pytest.raises(NotFoundError):
        client.patch(prepared.patches[prepared.version])
    assert client.patch(prepared.patches["lite0"]).in_force
