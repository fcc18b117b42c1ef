"""Policies of several files on the disk: each of them is watched, and a wrong one changes nothing."""

from __future__ import annotations

import json
import os
import signal
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from patchd.daemon.cli.docs import SCHEMA, schema_text
from patchd.daemon.cli.main import cli
from patchd.daemon.policy_files import PolicyFiles
from patchd.policies.errors import PolicyError
from patchd.policies.policy import parse_policy
from running import RunningDaemon

MINE = '[policy]\nname = "mine"\n'


def patchctl(*arguments: object, socket: Path = Path("/nonexistent/s")) -> Result:
    return CliRunner().invoke(cli, ["--socket", str(socket), *map(str, arguments)])


@dataclass
class Site:
    """A daemon under a policy that includes a file and lies under a directory of drop-ins."""

    daemon: RunningDaemon
    mine: Path
    part: Path
    drop_ins: Path

    def resolution(self) -> int | None:
        """The cap in the policy in force, as the daemon itself prints it."""
        text = self.daemon.client.policy("mine", effective=True).toml
        return tomllib.loads(text).get("inference", {}).get("max_resolution")

    def until(self, resolution: int | None, error: str | None = None, *, by_itself: bool = False) -> None:
        """Wait until the cap or the error is in force; without `by_itself` the daemon is told to look at once."""
        if not by_itself:
            os.kill(self.daemon.pid, signal.SIGHUP)

        def there() -> bool:
            said = self.daemon.client.status().policy.error
            return self.resolution() == resolution and (said is None if error is None else error in (said or ""))

        self.daemon.until(there, 10)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    mine, part, drop_ins = folder / "mine.toml", folder / "part.toml", folder / "policies.d"
    drop_ins.mkdir()
    mine.write_text(f'include = ["preset:balanced", "part.toml"]\n{MINE}')
    part.write_text("[inference]\nmax_resolution = 192\n")
    config = folder / "patchd.toml"
    config.write_text(f'measure_training_s = 0\npolicies_dir = "{drop_ins}"\n')
    with RunningDaemon(folder / "state", "--policy", str(mine), "--config", str(config)) as running:
        yield Site(running, mine, part, drop_ins)


def test_every_file_of_the_policy_in_force_is_watched_and_a_wrong_one_changes_nothing(site: Site) -> None:
    files = ["preset:balanced", str(site.part), str(site.mine)]
    assert list(site.daemon.client.status().policy.files) == files
    site.part.write_text("[inference]\nmax_resolution = 160\n")
    site.until(160, by_itself=True)
    over = site.drop_ins / "50-cap.toml"
    over.write_text("[inference]\nmax_resolution = 128\n")
    site.until(128, by_itself=True)
    assert list(site.daemon.client.explain().policy.files) == [*files, str(over)]
    over.write_text("[inference]\n  max_resolutoin = 96\n")
    site.until(128, f"{over}:2:3: unknown key 'inference.max_resolutoin'")
    over.unlink()
    site.until(160)
    site.part.unlink()
    site.until(160, f"{site.mine}:1:31: 'part.toml' cannot be included: {site.part}: cannot be read")
    site.part.write_text("[inference]\nmax_resolution = 96\n")
    site.until(96)


def test_a_start_with_a_wrong_drop_in_has_the_last_good_policy_in_force(site: Site) -> None:
    site.part.write_text("[inference]\nmax_resolution = 160\n")
    site.until(160)
    before = site.daemon.client.status().policy
    wrong = site.drop_ins / "99.toml"
    wrong.write_text("[inference\n")
    site.daemon.kill()
    site.daemon.start()
    try:
        now = site.daemon.client.status().policy
        assert (now.name, now.source) == ("mine", before.source)
        assert f"{wrong}:1:11: this is not TOML" in (now.error or "")
        assert site.resolution() == 160
    finally:
        wrong.unlink()
    site.until(160)
    assert site.daemon.client.status().policy.sha256 == before.sha256


def test_drop_ins_lie_over_presets_too(site: Site) -> None:
    over = site.drop_ins / "10.toml"
    over.write_text("[inference]\nmax_resolution = 112\n")
    try:
        site.daemon.client.use_policy(name="powersave")
        told = site.daemon.client.policy("powersave", effective=True).toml
        assert f"max_resolution = 112  # {over}:2" in told
        assert parse_policy(told, "told").policy.name == "powersave"
        assert "112" not in site.daemon.client.policy("powersave").toml
    finally:
        over.unlink()
        site.daemon.client.use_policy(path=site.mine)


