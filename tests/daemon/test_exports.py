"""Models are exported through the daemon, by a process of its own, and fetched whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from patchd.daemon.api.schemas import TaskCreate
from patchd.models.bases import load_base
from patchd.models.patches import save_patch
from patchd.policies.errors import BadInputError, NotFoundError
from patchd.policies.task import ExportFormat, PatchKind, Preprocessing
from patched import moved
from running import RunningDaemon, warm

K = PatchKind


def patchctl(daemon: RunningDaemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "patchd.daemon.cli.main", "--socket", str(daemon.socket), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with RunningDaemon(warm(tmp_path_factory.mktemp("state"))) as running:
        base = load_base("lite0")
        labels = tuple(map(str, range(1000)))
        running.client.add_task(TaskCreate(name="t", labels=labels, resolutions=(32,), preprocessing=Preprocessing()))
        _, path = save_patch(moved(base, (K.SCALE_BIAS, K.GATE, K.HEAD)), tmp_path_factory.mktemp("patch"))
        running.client.import_patch(path.read_bytes())
        yield running


def test_an_exported_model_answers_as_the_daemon_does(daemon: RunningDaemon, tmp_path: Path) -> None:
    (view,) = daemon.client.patches().patches
    file = tmp_path / "m.onnx"
    done = patchctl(daemon, "patch", "export", view.id[:8], "--format", "onnx", "-o", str(file))
    assert done.returncode == 0, done.stderr
    assert "Folded into their neighbours: 49 layers." in done.stdout
    assert "a gate depends on its input." in done.stdout
    inputs = np.random.default_rng(0).standard_normal((3, 32, 32), np.float32)
    answer = daemon.client.infer_tensor("t", inputs.tobytes(), inputs.shape, "FP32")
    (logits,) = onnxruntime.InferenceSession(file).run(None, {"input": inputs[None]})
    assert int(logits[0].argmax()) == answer.predictions[0].index


def test_every_form_can_be_had_with_json_and_only_over_a_file_by_force(daemon: RunningDaemon, tmp_path: Path) -> None:
    (view,) = daemon.client.patches().patches
    for form in ("patch", "safetensors", "openvino"):
        file = tmp_path / form
        done = patchctl(daemon, "patch", "export", view.id, "--format", form, "-o", str(file), "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["bytes"] == file.stat().st_size > 0
        assert (told["report"] is None) == (form == "patch")
    again = patchctl(daemon, "patch", "export", view.id, "-o", str(tmp_path / "patch"))
    assert again.returncode == 5
    assert "is there already" in again.stderr
    assert patchctl(daemon, "patch", "export", view.id, "-o", str(tmp_path / "patch"), "--force").returncode == 0


def test_what_cannot_be_exported_is_refused_in_one_sentence(daemon: RunningDaemon) -> None:
    (view,) = daemon.client.patches().patches
    with pytest.raises(BadInputError, match="'gate' adds layers"):
        daemon.client.export_patch(view.id, ExportFormat.ADAPTER)
    with pytest.raises(NotFoundError):
        daemon.client.export_patch("ffff", ExportFormat.ONNX)
    with pytest.raises(NotFoundError, match="There is no export"):
        daemon.client.export_file("state.db")
    assert any(event.kind == "patch.exported" for event in daemon.client.events().events)
