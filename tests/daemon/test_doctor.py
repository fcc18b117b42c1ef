"""`patchctl doctor`: with a daemon and without one, on states that are broken, on machines that lack things."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from patchd.daemon.api.schemas import Status
from patchd.daemon.cli.doctor import finding_text
from patchd.daemon.cli.main import cli
from patchd.daemon.config import DaemonConfig
from patchd.daemon.doctor import device, engines, installation, kernel, permissions, processors, serving, storage
from patchd.daemon.doctor.check import Check, Found, Level, note, ok, run_all
from patchd.daemon.doctor.checks import CHECKS
from patchd.daemon.doctor.subject import Subject
from patchd.daemon.store import Store
from patchd.daemon.workers.comparing_messages import Compared, ComparedEngine
from patchd.policies.errors import StateError
from patchd.policies.signal_readings import SignalReading
from running import RunningDaemon

DOCUMENT = Path(__file__).parents[2] / "docs" / "doctor.md"
QUICK = {check.name for check in CHECKS if not check.heavy}


def patchctl(*arguments: str | Path, socket: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "patchd.daemon.cli.main"]
    command += ["--socket", str(socket or "/nonexistent/patchd.sock"), *map(str, arguments)]
    environ = {**os.environ, "COLUMNS": "80"}
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=environ, check=False)


def of(
    state: Path, *, config: DaemonConfig | None = None, path: Path | None = None, status: Status | None = None
) -> Subject:
    where = path or state / "no-socket"
    return Subject(where, state, config or DaemonConfig(), {}, status, None if status else f"{where}: nobody answers.")


def findings(check: Check, subject: Subject) -> list[tuple[str, str, str | None]]:
    ((_, found, _),) = run_all([check], subject)
    return [(each.level.value, each.found, each.todo) for each in found]


def levels(check: Check, subject: Subject) -> list[str]:
    return [level for level, _, _ in findings(check, subject)]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One that has predicted nothing yet: it is not asked to."""
    with RunningDaemon(tmp_path_factory.mktemp("doctor") / "state") as running:
        yield running


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory as a daemon leaves it."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    Store(folder).close()
    return folder


