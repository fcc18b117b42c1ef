"""Fixtures shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings
from running import RunningDaemon, warm
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

settings.register_profile("patchd", deadline=None, max_examples=100)
settings.load_profile("patchd")


class Beside(LoadScopeScheduling):  # type: ignore[misc]
    """Which tests may run beside which: those of the daemon one after another, the others module by module.

    Tests of the daemon start processes, wait for them and look at the device's load; two at a time would disturb each
    other. What trains and computes in the test's own process takes one thread and may run beside them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return "daemon" if "/daemon/" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Beside:
    """Share the tests among the processes of `make test` in this way."""
    return Beside(config, log)


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