def test_the_command_prints_where_each_key_comes_from(site: Site) -> None:
    shown = patchctl("policy", "show", "--effective", socket=site.daemon.socket)
    assert shown.exit_code == 0
    assert f"max_resolution = 160  # {site.part}:2" in shown.stdout
    assert "allocation = 1.0  # preset:balanced:9" in shown.stdout
    whole = patchctl("policy", "show", "--effective", "--json", socket=site.daemon.socket)
    assert tomllib.loads(json.loads(whole.stdout)["toml"])["inference"]["max_resolution"] == 160


def test_the_schema_is_published_as_the_code_has_it(site: Site) -> None:
    assert SCHEMA.read_text() == schema_text()
    assert patchctl("policy", "schema").stdout == schema_text()
    assert json.loads(site.daemon.client.request("GET", "/v1/policies/schema")) == json.loads(schema_text())


def test_a_file_is_shown_and_checked_with_its_includes_without_a_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(f'include = ["preset:balanced", "part.toml"]\n{MINE}')
    Path("part.toml").write_text("[training]\nmax_celsius = 70\n")
    assert patchctl("policy", "check", "mine.toml").exit_code == 0
    assert "max_celsius = 70  # part.toml:2" in patchctl("policy", "show", "--effective", "./mine.toml").stdout
    assert patchctl("policy", "show", "./mine.toml").stdout == Path("mine.toml").read_text()
    Path("part.toml").write_text("[training]\n max_celsius = 700\n")
    wrong = patchctl("policy", "check", "mine.toml")
    assert wrong.exit_code == 5
    assert wrong.stderr.startswith("patchctl: part.toml:2:2: 'training.max_celsius' is 700")


def test_check_tells_what_this_machine_lacks_and_whom_it_asked(site: Site, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    rule = '[[rule]]\nname = "r"\nwhen = [{ signal = "app.nobody.posts", above = 1.0 }]\ntraining = 0.0\n'
    mine.write_text(f"{MINE}{rule}[task.imagenett]\ninference = 0.5\n")
    asked = patchctl("policy", "check", mine, socket=site.daemon.socket)
    assert asked.exit_code == 0
    assert f"{mine}:5:11: Rule 'r' cannot match now: this machine has no app.nobody.posts" in asked.stdout
    assert f"{mine}:7:7: The daemon has no task 'imagenett'. Did you mean 'imagenet'?" in asked.stdout
    assert f"{mine}: policy 'mine' is right, with 2 findings." in asked.stdout
    assert f"Signals and tasks are those of the daemon at {site.daemon.socket} now." in asked.stdout
    told = json.loads(patchctl("policy", "check", mine, "--json", socket=site.daemon.socket).stdout)
    assert [each["kind"] for each in told["findings"]] == ["missing_signal", "unknown_task"]
    assert told["machine"] == str(site.daemon.socket)
    assert patchctl("policy", "check", mine, "--strict", socket=site.daemon.socket).exit_code == 5
    alone = patchctl("policy", "check", mine, "--strict", "--no-daemon", socket=site.daemon.socket)
    assert alone.exit_code == 0
    assert "No daemon was asked, so signals and tasks that this machine lacks were not looked for." in alone.stdout
    nobody = patchctl("policy", "check", mine)
    assert nobody.exit_code == 0
    assert "Signals and tasks that this machine lacks were not looked for: patchd does not answer" in nobody.stdout


def test_check_lays_drop_ins_over_a_preset_too(tmp_path: Path) -> None:
    (tmp_path / "10.toml").write_text('remove_rules = ["hott"]\n[inference]\nmax_resolution = 160\n')
    told = patchctl("policy", "check", "balanced", "--drop-ins", tmp_path, "--no-daemon")
    assert told.exit_code == 0
    assert f"{tmp_path}/10.toml:1:17: No earlier file has a rule 'hott' to remove." in told.stdout
    assert patchctl("policy", "check", "turbo").exit_code == 4


def test_a_configured_directory_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"The directory .*none does not exist.*policies_dir"):
        PolicyFiles(tmp_path / "none").load("balanced")


def test_a_change_is_seen_by_what_was_read(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "b.toml").write_text("")
    (folder / "not.txt").write_text("[")
    (folder / ".hidden.toml").write_text("[")
    files = PolicyFiles(folder)
    files.load("balanced")
    assert not files.changed()
    (folder / "not.txt").write_text("")
    assert not files.changed()
    time.sleep(0.01)  # the clock of file times
    (folder / "b.toml").write_text("[training]\n")
    assert files.changed()
