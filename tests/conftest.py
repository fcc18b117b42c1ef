"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from running import RunningDaemon, warm

settings.register_profile("patchd", deadline=None, max_examples=100)
settings.load_profile("patchd")


@pytest.fixture(scope="session")
def photographs() -> dict[str, Path]:
    """Two photographs that scikit-learn ships."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "images"
    return {name: folder / f"{name}.jpg" for name in ("china", "flower")}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """A real daemon that the tests of one module share; it has answered a prediction before."""
    with RunningDaemon(warm(tmp_path_factory.mktemp("state"))) as running:
        yield running


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A real daemon of one test's own; it has answered a prediction before."""
    with RunningDaemon(warm(tmp_path / "state")) as running:
        yield running


@pytest.fixture
def cold(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A real daemon of one test's own, on an empty state: nothing has been measured or compiled yet."""
    with RunningDaemon(tmp_path / "state") as running:
        yield running
