"""Kernel files that say nonsense, and machines that are easily misread: absent, never zero, never an exception."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patchd.daemon.monitor.files import numbers, whole
from patchd.daemon.monitor.monitor import Monitor
from patchd.daemon.monitor.pressure import parse_stall
from patchd.daemon.sockets import BACKLOG, Caller, bind_unix
from patchd.policies.errors import ConflictError
from patchd.policies.signal_readings import readings
from patchd.policies.snapshot import Snapshot

FILES = (
    "proc/stat",
    "proc/meminfo",
    "proc/loadavg",
    "proc/uptime",
    "proc/interrupts",
    "sys/bus/usb/devices/1-2/urbnum",
    "sys/bus/usb/devices/1-2:1.0/bInterfaceClass",
    "proc/pressure/cpu",
    "proc/self/cgroup",
    "sys/fs/cgroup/cgroup.controllers",
    "sys/fs/cgroup/cpu.max",
    "sys/fs/cgroup/cpu.stat",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.current",
    "sys/fs/cgroup/memory.stat",
    "proc/self/stat",
    "sys/fs/cgroup/memory.pressure",
    "sys/fs/cgroup/memory/memory.limit_in_bytes",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/class/thermal/thermal_zone0/trip_point_0_type",
    "sys/class/thermal/thermal_zone0/trip_point_0_temp",
    "sys/class/thermal/cooling_device0/type",
    "sys/class/thermal/cooling_device0/cur_state",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "sys/class/powercap/intel-rapl:0/name",
    "sys/class/powercap/intel-rapl:0/energy_uj",
    "sys/class/hwmon/hwmon0/name",
    "sys/class/hwmon/hwmon0/power1_average",
    *(
        f"sys/devices/system/cpu/cpufreq/policy0/{name}"
        for name in ("affected_cpus", "scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")
    ),
    *(f"sys/class/power_supply/BAT0/{name}" for name in ("energy_now", "energy_full", "power_now", "capacity")),
)
SHAPES = (
    "{0}",
    "{0} {0} {0}",
    "cpu {0} {0} {0} {0} {0}",
    "MemTotal: {0} kB\nMemAvailable: {0} kB",
    "some avg10={0} avg60={0}",
    "usage_usec {0}",
    " 1: {0} {0} IO-APIC 1-edge i8042",
    "inactive_file {0}",
    "passive",
    "Processor",
    "package-0",
    "power_meter",
)
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.sampled_from(["²", "٣", "1_0", "9" * 5000, "", "0x1", "-", "1e999"]),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
)


def put(root: Path, path: str, text: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n", encoding="utf-8")


def monitor(root: Path) -> Monitor:
    return Monitor(state_dir=root, proc_root=root / "proc", sys_root=root / "sys", dev_root=root / "dev")


def supply(root: Path, name: str, **fields: object) -> Snapshot:
    for field, value in fields.items():
        put(root, f"sys/class/power_supply/{name}/{field}", value)
    return monitor(root).sample(1.0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_the_files_say_there_is_a_snapshot(tmp_path: Path, data: st.DataObject) -> None:
    for folder in ("proc", "sys"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    for path in data.draw(st.lists(st.sampled_from(FILES), unique=True)):
        put(tmp_path, path, data.draw(st.sampled_from(SHAPES)).format(data.draw(NUMBERS)))
    put(tmp_path, "proc/self/cgroup", "0::/")
    put(tmp_path, "sys/class/power_supply/BAT0/type", "Battery")
    put(tmp_path, "sys/class/power_supply/BAT0/status", "Discharging")
    read = monitor(tmp_path)
    read.sample(1.0)
    seen = read.sample(2.0)
    assert seen.time_s == 2.0
    for told in readings(seen, read.origins(seen), 2.0):
        assert (told.value is None) == bool(told.absent_because)


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "²"])
def test_a_number_that_is_none_is_absent_and_not_zero(tmp_path: Path, value: str) -> None:
    put(tmp_path, "proc/loadavg", f"{value} 0.1 0.1")
    put(tmp_path, "proc/stat", f"cpu 1 1 1 {value} 1")
    assert monitor(tmp_path).sample(1.0).cpu.load1 is None
    assert parse_stall(f"some avg10={value} avg60=0.0") is None


@pytest.mark.parametrize(("text", "value"), [("12 kB", 12), ("-1", -1), ("max", None), ("1_0", None), ("", None)])
def test_whole_numbers_are_those_the_kernel_writes(text: str, value: int | None) -> None:
    assert whole(text) == value


@given(st.lists(st.text(max_size=10)))
def test_numbers_never_raise(fields: list[str]) -> None:
    values = numbers(fields)
    assert values is None or all(value >= 0 for value in values)


def test_a_desktop_with_an_unused_usb_c_port_is_not_on_battery(tmp_path: Path) -> None:
    assert supply(tmp_path, "ucsi-source-psy-1", type="USB", online=0).power.on_mains is None


def test_a_battery_that_does_not_tell_its_status_does_not_prove_mains(tmp_path: Path) -> None:
    power = supply(tmp_path, "BAT0", type="Battery", energy_now=5, energy_full=10, status="Unknown").power
    assert (power.on_mains, power.battery_charge) == (None, 0.5)


@pytest.mark.parametrize(("status", "on_mains"), [("Discharging", False), ("Full", True), ("Not charging", True)])
def test_a_battery_alone_tells_whether_there_is_mains(tmp_path: Path, status: str, on_mains: bool) -> None:
    assert supply(tmp_path, "BAT0", type="Battery", capacity=80, status=status).power.on_mains is on_mains


def test_a_battery_below_zero_is_absent(tmp_path: Path) -> None:
    power = supply(
        tmp_path, "BAT0", type="Battery", energy_now=-5, energy_full=10, power_now=3, status="Discharging"
    ).power
    assert (power.battery_charge, power.battery_seconds_left) == (None, None)


def test_only_processors_that_the_daemon_may_use_count_as_busy(tmp_path: Path) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    other = max(allowed) + 1

    def stat(own_busy: int, own_idle: int, other_busy: int) -> str:
        rows = [f"cpu {own_busy * len(allowed) + other_busy} 0 0 {own_idle * len(allowed)} 0 0 0 0"]
        rows += [f"cpu{number} {own_busy} 0 0 {own_idle} 0 0 0 0" for number in allowed]
        return "\n".join([*rows, f"cpu{other} {other_busy} 0 0 0 0 0 0 0", "intr 5"])

    put(tmp_path, "proc/stat", stat(0, 0, 0))
    read = monitor(tmp_path)
    read.sample(1.0)
    put(tmp_path, "proc/stat", stat(25, 75, 1000))
    assert read.sample(2.0).cpu.busy == pytest.approx(0.25)


def test_a_socket_without_a_peer_belongs_to_nobody() -> None:
    with socket.socket(socket.AF_UNIX) as alone, socket.socket(socket.AF_INET) as internet:
        assert Caller.of(alone) == Caller.of(internet) == Caller.unknown()


def test_a_live_daemon_whose_queue_is_full_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    waiting: list[socket.socket] = []
    with bind_unix(path):
        try:
            while len(waiting) < 4 * BACKLOG:
                one = socket.socket(socket.AF_UNIX)
                waiting.append(one)
                one.setblocking(False)
                if one.connect_ex(str(path)) == errno.EAGAIN:
                    break
            with pytest.raises(ConflictError, match="already answers"):
                bind_unix(path)
        finally:
            for one in waiting:
                one.close()
