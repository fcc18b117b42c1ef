"""A patch in force can be taken back: the one before answers again, and at last the base as it is."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from patchd.models.bases import Base, load_base
from patchd.models.patches import save_patch
from patchd.policies.errors import ConflictError, NotFoundError
from patchd.policies.labels import imagenet_labels
from patchd.policies.task import Evaluation, PatchKind, TrainingRecord
from patched import moved
from running import RunningDaemon


@pytest.fixture(scope="module")
def lite0() -> Base:
    return load_base("lite0")


def imported(daemon: RunningDaemon, base: Base, folder: Path, side: int, validation: float) -> str:
    """A patch of the task imagenet for `side`, said to have this validation accuracy; its id."""
    patch = moved(base, (PatchKind.SCALE_BIAS,))
    score = Evaluation(accuracy=validation, samples=100, low=0.0, high=1.0)
    record = TrainingRecord(
        job_id="job-1", kinds=(PatchKind.SCALE_BIAS,), epochs=1, steps=1, train_samples=8, seed=0,
        learning_rate=0.1, batch_size=8, seconds=1.0, validation=score, validation_digest="a" * 64,
    )  # fmt: skip
    update = {"task": "imagenet", "labels": imagenet_labels(), "resolution": side, "training": record}
    made = replace(patch, metadata=patch.metadata.model_copy(update=update))
    return daemon.client.import_patch(save_patch(made, folder)[1].read_bytes()).id


def in_force(daemon: RunningDaemon, side: int) -> str | None:
    rungs = daemon.client.task("imagenet").pool
    return next(rung.patch_id for rung in rungs if (rung.base, rung.resolution) == ("lite0", side))


def patchctl(daemon: RunningDaemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "patchd.daemon.cli.main", "--socket", str(daemon.socket), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_rollback_takes_one_patch_back_down_to_the_bare_base(
    daemon: RunningDaemon, lite0: Base, tmp_path: Path
) -> None:
    first = imported(daemon, lite0, tmp_path, 96, 0.5)
    worse = imported(daemon, lite0, tmp_path, 96, 0.4)
    second = imported(daemon, lite0, tmp_path, 96, 0.6)
    assert in_force(daemon, 96) == second
    done = patchctl(daemon, "patch", "rollback", "imagenet", "--resolution", "96")
    assert done.returncode == 0, done.stderr
    assert first[:8] in done.stdout
    assert second[:8] in done.stdout
    assert in_force(daemon, 96) == first
    told = patchctl(daemon, "patch", "rollback", "imagenet", "--base", "lite0", "--json")
    assert json.loads(told.stdout)["rungs"] == [
        {"base": "lite0", "resolution": 96, "patch_id": None, "taken_back": first}
    ]
    assert in_force(daemon, 96) is None
    refused = patchctl(daemon, "patch", "rollback", "imagenet", "--resolution", "96")
    assert refused.returncode == 5
    assert "has no earlier patch of lite0 at 96 px" in refused.stderr
    stored = {patch.id for patch in daemon.client.patches("imagenet").patches}
    assert {first, worse, second} <= stored
    kinds = [event.kind for event in daemon.client.events().events]
    assert kinds.count("patch.rolled_back") == 2


def test_the_history_outlives_the_daemon_and_forgets_removed_patches(
    daemon: RunningDaemon, lite0: Base, tmp_path: Path
) -> None:
    first, second, third = (imported(daemon, lite0, tmp_path, 128, share) for share in (0.5, 0.6, 0.7))
    daemon.kill()
    daemon.start()
    daemon.client.remove_patch(second)
    assert daemon.client.roll_back("imagenet", resolution=128).rungs[0].patch_id == first
    assert in_force(daemon, 128) == first
    assert third in {patch.id for patch in daemon.client.patches("imagenet").patches}


def test_a_rung_that_is_none_and_a_task_that_is_none_are_named(daemon: RunningDaemon) -> None:
    with pytest.raises(NotFoundError, match="no rung of base 'lite0' at 100 px"):
        daemon.client.roll_back("imagenet", resolution=100)
    with pytest.raises(NotFoundError, match="no task named 'nothing'"):
        daemon.client.roll_back("nothing")
    with pytest.raises(ConflictError, match="no earlier patch of lite2"):
        daemon.client.roll_back("imagenet", base="lite2")