def tree(root: Path, **files: str) -> DaemonConfig:
    """A machine with these files; `__` stands for a slash in their names."""
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        path = root.joinpath(*name.split("__"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return DaemonConfig(proc_root=root / "proc", sys_root=root / "sys", dev_root=root / "dev")


# all of it


def test_with_a_daemon_every_check_reports_and_nothing_fails(daemon: RunningDaemon) -> None:
    result = patchctl("doctor", "--quick", "--json", socket=daemon.socket)
    assert result.returncode == 0, result.stdout + result.stderr
    told = json.loads(result.stdout)
    assert (told["daemon"], told["state_dir"], told["quick"]) == (daemon.pid, str(daemon.state), True)
    assert {finding["check"] for finding in told["findings"]} == QUICK
    by_check = {finding["check"]: finding for finding in told["findings"]}
    assert by_check["rivals"]["found"] == "The daemon that answers is the one that uses the state directory."
    assert str(daemon.log) in by_check["log"]["found"]
    assert any("decision loop turns" in finding["found"] for finding in told["findings"])
    assert any("The policy in force is steady" in finding["found"] for finding in told["findings"])
    assert not any("broke off" in finding["found"] for finding in told["findings"])


def test_without_a_daemon_it_says_so_examines_the_rest_and_leaves_the_state_as_it_was(state: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in state.rglob("*")}
    result = patchctl("doctor", "--quick", "--state", state)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no daemon answers" in result.stdout.splitlines()[0]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert all(f"  {name} " in result.stdout for name in QUICK)
    assert f"{len(QUICK)} checks in " in result.stdout.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in state.rglob("*")} == before


def test_a_failure_ends_it_with_status_1_and_a_warning_only_when_asked(state: Path, tmp_path: Path) -> None:
    def examined(*arguments: str | Path) -> Result:
        return CliRunner(env={"PATCHD_SOCKET": "/nonexistent/s"}).invoke(cli, ["doctor", *map(str, arguments)])

    state.chmod(0o755)
    asked = ("--only", "state", "--state", state)
    assert examined(*asked).exit_code == 0
    assert examined(*asked, "--strict").exit_code == 1
    (tmp_path / "file").write_text("")
    failed = examined("--only", "state", "--state", tmp_path / "file", "--json")
    assert failed.exit_code == 1
    assert [finding["level"] for finding in json.loads(failed.stdout)["findings"]] == ["failure"]
    wrong = examined("--only", "stat")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "There is no check 'stat'; they are engines, daemon," in wrong.stderr


def test_the_engines_agree_on_this_machine() -> None:
    result = patchctl("doctor", "--only", "engines", "--json")
    told = json.loads(result.stdout)["findings"]
    assert any("One image takes the network: torch " in f["found"] or "slower than torch" in f["found"] for f in told)
    assert not [finding for finding in told if finding["level"] == "failure"], told


# how checks run


def test_checks_run_side_by_side_and_are_told_of_as_they_end(state: Path) -> None:
    second_is_told = threading.Event()

    def slow(_: Subject):
        assert second_is_told.wait(30)
        yield ok("Late.")

    def fast(_: Subject):
        yield ok("Soon.")

    order = []
    for check, found, _ in run_all([Check("slow", slow), Check("fast", fast)], of(state)):
        order.append((check.name, found[0].found))
        second_is_told.set()
    assert order == [("fast", "Soon."), ("slow", "Late.")]


def test_a_check_that_breaks_off_keeps_what_it_found_and_costs_the_others_nothing(state: Path) -> None:
    def breaks(error: Exception):
        def run(_: Subject):
            yield ok("Found before.")
            raise error

        return run

    errors = [PermissionError(13, "Permission denied", "/x"), ValueError("odd"), StateError("No.", hint="Mend it.")]
    checks = [Check(f"c{place}", breaks(error)) for place, error in enumerate(errors)]
    checks.append(Check("fine", lambda _: [ok("Fine.")]))
    found = {check.name: each for check, each, _ in run_all(checks, of(state))}
    assert {name: each[0].found for name, each in found.items()} == {
        "c0": "Found before.", "c1": "Found before.", "c2": "Found before.", "fine": "Fine.",
    }  # fmt: skip
    assert found["c0"][1].found == "This check broke off at /x: Permission denied."
    assert found["c1"][1].found == "This check broke off: ValueError: odd."
    assert (found["c2"][1].level, found["c2"][1].todo) == (Level.FAILURE, "Mend it.")


def test_every_check_stands_in_the_documentation_and_in_no_other_order_of_names() -> None:
    rows = [line.split("`")[1] for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert sorted(rows[4:]) == sorted(check.name for check in CHECKS)
    assert rows[:4] == [level.value for level in Level]


def test_a_finding_is_told_with_what_to_do_below_it(state: Path) -> None:
    ((_, (finding,), _),) = run_all([Check("disk", lambda _: [note("Much " * 20 + ".", "Do this.")])], of(state))
    lines = click.unstyle(finding_text(finding)).splitlines()
    assert lines[0].startswith("note     disk          Much Much")
    assert lines[-1].strip() == "-> Do this."


# the installation


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [(">=1,<1000", True), (">=1000", False), ("==1", False), ("!=1000", True), ("~=1000.0", False), ("", True)],
)
def test_versions_are_held_against_their_bounds(bounds: str, fits: bool) -> None:
    assert (installation.unmet("pydantic", bounds) is None) == fits


def test_a_package_that_is_missing_is_named() -> None:
    assert installation.unmet("no-such-package-here", ">=1") == "The package no-such-package-here is missing."


# permissions


def test_a_state_that_others_may_look_into_is_a_warning_and_one_that_its_owner_cannot_use_a_failure(
    state: Path,
) -> None:
    assert levels(permissions.STATE, of(state)) == ["ok"]
    state.chmod(0o750)
    ((level, found, todo),) = findings(permissions.STATE, of(state))
    assert (level, todo) == ("warning", f"Run: chmod 700 {state}")
    assert "mode 0750" in found
    if os.geteuid() == 0:  # others could not go on to look into it
        state.chmod(0o500)
        assert levels(permissions.STATE, of(state)) == ["failure"]
    state.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_of_another_owner_in_the_state_are_named(state: Path) -> None:
    os.chown(state / "patchd.db", 4711, 4711)
    ((level, found, todo),) = findings(permissions.STATE, of(state))
    assert (level, todo) == ("failure", f"Run: chown -R root {state}")
    assert str(state / "patchd.db") in found


def test_a_state_that_does_not_exist_yet_is_no_fault_where_it_can_be_made(tmp_path: Path) -> None:
    assert levels(permissions.STATE, of(tmp_path / "new" / "state")) == ["note"]


def test_sockets_that_are_none_dead_or_open_to_all_are_told_apart(tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "s"))
    assert levels(permissions.SOCKET, of(tmp_path, path=path)) == ["note"]
    path.write_text("")
    assert levels(permissions.SOCKET, of(tmp_path, path=path)) == ["failure"]
    path.unlink()
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(os.fspath(path))
    path.chmod(0o666)
    found = findings(permissions.SOCKET, of(tmp_path, path=path))
    assert [level for level, _, _ in found] == ["warning", "warning"]
    assert "Nobody answers at the socket" in found[0][1]
    assert "every user of this machine" in found[1][1]


