"""The monitor reads fake /proc and /sys trees with its real code, and this machine against a second source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from device_trees import GIB, Tree
from hypothesis import given
from hypothesis import strategies as st
from patchd.daemon.monitor.cgroup import Cgroup
from patchd.daemon.monitor.consumption import Consumption, ConsumptionReader
from patchd.daemon.monitor.cpu import CpuReader
from patchd.daemon.monitor.energy import EnergyReader
from patchd.daemon.monitor.frequency import THROTTLED_FOR_S, FrequencyReader
from patchd.daemon.monitor.monitor import Monitor
from patchd.daemon.monitor.pressure import parse_stall
from patchd.daemon.monitor.processes import read_times, use_of
from patchd.policies.signals import signals

PSI = "some avg10=12.50 avg60=3.00 avg300=0.10 total=1\nfull avg10=1.00 avg60=0.50 avg300=0.00 total=1\n"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_machine_with_nothing_has_everything_absent_and_nothing_zero(tree: Tree) -> None:
    snapshot = tree.sample()
    assert snapshot.memory is None
    assert snapshot.cpu.busy is None
    assert snapshot.cpu.load1 is None
    assert (snapshot.pressure.cpu, snapshot.pressure.memory, snapshot.pressure.io) == (None, None, None)
    assert (snapshot.power.on_mains, snapshot.power.battery_charge) == (None, None)
    assert snapshot.temperatures == ()
    assert set(signals(snapshot)) <= {"disk.free_bytes", "disk.free", "memory.own_bytes", "cpu.busy_own"}


def test_a_laptop_with_two_batteries_weighs_them_by_energy_and_leaves_the_mouse_out(tree: Tree) -> None:
    tree.supply("AC", type="Mains", online=0)
    tree.supply("BAT0", type="Battery", energy_now=10_000, energy_full=40_000, power_now=5_000, status="Discharging")
    tree.supply("BAT1", type="Battery", energy_now=5_000, energy_full=10_000, power_now=0, status="Discharging")
    tree.supply("hidpp_battery_0", type="Battery", scope="Device", capacity=3, status="Discharging")
    power = tree.sample().power
    assert power.on_mains is False
    assert power.battery_charge == pytest.approx(0.3)
    assert power.battery_seconds_left == pytest.approx(3 * 3600)


def test_a_battery_that_only_tells_percent_is_read(tree: Tree) -> None:
    tree.supply("BAT0", type="Battery", capacity=55, status="Charging")
    power = tree.sample().power
    assert (power.on_mains, power.battery_charge, power.battery_seconds_left) == (True, 0.55, None)


def test_a_raspberry_pi_has_a_temperature_and_no_power_supply(tree: Tree) -> None:
    tree.put("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    tree.put("sys/class/thermal/thermal_zone0/temp", 61_300)
    tree.put("sys/class/thermal/thermal_zone0/trip_point_0_type", "critical")
    tree.put("sys/class/thermal/thermal_zone0/trip_point_0_temp", 110_000)
    tree.put("sys/class/thermal/thermal_zone1/type", "broken")
    tree.put("sys/class/thermal/thermal_zone1/temp", -274_000)
    snapshot = tree.sample()
    assert [(s.name, s.celsius, s.critical_celsius) for s in snapshot.temperatures] == [("cpu-thermal", 61.3, 110.0)]
    assert snapshot.power.battery_charge is None


def test_hardware_monitors_are_read_with_their_labels(tree: Tree) -> None:
    tree.put("sys/class/hwmon/hwmon0/name", "k10temp")
    tree.put("sys/class/hwmon/hwmon0/temp1_input", 48_000)
    tree.put("sys/class/hwmon/hwmon0/temp1_label", "Tctl")
    assert [(s.name, s.celsius) for s in tree.sample().temperatures] == [("k10temp/Tctl", 48.0)]


def test_under_a_cgroup_v2_limit_the_smallest_limit_on_the_way_up_counts(tree: Tree) -> None:
    tree.meminfo(16 * GIB, 12 * GIB)
    tree.put("proc/self/cgroup", "0::/outer/inner")
    tree.put("sys/fs/cgroup/cgroup.controllers", "cpu memory")
    tree.put("sys/fs/cgroup/outer/inner/memory.max", "max")
    tree.put("sys/fs/cgroup/outer/inner/cpu.max", "max 100000")
    tree.put("sys/fs/cgroup/outer/memory.max", 2 * GIB)
    tree.put("sys/fs/cgroup/outer/memory.current", GIB + GIB // 2)
    tree.put("sys/fs/cgroup/outer/memory.stat", f"anon 5\ninactive_file {GIB // 2}")
    tree.put("sys/fs/cgroup/outer/cpu.max", "50000 100000")
    monitor = tree.monitor()
    snapshot = monitor.sample(1.0)
    assert snapshot.memory is not None
    assert (snapshot.memory.total_bytes, snapshot.memory.limited_by) == (2 * GIB, "cgroup-v2")
    assert snapshot.memory.available_bytes == GIB  # page cache that is given back on demand is no use
    assert snapshot.cpu.limit_cores == 0.5
    assert monitor.usable_cores() == 0.5


def test_under_a_cgroup_v1_limit_the_limit_counts_and_the_huge_default_does_not(tree: Tree) -> None:
    tree.meminfo(16 * GIB, 12 * GIB)
    tree.put("proc/self/cgroup", "7:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc")
    tree.put("sys/fs/cgroup/memory/memory.limit_in_bytes", GIB)
    tree.put("sys/fs/cgroup/memory/memory.usage_in_bytes", GIB // 2)
    tree.put("sys/fs/cgroup/memory/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB // 4}")
    tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 150_000)
    tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100_000)
    snapshot = tree.sample()
    assert snapshot.memory is not None
    assert (snapshot.memory.total_bytes, snapshot.memory.limited_by) == (GIB, "cgroup-v1")
    assert snapshot.memory.available_bytes == GIB - GIB // 4
    assert snapshot.cpu.limit_cores == 1.5
    tree.put("sys/fs/cgroup/memory/memory.limit_in_bytes", 9223372036854771712)
    tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", -1)
    free = tree.sample()
    assert free.memory is not None
    assert (free.memory.total_bytes, free.memory.limited_by, free.cpu.limit_cores) == (16 * GIB, "machine", None)


def test_pressure_is_a_share_and_an_old_kernels_missing_full_line_is_absent(tree: Tree) -> None:
    tree.put("proc/pressure/memory", PSI)
    tree.put("proc/pressure/cpu", PSI.splitlines()[0])
    pressure = tree.sample().pressure
    assert pressure.memory is not None
    assert (pressure.memory.some_avg10, pressure.memory.full_avg10) == (0.125, 0.01)
    assert pressure.cpu is not None
    assert pressure.cpu.full_avg10 is None
    assert pressure.io is None


def test_busy_counts_steal_but_not_waiting_for_the_disk(tree: Tree) -> None:
    tree.put("proc/stat", "cpu  100 0 100 1000 100 0 0 0 0 0")
    tree.put("proc/loadavg", "0.50 0.40 0.30 1/100 1")
    monitor = tree.monitor()
    assert monitor.sample(1.0).cpu.busy is None
    tree.put("proc/stat", "cpu  110 0 110 1040 120 0 0 20 0 0")
    cpu = monitor.sample(2.0).cpu
    assert cpu.busy == pytest.approx(0.4)
    assert (cpu.load1, cpu.load5, cpu.load15) == (0.5, 0.4, 0.3)


def test_a_sample_at_once_after_another_counts_over_both(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("patchd.daemon.monitor.cpu.time.monotonic", lambda: now)
    reader = CpuReader(tree.proc, tree.sys, Cgroup(tree.proc, tree.sys))
    shares = []
    for moment, idle, busy in ((0.0, 0, 0), (1.0, 60, 40), (1.03, 60, 43), (1.06, 60, 46), (2.0, 110, 90)):
        now = moment
        tree.stat(idle=idle, busy=busy)
        shares.append(reader.sample({})[0].busy)
    assert shares == [None, *(pytest.approx(share) for share in (0.4, 43 / 103, 46 / 106, 0.5))]


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda data: data.decode("latin-1")))
def test_any_text_in_a_pressure_file_is_a_stall_or_absent(text: str) -> None:
    stall = parse_stall(text)
    assert stall is None or 0 <= stall.some_avg10 <= 1


@pytest.mark.parametrize("garbage", ["", "garbage", "-1", "1e309", "a b c\nd: e", "\x00\x01"])
def test_broken_files_make_their_signals_absent_and_nothing_else(tree: Tree, garbage: str) -> None:
    for path in ("proc/stat", "proc/meminfo", "proc/loadavg", "proc/pressure/cpu", "proc/self/cgroup"):
        tree.put(path, garbage)
    tree.supply("BAT0", type="Battery", energy_now=garbage, energy_full=garbage, status="Discharging")
    tree.put("sys/class/thermal/thermal_zone0/temp", garbage)
    snapshot = tree.sample()
    assert snapshot.memory is None
    assert snapshot.power.battery_charge is None
    assert snapshot.disk is not None


def test_this_machine_agrees_with_a_second_source(tmp_path: Path) -> None:
    monitor = Monitor(state_dir=tmp_path)
    monitor.sample(time.time())
    time.sleep(0.3)
    snapshot = monitor.sample(time.time())
    assert snapshot.cpu.count == len(os.sched_getaffinity(0))
    assert snapshot.cpu.busy is not None
    assert snapshot.cpu.load1 == pytest.approx(os.getloadavg()[0], abs=0.5)
    usage = shutil.disk_usage(tmp_path)
    assert snapshot.disk is not None
    assert snapshot.disk.total_bytes == usage.total
    assert snapshot.disk.free_bytes == pytest.approx(usage.free, rel=0.05)
    assert snapshot.memory is not None
    assert 0 < snapshot.memory.available_bytes <= snapshot.memory.total_bytes
    own = snapshot.workers[0]
    assert (own.name, own.pid) == ("daemon", os.getpid())
    assert own.resident_bytes > 1_000_000


def test_own_work_is_told_apart_from_that_of_others(tmp_path: Path) -> None:
    monitor = Monitor(state_dir=tmp_path)
    monitor.sample(time.time())
    began_s, used_s = time.monotonic(), time.process_time()
    while time.process_time() - used_s < 0.4:
        pass
    cpu = monitor.sample(time.time()).cpu
    took = (time.process_time() - used_s) / (time.monotonic() - began_s)
    assert cpu.busy_own == pytest.approx(min(1.0, took / cpu.cores), rel=0.3)


# whether somebody is there


def tty(tree: Tree, name: str, used_s: float) -> None:
    tree.put(f"dev/{name}", "")
    os.utime(tree.dev / name, (used_s, 0.0))  # output alone, the modification time, is no use


def test_the_terminal_used_last_says_how_long_the_user_is_idle(tree: Tree) -> None:
    tty(tree, "tty1", 1000.0)
    tty(tree, "pts/0", 4000.0)
    tty(tree, "pts/ptmx", 4900.0)
    tty(tree, "tty", 4900.0)
    tty(tree, "ttyS0", 4900.0)
    assert tree.monitor().sample(5000.0).user.idle_s == 1000.0
    tree.put("proc/uptime", "600.5 1000.0")  # a clock that has been put right since says nothing
    assert tree.monitor().sample(5000.0).user.idle_s == 600.5
    assert tree.monitor().sample(3000.0).user.idle_s == 0.0


def test_keys_and_mice_that_move_end_idleness_and_a_disk_on_usb_does_not(tree: Tree) -> None:
    tree.put("proc/uptime", "1000 1")
    tree.put("proc/interrupts", "     CPU0 CPU1\n  1:  10  20  IO-APIC 1-edge i8042\n  9: 5 5 IO-APIC 9-fasteoi acpi")
    for device, usb_class, count in (("1-2", "03", 7), ("1-3", "08", 9)):
        tree.put(f"sys/bus/usb/devices/{device}:1.0/bInterfaceClass", usb_class)
        tree.put(f"sys/bus/usb/devices/{device}/urbnum", count)
    monitor = tree.monitor()
    assert monitor.sample(1.0).user.idle_s == 0.0  # nothing is known from before the first look
    tree.put("proc/uptime", "1060 1")
    tree.put("sys/bus/usb/devices/1-3/urbnum", 900)
    assert monitor.sample(61.0).user.idle_s == 60.0
    assert monitor.sample(62.0).user.idle_s == 61.0  # between two looks
    for path, text in (
        ("sys/bus/usb/devices/1-2/urbnum", "8"),
        ("proc/interrupts", "     CPU0 CPU1\n  1:  10  21  IO-APIC 1-edge i8042"),
    ):
        tree.put("proc/uptime", "1120 1")
        tree.put(path, text)
        assert monitor.sample(121.0).user.idle_s == 0.0
        monitor.sample(131.0)


def test_without_a_terminal_and_counters_nothing_is_said_of_the_user(tree: Tree) -> None:
    tree.put("proc/uptime", "1000 1")
    assert tree.sample().user.idle_s is None


# energy


def rapl(tree: Tree, zone: str, name: str, count: int) -> None:
    tree.put(f"sys/class/powercap/{zone}/name", name)
    tree.put(f"sys/class/powercap/{zone}/energy_uj", count)
    tree.put(f"sys/class/powercap/{zone}/max_energy_range_uj", 1_000_000_000)


def busy(tree: Tree, seconds: float) -> None:
    tree.put(
        "proc/stat", f"cpu {round(seconds * os.sysconf('SC_CLK_TCK'))} 0 0 12345 50 0 0 0 0 0\ncpu0 1 1 1 1 1 1 1 1"
    )


def test_rapl_counts_packages_and_memory_once_and_past_the_end_of_its_range(tree: Tree) -> None:
    reader = EnergyReader(tree.proc, tree.sys)
    for zone, name in (("intel-rapl:0", "package-0"), ("intel-rapl:0:0", "core"), ("intel-rapl:0:2", "dram")):
        rapl(tree, zone, name, 990_000_000)
    busy(tree, 100.0)
    assert reader.read(10.0) is None
    rapl(tree, "intel-rapl:0", "package-0", 10_000_000)
    rapl(tree, "intel-rapl:0:0", "core", 5)
    rapl(tree, "intel-rapl:0:2", "dram", 995_000_000)
    busy(tree, 104.0)
    spent = reader.read(11.0)
    assert (spent.joules, spent.source, spent.busy_s) == (25.0, "rapl", 4.0)
    assert spent.share_of(1.0) == 6.25
    assert spent.share_of(9.0) == 25.0
    reader.forget()
    assert reader.read(12.0) is None


def test_a_battery_is_weighed_while_it_discharges_in_either_of_its_units(tree: Tree) -> None:
    reader = EnergyReader(tree.proc, tree.sys)
    tree.supply("AC", type="Mains", online=0)
    tree.supply("BAT0", type="Battery", status="Discharging", power_now=8_000_000)
    tree.supply("BAT1", type="Battery", status="Discharging", current_now=-500_000, voltage_now=4_000_000)
    tree.supply("mouse", type="Battery", scope="Device", status="Discharging", power_now=9)
    reader.read(0.0)
    spent = reader.read(2.0)
    assert (spent.joules, spent.source, spent.busy_s) == (20.0, "battery", None)
    assert spent.share_of(1.0) is None
    tree.supply("BAT1", status="Discharging", current_now="none")
    assert reader.read(3.0) is None
    for name in ("BAT0", "BAT1"):
        tree.supply(name, status="Charging")
    assert reader.read(4.0) is None


def test_a_machine_that_tells_no_energy_has_none(tree: Tree) -> None:
    reader = EnergyReader(tree.proc, tree.sys)
    assert (reader.read(0.0), reader.read(1.0)) == (None, None)


def test_power_is_read_from_rapl_first_then_at_the_supply_then_from_the_battery(tree: Tree) -> None:
    reader = ConsumptionReader(tree.sys)
    assert reader.read(10.0, None) is None
    assert reader.read(11.0, -8.0) is None  # charging says nothing of what the machine takes
    assert reader.read(12.0, 8.0) == Consumption(8.0, "battery")
    tree.put("sys/class/hwmon/hwmon0/name", "power_meter")
    tree.put("sys/class/hwmon/hwmon0/power1_average", 95_500_000)
    reader.discover()
    assert reader.read(14.0, 8.0) == Consumption(95.5, "input")
    rapl(tree, "intel-rapl:0", "package-0", 1_000_000)
    reader.discover()
    reader.read(16.0, 8.0)
    rapl(tree, "intel-rapl:0", "package-0", 31_000_000)
    assert reader.read(18.0, 8.0) == Consumption(15.0, "rapl")
    assert reader.read(18.0, 8.0) == Consumption(95.5, "input")  # no time has passed


# the clock


def test_a_throttle_counter_that_moves_counts_for_a_while(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("patchd.daemon.monitor.frequency.time.monotonic", lambda: now)
    number = min(os.sched_getaffinity(0))
    file = f"sys/devices/system/cpu/cpu{number}/thermal_throttle/package_throttle_count"
    tree.put(file, 7)
    reader = FrequencyReader(tree.sys)
    assert [reader.read().throttled for _ in range(2)] == [False, False]
    tree.put(file, 8)
    assert reader.read().throttled is True
    now += THROTTLED_FOR_S - 1
    assert reader.read().throttled is True
    now += 2
    assert reader.read().throttled is False


@pytest.mark.parametrize(
    ("text", "throttled"),
    [("0", False), ("50000", False), ("50005", True), ("0x80008", True), ("1", False), ("zz", None)],
)
def test_the_flags_of_a_raspberry_pi_count_while_they_slow_it(tree: Tree, text: str, throttled: bool | None) -> None:
    tree.put("sys/devices/platform/soc/soc:firmware/get_throttled", text)
    assert FrequencyReader(tree.sys).read().throttled is throttled


def test_a_cooling_device_of_the_processor_throttles_and_a_fan_does_not(tree: Tree) -> None:
    for number, kind in enumerate(("pwm-fan", "Processor")):
        tree.put(f"sys/class/thermal/cooling_device{number}/type", kind)
        tree.put(f"sys/class/thermal/cooling_device{number}/cur_state", 1 - number)
    reader = FrequencyReader(tree.sys)
    assert reader.read().throttled is False
    tree.put("sys/class/thermal/cooling_device1/cur_state", 3)
    assert reader.read().throttled is True


def test_only_some_of_many_clocks_are_looked_at(tree: Tree) -> None:
    number = min(os.sched_getaffinity(0))
    for policy in range(100):
        tree.clock(policy, f"{number}", now=1_000_000, allowed=2_000_000, highest=2_000_000)
    clock = FrequencyReader(tree.sys).read()
    assert (clock.frequency, clock.limit) == (0.5, 1.0)


# batteries that tell little


def test_batteries_with_different_units_count_alike(tree: Tree) -> None:
    tree.supply("BAT0", type="Battery", status="Charging", energy_now=10, energy_full=100, power_now=4_000_000)
    tree.supply("BAT1", type="Battery", status="Full", capacity=90)
    power = tree.sample().power
    assert power.battery_charge == pytest.approx(0.5)
    assert power.battery_watts == -4.0
    assert power.battery_seconds_left is None


# processes


def test_what_a_process_used_is_what_the_kernel_tells_itself() -> None:
    times = read_times(Path(f"/proc/{os.getpid()}"))
    own = os.times()
    assert times.cpu_s == pytest.approx(own.user + own.system, abs=0.2)
    assert times.parent == os.getppid()
    used = use_of(os.getpid())
    assert used.cpu_s == pytest.approx(times.cpu_s, abs=0.2)
    kilobytes = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
    assert used.resident_bytes == pytest.approx(int(kilobytes) * 1024, rel=0.1)


@pytest.mark.parametrize("text", ["", "1 (x", "1 (x) S", "1 (x) S a 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"])
def test_a_process_that_is_gone_or_says_nonsense_is_absent(tree: Tree, text: str) -> None:
    tree.put("proc/7/stat", text)
    assert read_times(tree.proc / "7") is None
    assert read_times(tree.proc / "8") is None


def test_one_of_our_own_processes_that_is_gone_is_absent() -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    assert use_of(int(ended.stdout)) is None
