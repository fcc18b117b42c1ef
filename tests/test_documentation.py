"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from patchd.daemon.cli.main import cli
from patchd.daemon.config import DaemonConfig
from patchd.policies.conditions import Condition, Rule
from patchd.policies.policy import parse_policy
from patchd.policies.policy_tables import Cascades, Examples, Head, Inference, Retrain, Training
from patchd.policies.presets_loader import trace_names
from patchd.policies.sections import ApplicationSection, TaskSection
from patchd.policies.signals import SIGNALS
from patchd.policies.snapshot import Frozen

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_signals_is_that_of_the_code() -> None:
    rows = re.findall(r"^\| `[a-z0-9._]+` \|.*$", (DOCS / "signals.md").read_text(), re.MULTILINE)
    assert rows == [f"| `{spec.name}` | {spec.unit} | {spec.meaning} |" for spec in SIGNALS.values()]


@pytest.mark.parametrize(
    ("table", "model"),
    [
        ("policy", Head),
        ("inference", Inference),
        ("training", Training),
        ("cascade", Cascades),
        ("examples", Examples),
        ("rule", Rule),
        ("retrain", Retrain),
        ("when", Condition),
        ("task", TaskSection),
        ("application", ApplicationSection),
    ],
)
def test_the_table_of_policy_keys_is_complete_and_tells_the_defaults(table: str, model: type[Frozen]) -> None:
    rows = {
        key: row
        for row in (DOCS / "policy.md").read_text().splitlines()
        for key in re.findall(r"`(\w+\.\w+)`", row.split("|")[1] if row.startswith("| `") else "")
    }
    for name, field in model.model_fields.items():
        row = rows[f"{table}.{field.alias or name}"]
        if isinstance(field.default, float):
            assert f"| {field.default} |" in row


def test_the_example_policy_of_the_documentation_is_valid() -> None:
    examples = re.findall(r"```toml\n(.*?)```", (DOCS / "policy.md").read_text(), re.DOTALL)
    assert parse_policy(examples[0], "docs/policy.md").policy.name == "kiosk"
    for example in examples[1:]:
        head = "" if "[policy]" in example else '[policy]\nname = "example"\n'
        text = re.sub(r"^include = .*$", "", example, flags=re.MULTILINE)  # of files that are not there
        assert parse_policy(head + text, "docs/policy.md").rule is not None


def test_the_worked_example_of_a_replay_is_what_the_command_prints() -> None:
    found = re.search(r"```console\n\$ patchctl (replay .*)\n([\s\S]*?)\n```", (DOCS / "traces.md").read_text())
    assert found is not None
    result = CliRunner(env={"COLUMNS": "80"}).invoke(cli, found[1].split(), prog_name="patchctl")
    assert result.stdout.rstrip() == found[2]


def test_every_shipped_trace_is_described() -> None:
    text = (DOCS / "traces.md").read_text()
    assert all(f"`{name}`" in text for name in trace_names())


def test_the_table_of_configuration_keys_is_that_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "install.md").read_text(), re.MULTILINE))
    assert set(DaemonConfig.model_fields) <= set(rows)
    for name, field in DaemonConfig.model_fields.items():
        if isinstance(field.default, int | float) and name != "socket_mode":
            assert rows[name] == f"`{field.default}`"