# the state


def test_a_damaged_database_is_a_failure_that_says_what_to_do(state: Path) -> None:
    assert levels(storage.DATABASE, of(state)) == ["ok"]
    file = state / "patchd.db"
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    ((level, found, todo),) = findings(storage.DATABASE, of(state))
    assert level == "failure"
    assert "damaged" in found or "cannot be read" in found
    assert "backup" in str(todo)
    file.write_bytes(b"no database at all" * 500)
    ((level, found, _),) = findings(storage.DATABASE, of(state))
    assert (level, "file is not a database" in found) == ("failure", True)


def test_a_database_of_a_newer_patchd_or_without_its_log_is_told_of(state: Path) -> None:
    with closing(sqlite3.connect(state / "patchd.db")) as database:
        database.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at) values ('patchd', 'm999', '')"
        )
        database.commit()
        database.execute("PRAGMA journal_mode = delete")
    told = findings(storage.DATABASE, of(state))
    assert [level for level, _, _ in told] == ["ok", "warning", "failure"]
    assert "m999" in told[2][1]


def test_the_database_of_a_running_writer_is_read_with_its_log(state: Path) -> None:
    store = Store(state)
    store.set_setting("a", "b")
    assert levels(storage.DATABASE, of(state)) == ["ok"]
    with closing(storage.connect(state / "patchd.db")) as reader:
        assert reader.execute("select value from settings where key = 'a'").fetchone() == ("b",)
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader.execute("delete from settings")
    store.close()


def test_patch_files_that_are_missing_damaged_or_unknown_are_told_of(state: Path) -> None:
    assert findings(storage.PATCHES, of(state)) == [("ok", "No task has a patch yet.", None)]
    ids = ["a" * 64, "b" * 64]
    with closing(sqlite3.connect(state / "patchd.db")) as database:
        for each in ids:
            database.execute("insert into patches (id, task) values (?, 't')", [each])
        database.execute("insert into rungs (task, base, resolution, patch_id) values ('t', 'lite0', 96, ?)", [ids[0]])
        database.commit()
    (state / "patches" / f"{ids[0]}.safetensors").write_bytes(b"not what its name says")
    stray = state / "patches" / f"{'c' * 64}.safetensors"
    half = state / "jobs" / ".job-x.tmp"
    for path in (stray, half):
        path.write_bytes(b"1234")
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    (state / "jobs" / ".young.tmp").write_bytes(b"1234")
    told = findings(storage.PATCHES, of(state))
    assert [level for level, _, _ in told] == ["failure", "failure", "note"]
    assert "The files of 1 patches are missing, 0 of them in force; the first is bbbbbbbbbbbb." in told[0][1]
    assert "The files of 1 patches are damaged, 1 of them in force" in told[1][1]
    assert "2 files that nothing refers to take 8 bytes" in told[2][1]


def test_the_process_that_uses_the_state_is_found_in_the_table_of_locks(state: Path, tmp_path: Path) -> None:
    assert levels(serving.RIVALS, of(state)) == ["ok"]
    lock = state / "lock"
    lock.write_text("")
    inode = lock.stat().st_ino
    table = f"1: POSIX  ADVISORY  WRITE 1 fe:00:{inode} 0 EOF\n2: FLOCK  ADVISORY  WRITE 4711 fe:00:{inode} 0 EOF\n"
    config = tree(tmp_path / "machine", proc__locks=table)
    ((level, found, todo),) = findings(serving.RIVALS, of(state, config=config))
    assert level == "warning"
    assert f"Process 4711 uses the state directory {state}, and does not answer" in found
    assert "kill 4711" in str(todo)
    (tmp_path / "machine" / "proc" / "locks").write_text("")
    assert levels(serving.RIVALS, of(state, config=config)) == ["ok"]


