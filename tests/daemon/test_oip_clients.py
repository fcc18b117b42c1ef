"""The public clients of Triton and KServe, as they are, are served over TCP and over the Unix socket."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from patchd.daemon.api.schemas import TaskCreate
from running import RunningDaemon, warm

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
FLOWER = ("daisy", 985)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "patchd.toml").write_text('listen = "127.0.0.1:0"\n')
    with RunningDaemon(warm(folder / "state"), "--config", str(folder / "patchd.toml")) as running:
        running.client.add_task(TaskCreate(name="untrained", labels=("a", "b"), resolutions=(64,)))
        yield running


def asked(script: str, daemon: RunningDaemon, way: str, image: Path) -> dict[str, Any]:
    """What a client's script prints, talking to the daemon one way."""
    assert PYTHON.exists(), (
        f"The clients' environment {PYTHON.parents[1]} is missing: run `make test`, which builds it."
    )
    place = f"unix:{daemon.socket}" if way == "unix" else str(daemon.client.status().listen)
    command = [str(PYTHON), str(ROOT / "tests" / "clients" / script), place, str(image)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module", params=["unix", "tcp"])
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def triton(daemon: RunningDaemon, way: str, photographs: dict[str, Path]) -> dict[str, Any]:
    return asked("triton_client.py", daemon, way, photographs["flower"])


@pytest.fixture(scope="module")
def kserve(daemon: RunningDaemon, way: str, photographs: dict[str, Path]) -> dict[str, Any]:
    return asked("kserve_client.py", daemon, way, photographs["flower"])


def test_triton_reads_health_metadata_and_repository(triton: dict[str, Any], way: str) -> None:
    assert (triton["live"], triton["ready"], triton["model_ready"], triton["untrained_ready"]) == (
        True,
        True,
        True,
        False,
    )
    assert triton["server"]["name"] == "patchd"
    assert [one["name"] for one in triton["metadata"]["inputs"]] == ["image", "pixels", "input"]
    assert triton["config"]["name"] == "imagenet"
    assert {one["name"]: one["state"] for one in triton["index"]} == {"imagenet": "READY", "untrained": "UNAVAILABLE"}
    assert "no task named 'nope'" in triton["unknown"]["message"]
    assert triton["statistics"]["model_stats"][0]["inference_count"] >= 10
    if way == "unix":
        assert triton["load"] is None
        assert (triton["unload"]["status"], "cannot be unloaded" in triton["unload"]["message"]) == ("400", True)
    else:
        assert triton["load"]["status"] == triton["unload"]["status"] == "403"
        assert "may not do this" in triton["load"]["message"]


@pytest.mark.parametrize("form", ["binary", "json", "gzip", "deflate", "wishes", "background", "aio", "aio_gzip"])
def test_triton_gets_the_same_prediction_in_every_form(triton: dict[str, Any], form: str) -> None:
    answer = triton[form]
    assert (answer["label"]["values"][0], answer["index"]["values"][0]) == FLOWER
    assert answer["probabilities"]["dtype"] == "float32"
    assert answer["probabilities"]["shape"] == [1, 1000]
    assert answer["probabilities"]["values"] == pytest.approx(triton["binary"]["probabilities"]["values"], abs=1e-6)
    sent_binary = ["parameters" in output for output in answer["response"]["outputs"]]
    assert sent_binary == [form != "json"] * 3


def test_triton_gets_mixed_forms_batches_and_its_identity(triton: dict[str, Any]) -> None:
    assert triton["binary"]["response"]["id"] == "mine"
    assert triton["binary"]["response"]["parameters"]["patchd_engine"]
    assert ["data" in output for output in triton["mixed"]["response"]["outputs"]] == [False, True]
    assert triton["mixed"]["label"]["values"] == ["daisy"]
    assert triton["mixed"]["probabilities"]["values"] == triton["binary"]["probabilities"]["values"]
    assert triton["batch"]["label"]["values"] == ["daisy", "daisy"]
    assert triton["batch"]["probabilities"]["shape"] == [2, 1000]
    assert (triton["aio_live"], triton["aio_json"]["label"]["values"]) == (True, ["daisy"])


def agree(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Numbers that went through JSON are the same up to their digits."""
    assert one["probabilities"]["values"] == pytest.approx(other["probabilities"]["values"], abs=1e-6)


def test_triton_sends_tensors_in_binary_and_json(triton: dict[str, Any]) -> None:
    for form in ("pixels", "finished"):
        agree(triton[form], triton[f"{form}_json"])
        assert triton[form]["response"]["parameters"]["patchd_resolution"] == 96


def test_triton_reads_errors(triton: dict[str, Any]) -> None:
    assert (triton["late"]["status"], "deadline" in triton["late"]["message"]) == ("504", True)
    assert (triton["broken"]["status"], "not an image" in triton["broken"]["message"]) == ("400", True)


def test_kserve_reads_health(kserve: dict[str, Any]) -> None:
    found = [kserve[key] for key in ("live", "ready", "model_ready", "untrained_ready")]
    assert found == [True, True, True, False]


@pytest.mark.parametrize("form", ["binary", "json", "mixed"])
def test_kserve_gets_the_same_prediction_in_every_form(kserve: dict[str, Any], form: str) -> None:
    assert kserve[form]["label"]["values"] == ["daisy"]
    assert kserve[form]["model"] == "imagenet"
    agree(kserve[form], kserve["binary"])


def test_kserve_sends_tensors_in_binary_and_json(kserve: dict[str, Any]) -> None:
    assert kserve["binary"]["id"] == "mine"
    for form in ("pixels", "finished"):
        agree(kserve[form], kserve[f"{form}_json"])
        assert kserve[form]["parameters"]["patchd_resolution"] == 96


def test_kserve_reads_errors(kserve: dict[str, Any]) -> None:
    assert kserve["broken"]["status"] == 400
    assert "not an image" in kserve["broken"]["message"]
