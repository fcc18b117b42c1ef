"""Every signal on every kind of machine: its value where the machine has it, else the reason in words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from device_trees import MACHINES, Tree
from patchd.daemon.cli.main import cli
from patchd.policies.signal_readings import SignalReading, readings
from patchd.policies.signals import SIGNALS
from running import RunningDaemon

CORES = len(os.sched_getaffinity(0))
GIB = 1024**3

# What two samples give, the second one a second after the first; names left out are absent there.
EXPECTED: dict[str, dict[str, float]] = {
    "laptop": {
        "cpu.busy": 0.4,
        "cpu.steal": 0.1,
        "cpu.load1": 1.2 / CORES,
        "cpu.runnable": 2 / CORES,
        "cpu.frequency": 0.4,
        "cpu.frequency_limit": 0.8,
        "cpu.throttled": 0.0,
        "memory.available": 0.25,
        "memory.available_bytes": 4 * GIB,
        "memory.swap_used": 0.25,
        "pressure.cpu.some": 0.125,
        "pressure.memory.some": 0.125,
        "pressure.memory.full": 0.01,
        "pressure.io.some": 0.125,
        "pressure.io.full": 0.01,
        "pressure.own.cpu.some": 0.025,
        "pressure.own.memory.some": 0.025,
        "pressure.own.memory.full": 0.0025,
        "pressure.own.io.some": 0.025,
        "pressure.own.io.full": 0.0025,
        "power.on_mains": 0.0,
        "power.watts": 7.5,
        "battery.charge": 0.3,
        "battery.seconds_left": 7200.0,
        "battery.watts": 7.5,
        "temperature.max": 72.5,
        "temperature.headroom": 15.0,
    },
    "raspberry-pi": {
        "cpu.busy": 0.4,
        "cpu.steal": 0.1,
        "cpu.load1": 0.1 / CORES,
        "cpu.runnable": 0.0,
        "cpu.frequency": 1 / 1.5,
        "cpu.frequency_limit": 1.0,
        "cpu.throttled": 1.0,
        "memory.available": 0.75,
        "memory.available_bytes": 3 * GIB,
        "temperature.max": 81.3,
        "temperature.headroom": 28.7,
    },
    "jetson": {
        "cpu.busy": 0.4,
        "cpu.steal": 0.1,
        "cpu.load1": 2.0 / CORES,
        "cpu.runnable": 1 / CORES,
        "cpu.frequency": 729_600 / 1_510_400,
        "cpu.frequency_limit": 1.0,
        "cpu.throttled": 0.0,
        "memory.available": 0.625,
        "memory.available_bytes": 5 * GIB,
        "memory.swap_used": 0.0,
        "pressure.cpu.some": 0.0,
        "pressure.memory.some": 0.0,
        "pressure.memory.full": 0.0,
        "pressure.io.some": 0.0,
        "pressure.io.full": 0.0,
        "power.watts": 4.5,
        "temperature.max": 48.5,
        "temperature.headroom": 43.0,
    },
    "container-v1": {
        "cpu.busy": 0.4,
        "cpu.steal": 0.1,
        "cpu.load1": 3.0 / min(1.5, CORES),
        "cpu.runnable": 3 / min(1.5, CORES),
        "memory.available": 0.75,
        "memory.available_bytes": 0.75 * GIB,
        "memory.limit_bytes": GIB,
        "memory.limit_used": 0.25,
    },
    "container-v2": {
        "cpu.busy": 0.4,
        "cpu.steal": 0.1,
        "cpu.load1": 2.0,
        "cpu.runnable": 2.0,
        "memory.available": 0.5,
        "memory.available_bytes": GIB,
        "memory.limit_bytes": 2 * GIB,
        "memory.limit_used": 0.5,
        "pressure.cpu.some": 0.5,
        "pressure.memory.some": 0.5,
        "pressure.memory.full": 0.05,
        "pressure.io.some": 0.5,
        "pressure.io.full": 0.05,
        "pressure.own.cpu.some": 0.75,
        "pressure.own.memory.some": 0.75,
        "pressure.own.memory.full": 0.25,
        "pressure.own.io.some": 0.75,
        "pressure.own.io.full": 0.25,
    },
    "nothing": {},
}
# Of the machine that runs the test, not of the tree.
REAL = ("cpu.busy_own", "cpu.busy_other", "memory.own_bytes", "disk.free", "disk.free_bytes", "disk.wear")


def read(tree: Tree, machine: str) -> dict[str, SignalReading]:
    MACHINES[machine](tree)
    monitor = tree.monitor()
    monitor.sample(1000.0)
    if (file := tree.proc / "stat").exists():
        rest = file.read_text().partition("\n")[2]
        file.write_text(f"cpu  230 0 0 1060 0 0 0 10 0 0\n{rest}")  # of 100 ticks 60 were idle, 10 somebody else's
    seen = monitor.sample(1001.0)
    return {each.name: each for each in readings(seen, monitor.origins(seen), 1003.5)}


@pytest.mark.parametrize("machine", MACHINES)
def test_every_signal_of_a_machine_is_right_or_absent_with_the_reason(tmp_path: Path, machine: str) -> None:
    told = read(Tree(tmp_path), machine)
    assert list(told) == list(SIGNALS)
    present = {name: each.value for name, each in told.items() if each.value is not None and name not in REAL}
    assert present == pytest.approx(EXPECTED[machine])
    for each in told.values():
        assert (each.unit, each.meaning) == (SIGNALS[each.name].unit, SIGNALS[each.name].meaning)
        if each.value is None:
            assert each.absent_because
            assert (each.read_s, each.age_s) == (None, None)
        else:
            assert each.source
            assert each.absent_because is None
            assert each.age_s == pytest.approx(2.5)  # none of these has a period of its own


@pytest.mark.parametrize(
    ("machine", "signal", "reason"),
    [
        ("raspberry-pi", "battery.charge", "no battery under {sys}/class/power_supply"),
        (
            "raspberry-pi",
            "pressure.memory.some",
            "no PSI: the kernel was built without CONFIG_PSI, or psi=1",
        ),
        ("raspberry-pi", "pressure.own.io.full", "there is no {sys}/fs/cgroup/io.pressure"),
        ("raspberry-pi", "memory.swap_used", "the machine has no swap"),
        ("raspberry-pi", "memory.limit_used", "no control group above patchd has a memory limit"),
        ("raspberry-pi", "power.watts", "no RAPL under {sys}/class/powercap, no sensor at the supply"),
        ("container-v1", "pressure.own.cpu.some", "patchd runs in no control group of version 2"),
        ("container-v1", "cpu.frequency", "no processor has a clock to read under {sys}/devices/system/cpu/cpufreq"),
        ("container-v2", "temperature.headroom", "no temperature sensor under {sys}/class/thermal"),
        ("jetson", "power.on_mains", "{sys}/class/power_supply shows neither a battery that tells its status nor"),
        ("nothing", "cpu.busy", "there is no {proc}/stat"),
        ("nothing", "memory.available", "there is no {proc}/meminfo"),
        ("nothing", "memory.limit_bytes", "there is no {proc}/meminfo"),
        ("nothing", "user.idle_s", "no terminal under {dev}, no PS/2 controller and no USB keyboard or mouse"),
    ],
)
def test_what_is_absent_says_what_is_missing(tmp_path: Path, machine: str, signal: str, reason: str) -> None:
    tree = Tree(tmp_path)
    told = read(tree, machine)[signal]
    assert told.absent_because is not None
    assert told.absent_because.startswith(reason.format(sys=tree.sys, proc=tree.proc, dev=tree.dev))


@pytest.mark.parametrize(
    ("machine", "signal", "source"),
    [
        ("laptop", "battery.charge", "{sys}/class/power_supply (BAT0, BAT1)"),
        ("laptop", "power.on_mains", "{sys}/class/power_supply (AC, BAT0, BAT1)"),
        ("laptop", "temperature.headroom", "acpitz ({sys}/class/thermal/thermal_zone1/temp)"),
        ("laptop", "pressure.own.cpu.some", "{sys}/fs/cgroup/system.slice/patchd.service/cpu.pressure"),
        ("raspberry-pi", "cpu.throttled", "{sys}/devices/platform/soc/soc:firmware/get_throttled"),
        ("jetson", "power.watts", "{sys}/class/hwmon/hwmon1"),
        ("jetson", "temperature.max", "cpu-thermal ({sys}/class/thermal/thermal_zone0/temp)"),
        ("container-v1", "memory.limit_used", "{sys}/fs/cgroup/memory"),
        ("container-v2", "memory.available", "{proc}/meminfo, {sys}/fs/cgroup/outer"),
    ],
)
def test_what_is_present_says_where_it_is_read(tmp_path: Path, machine: str, signal: str, source: str) -> None:
    tree = Tree(tmp_path)
    assert read(tree, machine)[signal].source == source.format(sys=tree.sys, proc=tree.proc, dev=tree.dev)


# over the API and the command line


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    """One that the tests of this module share; nothing needs to have been predicted."""
    with RunningDaemon(tmp_path_factory.mktemp("state")) as running:
        yield running


def test_the_daemon_tells_every_signal_with_its_age(daemon: RunningDaemon) -> None:
    from patchd.daemon.api.signal_schemas import SignalList

    told = SignalList.model_validate_json(daemon.client.request("GET", "/v1/signals"))
    assert {each.name for each in told.signals} >= set(SIGNALS)
    assert told.source == "device"
    assert all((each.age_s is not None) == (each.value is not None) for each in told.signals)
    assert all(each.source if each.value is not None else each.absent_because for each in told.signals)


def test_the_busiest_other_programs_are_told_when_asked(daemon: RunningDaemon) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            name = Path(f"/proc/{spinning.pid}/comm").read_text().strip()
            result = CliRunner().invoke(cli, ["--socket", str(daemon.socket), "signals", "--busiest"])
        finally:
            spinning.kill()
    assert result.exit_code == 0
    assert name in result.stdout


def test_the_command_shows_signals_and_why_others_are_absent(daemon: RunningDaemon) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(cli, ["--socket", str(daemon.socket), "signals", *arguments])
        return result.exit_code, result.stdout, result.stderr

    code, shown, _ = run()
    assert code == 0
    assert all(name in shown for name in SIGNALS)
    code, shown, _ = run("memory.available", "cpu.load1")
    assert code == 0
    assert "cpu.load1" in shown
    assert "cpu.busy" not in shown
    code, _, complaint = run("memory.availabel")
    assert code == 4
    assert complaint.startswith(
        "patchctl: There is no signal 'memory.availabel'. They begin with cpu, memory, pressure"
    )