def test_a_full_disk_is_a_warning(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(level == "ok" for level in levels(storage.DISK, of(state)) if level != "warning")
    monkeypatch.setattr(storage, "LITTLE_FREE", 1 << 62)
    assert "warning" in levels(storage.DISK, of(state))


# the machine


UNIFIED = {
    "proc__self__cgroup": "0::/system.slice/patchd.service\n",
    "sys__fs__cgroup__cgroup.controllers": "cpuset cpu io memory pids\n",
}
GROUP = "sys__fs__cgroup__system.slice__patchd.service__"


def test_a_group_with_its_controllers_and_limits_is_told_of(tmp_path: Path) -> None:
    config = tree(
        tmp_path,
        **UNIFIED,
        **{
            f"{GROUP}cgroup.controllers": "cpu memory pids\n",
            f"{GROUP}cpu.max": "150000 100000\n",
            f"{GROUP}memory.max": "2000000000\n",
            f"{GROUP}memory.current": "1000\n",
        },
    )
    told = findings(kernel.CGROUP, of(tmp_path, config=config))
    assert told[0][1] == (
        "The group /system.slice/patchd.service of a process started here has the controllers cpu and memory."
    )
    assert "1.5 processors" in told[1][1]
    assert "2.00 GB of memory" in told[1][1]


def test_a_group_without_a_controller_is_a_warning_and_version_1_or_none_a_note(tmp_path: Path) -> None:
    without = tree(tmp_path / "a", **UNIFIED, **{f"{GROUP}cgroup.controllers": "cpu pids\n"})
    told = findings(kernel.CGROUP, of(tmp_path, config=without))
    assert (told[0][0], "lacks memory" in told[0][1]) == ("warning", True)
    old = tree(tmp_path / "b", **{"sys__fs__cgroup__memory__cgroup.procs": "1\n"})
    assert "version 1" in findings(kernel.CGROUP, of(tmp_path, config=old))[0][1]
    assert findings(kernel.CGROUP, of(tmp_path, config=tree(tmp_path / "c"))) == [
        ("note", "There are no control groups here, so no limits are read.", None)
    ]


def test_a_kernel_without_pressure_is_told_what_to_boot_with(tmp_path: Path) -> None:
    ((level, found, todo),) = findings(kernel.PRESSURE, of(tmp_path, config=tree(tmp_path)))
    assert (level, todo) == ("warning", "Boot with psi=1, on a kernel with CONFIG_PSI.")
    assert "no pressure of cpu, memory, io" in found


def test_pressure_without_triggers_is_a_note_with_the_reason(tmp_path: Path) -> None:
    line = "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
    config = tree(tmp_path, **{f"proc__pressure__{name}": line for name in ("cpu", "memory", "io")})
    told = findings(kernel.PRESSURE, of(tmp_path, config=config))  # plain files take no triggers
    assert [level for level, _, _ in told] == ["ok", "note", "note", "note"]
    assert "Nothing wakes patchd at pressure.memory:" in told[1][1]


@pytest.mark.parametrize(
    ("quota", "threads", "level", "words"),
    [
        ("max 100000", None, "ok", "Workers get"),
        ("50000 100000", None, "warning", "A quota leaves 0.5 of a processor"),
        ("max 100000", 4096, "warning", "The configuration gives workers 4096 threads"),
    ],
    ids=["plenty", "half", "many"],
)
def test_threads_are_held_against_processors_and_quota(
    tmp_path: Path, quota: str, threads: int | None, level: str, words: str
) -> None:
    config = tree(tmp_path, **UNIFIED, **{f"{GROUP}cpu.max": f"{quota}\n"}).model_copy(update={"threads": threads})
    told = findings(processors.THREADS, of(tmp_path, config=config))
    assert (told[0][0], words in told[0][1]) == (level, True)


def test_a_machine_with_nothing_lacks_signals_and_each_remedy_is_told_once(tmp_path: Path) -> None:
    told = findings(device.SIGNALS, of(tmp_path, config=tree(tmp_path)))
    assert told[0][1].split()[0].isdigit()
    assert any("temperature.max" in found and "sensors-detect" in str(todo) for _, found, todo in told)
    assert any(found.startswith("This machine lacks what ") and "battery.charge" in found for _, found, _ in told)
    assert any("psi=1" in str(todo) for _, _, todo in told)


def test_a_remedy_goes_by_the_reason() -> None:
    def absent(name: str, why: str) -> SignalReading:
        return SignalReading(
            name=name, value=None, unit="", meaning="", source=None, read_s=None, age_s=None, absent_because=why
        )

    assert device.remedy(absent("gpu.busy", "no NVIDIA driver: there is no /proc/driver/nvidia/version")) is None
    assert "Install libnvidia-ml" in str(device.remedy(absent("gpu.busy", "NVML cannot be loaded: no such file")))
    assert "Give the daemon's user" in str(device.remedy(absent("disk.wear", "/sys/x may not be read by the user")))


def test_a_clock_of_another_century_and_a_state_written_in_the_future_are_told_of(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "OLDEST_YEAR", 2900)
    ahead = time.time() + 7200
    os.utime(state / "patchd.db", (ahead, ahead))
    told = [found for level, found, _ in findings(kernel.CLOCK, of(state)) if level == "warning"]
    assert "which cannot be" in told[0]
    assert "minutes in the future" in told[1]


def test_a_configured_policy_that_is_wrong_is_a_failure_and_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text('[policy]\nname = "wrong"\n[inference]\nalocation = 1.0\n')
    config = DaemonConfig(policy=str(file), policies_dir=DaemonConfig().policies_dir)
    ((level, found, todo),) = findings(device.POLICY, of(tmp_path, config=config))
    assert (level, found.startswith(f"{file}:4")) == ("failure", True)
    assert "allocation" in str(todo)
    assert set(levels(device.POLICY, of(tmp_path))) <= {"ok", "note"}


def test_rules_that_never_count_and_signals_that_a_policy_lacks_are_told_of(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[policy]\nname = "mine"\n[[rule]]\nname = "never"\n'
        'when = [{ signal = "cpu.busy", above = 1.0 }]\ninference = 0.1\n'
        '[[rule]]\nname = "low"\nwhen = [{ signal = "battery.charge", below = 0.2 }]\ninference = 0.1\n'
    )
    config = tree(tmp_path).model_copy(update={"policy": str(file)})
    told = findings(device.POLICY, of(tmp_path, config=config))
    assert [level for level, _, _ in told] == ["ok", "warning", "note"]
    assert told[1][1].startswith(f"{file}:5:")
    assert "low" in told[2][1]


# the engines


def compared(difference: float = 1e-5, ran: str = "openvino", ms: float = 3.0, absent: str | None = None) -> Compared:
    other = ComparedEngine(name="openvino", ran=ran, median_ms=ms, difference=difference, remarks=("it disagrees.",))
    reference = ComparedEngine(name="torch", ran="torch", median_ms=8.0, difference=0.0)
    return Compared(
        base="lite0", resolution=128, threads=2, absent=absent, engines=(reference,) if absent else (reference, other)
    )


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (compared(), [("ok", "within 1e-05 of torch's"), ("ok", "torch 8.0 ms, openvino 3.0 ms")]),
        (compared(difference=0.01), [("failure", "differ from torch's by 0.01"), ("ok", "One image")]),
        (compared(ran="torch"), [("failure", "cannot be used here: it disagrees."), ("ok", "One image")]),
        (compared(ms=20.0), [("ok", "within"), ("warning", "slower than torch here")]),
        (compared(absent="It is not installed."), [("note", "It is not installed."), ("ok", "torch 8.0 ms (")]),
    ],
    ids=["agree", "differ", "stepped-in", "slow", "absent"],
)
def test_what_a_comparison_of_engines_means(said: Compared, expected: list[tuple[str, str]]) -> None:
    found: list[Found] = list(engines.judged(said))
    assert [each.level.value for each in found] == [level for level, _ in expected]
    assert all(words in each.text for each, (_, words) in zip(found, expected, strict=True))


def test_engines_that_cannot_be_run_are_a_failure_with_the_last_words(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = state / "python"
    broken.write_text("#!/bin/sh\necho 'ImportError: no torch here' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    ((level, found, _),) = findings(engines.CHECK, of(state))
    assert (level, "status 1: ImportError: no torch here" in found) == ("failure", True)


def test_the_training_worker_may_take_idle_scheduling_or_it_is_said_why_not(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((level, found, _),) = findings(processors.TRAINING, of(state))
    assert level == "ok", found
    monkeypatch.setattr(processors, "TRY_IDLE", "raise PermissionError(1, 'Operation not permitted')")
    ((level, found, _),) = findings(processors.TRAINING, of(state))
    assert (level, "Operation not permitted" in found) == ("failure", True)
