"""The configuration file: what is wrong in it is said in one sentence, and the documentation tells it as it is."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patchd.daemon.config import DaemonConfig, load_config, resolved
from patchd.policies.errors import ConfigError

INSTALL = (Path(__file__).parents[2] / "docs" / "install.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(\w+)` \| `([^`]+)` \| .+ \|$", re.MULTILINE)


def test_the_table_in_the_documentation_has_every_key_with_its_default() -> None:
    told = dict(ROW.findall(INSTALL))
    assert list(told) == list(DaemonConfig.model_fields)
    values = {key: tomllib.loads(f"v = {text}")["v"] for key, text in told.items() if text != "none"}
    assert DaemonConfig.model_validate(values) == DaemonConfig()
    assert {key for key, text in told.items() if text == "none"} == {
        key for key, field in DaemonConfig.model_fields.items() if field.default is None
    }


def test_the_example_in_the_documentation_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(INSTALL.partition("```toml\n")[2].partition("```")[0])
    assert load_config(tmp_path / "c.toml").admin_users == ("anna",)


def test_an_unknown_key_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("treads = 2\n")
    with pytest.raises(ConfigError, match="key 'treads' is not known") as caught:
        load_config(tmp_path / "c.toml")
    assert all(key in str(caught.value) for key in DaemonConfig.model_fields)


@pytest.mark.parametrize(
    "line",
    ["socket_mode = 0o1777", "sample_period_s = 0.01", "queue_limit = 0", "admin_users = 'anna'", "max_body_bytes = 1"],
)
def test_a_value_out_of_bounds_names_its_key(tmp_path: Path, line: str) -> None:
    (tmp_path / "c.toml").write_text(line)
    with pytest.raises(ConfigError, match=f"key '{line.split()[0]}'"):
        load_config(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing.toml", None), ("latin.toml", b"policy = '\xe9'"), ("broken.toml", b"policy ="), ("typo.toml", b"a = 1")],
)
def test_the_daemon_ends_with_1_and_one_line_that_names_the_file(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-m", "patchd.daemon.main", "--config", str(file), "--state", str(tmp_path / "state")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("patchd: ")
    assert str(file) in done.stderr
    assert not (tmp_path / "state").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80))
def test_any_bytes_are_a_configuration_or_a_config_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "c.toml").write_bytes(data)
    try:
        load_config(tmp_path / "c.toml")
    except ConfigError as error:
        assert str(tmp_path / "c.toml") in str(error)


def test_the_file_wins_over_the_environment_for_the_state() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/patchd:/var/lib/other"}
    assert resolved(DaemonConfig(), environ) == Path("/var/lib/patchd")
    assert resolved(DaemonConfig(state=Path("/elsewhere")), environ) == Path("/elsewhere")
