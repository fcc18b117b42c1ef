"""The worked examples run against a real daemon, and docs/client.md shows them as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import STEADY, RunningDaemon, warm

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted(file.name for file in (ROOT / "examples").iterdir() if file.is_file())
RUN_BY = {".py": sys.executable, ".sh": "sh", ".mjs": "node"}
WRITTEN_IN = {".py": "python", ".sh": "sh", ".mjs": "js"}
SINGLE = [name for name in EXAMPLES if name != "python_async.py"]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A daemon that lets applications hand over what it learns from."""
    folder = tmp_path_factory.mktemp("worked")
    policy = folder / "policy.toml"
    policy.write_text(STEADY + "[examples]\nconsent = true\n")
    with RunningDaemon(warm(folder / "state"), "--policy", str(policy)) as running:
        yield running


def run(name: str, daemon: RunningDaemon, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = RUN_BY[Path(name).suffix]
    for needed in (program, *(["curl"] if name == "curl.sh" else [])):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed")
    command = [program, str(ROOT / "examples" / name), *map(str, arguments)]
    environ = {**os.environ, "PATCHD_SOCKET": str(daemon.socket)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environ, check=False)


@pytest.mark.parametrize("name", SINGLE)
def test_an_image_is_classified_explained_and_corrected(name, daemon, photographs) -> None:
    best = daemon.client.infer("imagenet", photographs["china"].read_bytes()).predictions[0].label
    done = run(name, daemon, "imagenet", photographs["china"], best)
    assert done.returncode == 0, done.stderr
    assert best in done.stdout
    assert "allocation" in done.stdout
    if name != "curl.sh":  # which hands on whatever it is told
        assert daemon.client.examples("imagenet").images == 0
    done = run(name, daemon, "imagenet", photographs["china"], "goldfish")
    assert done.returncode == 0, done.stderr
    found = daemon.client.examples("imagenet").examples[-1]
    assert (found.label, found.source) == ("goldfish", "correction")
    assert found.id in done.stdout
    assert daemon.client.example_image("imagenet", found.id) == photographs["china"].read_bytes()
    daemon.client.remove_examples("imagenet")


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_went_wrong_is_told_in_the_daemons_words(name, daemon, photographs) -> None:
    done = run(name, daemon, "weather", photographs["china"])
    assert done.returncode != 0
    assert "There is no task named 'weather'" in done.stderr
    assert "Traceback" not in done.stderr


def test_many_images_are_classified_while_events_are_heard(daemon, photographs) -> None:
    files = [photographs["china"], photographs["flower"]] * 3
    done = run("python_async.py", daemon, "imagenet", *files)
    assert done.returncode == 0, done.stderr
    answers = [line for line in done.stdout.splitlines() if ".jpg: " in line]
    assert [line.split(":")[0] for line in answers] == [str(file) for file in files]
    assert "under policy steady" in done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_document_shows_the_example_as_it_is(name) -> None:
    text = (ROOT / "examples" / name).read_text()
    shown = f"```{WRITTEN_IN[Path(name).suffix]}\n{text}```\n"
    assert shown in (ROOT / "docs" / "client.md").read_text(), f"copy examples/{name} into docs/client.md"
