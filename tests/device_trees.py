"""Made-up machines: trees of /proc, /sys and /dev that the real readers are pointed at, and a few whole machines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from patchd.daemon.monitor.monitor import Monitor
from patchd.policies.snapshot import Snapshot

GIB = 1024**3
PSI = "some avg10={some} avg60=3.00 avg300=0.10 total=1\nfull avg10={full} avg60=0.50 avg300=0.00 total=1\n"


class Tree:
    """A made-up /proc, /sys and /dev, and a state directory beside them."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys, self.state = root / "proc", root / "sys", root / "state"
        self.dev = root / "dev"
        for directory in (self.proc, self.sys, self.dev, self.state):
            directory.mkdir(parents=True)

    def put(self, path: str, text: object) -> None:
        file = self.proc.parent / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")

    def meminfo(self, total: int, available: int, swap: int = 0, swap_free: int = 0) -> None:
        lines = {"MemTotal": total, "MemAvailable": available, "SwapTotal": swap, "SwapFree": swap_free}
        self.put("proc/meminfo", "\n".join(f"{name}: {value // 1024} kB" for name, value in lines.items()))

    def stat(self, *, idle: int, busy: int, waiting: int = 0, steal: int = 0, running: int = 1) -> None:
        """All processors together; what is counted is ticks since the start."""
        rows = (f"cpu  {busy} 0 0 {idle} {waiting} 0 0 {steal} 0 0", f"procs_running {running}", "procs_blocked 0")
        self.put("proc/stat", "\n".join(rows))

    def supply(self, name: str, **fields: object) -> None:
        for field, value in fields.items():
            self.put(f"sys/class/power_supply/{name}/{field}", value)

    def zone(self, number: int, kind: str, millidegrees: int, **trips: int) -> None:
        """A thermal zone; `trips` are kinds of trip points with their temperatures."""
        place = f"sys/class/thermal/thermal_zone{number}"
        self.put(f"{place}/type", kind)
        self.put(f"{place}/temp", millidegrees)
        for index, (trip, at) in enumerate(trips.items()):
            self.put(f"{place}/trip_point_{index}_type", trip)
            self.put(f"{place}/trip_point_{index}_temp", at)

    def clock(self, policy: int, cpus: str, *, now: int, allowed: int, highest: int) -> None:
        """One cpufreq policy, in kHz."""
        place = f"sys/devices/system/cpu/cpufreq/policy{policy}"
        for name, value in (
            ("affected_cpus", cpus),
            ("scaling_cur_freq", now),
            ("scaling_max_freq", allowed),
            ("cpuinfo_max_freq", highest),
        ):
            self.put(f"{place}/{name}", value)

    def pressure(self, directory: str, suffix: str = "", *, some: float, full: float) -> None:
        for name in ("cpu", "memory", "io"):
            self.put(f"{directory}/{name}{suffix}", PSI.format(some=some, full=full))

    def monitor(self) -> Monitor:
        return Monitor(state_dir=self.state, proc_root=self.proc, sys_root=self.sys, dev_root=self.dev)

    def sample(self) -> Snapshot:
        return self.monitor().sample(1.0)


def nothing(_: Tree) -> None:
    """A machine that tells nothing."""


def laptop(tree: Tree) -> None:
    """On battery, both in use, warm; no control group limits it."""
    tree.meminfo(16 * GIB, 4 * GIB, 8 * GIB, 6 * GIB)
    tree.put("proc/loadavg", "1.20 0.80 0.50 2/900 4242")
    tree.put("proc/uptime", "7200.00 14000.00")
    tree.stat(idle=1000, busy=200, running=3)
    tree.pressure("proc/pressure", some=12.5, full=1.0)
    tree.put("proc/self/cgroup", "0::/system.slice/patchd.service")
    group = "sys/fs/cgroup/system.slice/patchd.service"
    tree.put("sys/fs/cgroup/cgroup.controllers", "cpu io memory")
    tree.put(f"{group}/memory.max", "max")
    tree.put(f"{group}/cpu.max", "max 100000")
    tree.pressure(group, ".pressure", some=2.5, full=0.25)
    tree.supply("AC", type="Mains", online=0)
    tree.supply(
        "BAT0",
        type="Battery",
        status="Discharging",
        energy_now=10_000_000,
        energy_full=40_000_000,
        power_now=5_000_000,
    )
    tree.supply(
        "BAT1",
        type="Battery",
        status="Discharging",
        energy_now=5_000_000,
        energy_full=10_000_000,
        power_now=2_500_000,
    )
    tree.supply("hidpp_battery_0", type="Battery", scope="Device", capacity=3, status="Discharging")
    tree.zone(0, "x86_pkg_temp", 71_000, passive=0)
    tree.zone(1, "acpitz", 65_000, critical=103_000, passive=80_000)
    tree.put("sys/class/hwmon/hwmon3/name", "coretemp")
    tree.put("sys/class/hwmon/hwmon3/temp1_input", 72_500)
    tree.put("sys/class/hwmon/hwmon3/temp1_label", "Package id 0")
    tree.put("sys/class/hwmon/hwmon3/temp1_crit", 100_000)
    for number in (0, 1):
        tree.clock(number, str(number), now=1_400_000, allowed=2_800_000, highest=3_500_000)
        tree.put(f"sys/devices/system/cpu/cpu{number}/thermal_throttle/core_throttle_count", 4)
        tree.put(f"sys/devices/system/cpu/cpu{number}/thermal_throttle/package_throttle_count", 9)


def raspberry_pi(tree: Tree) -> None:
    """One thermal zone, no power supply; its firmware says that the soft temperature limit holds the clock down."""
    tree.meminfo(4 * GIB, 3 * GIB, 0, 0)
    tree.put("proc/loadavg", "0.10 0.10 0.10 1/150 900")
    tree.stat(idle=1000, busy=200, running=1)
    tree.put("proc/self/cgroup", "0::/system.slice/patchd.service")
    tree.put("sys/fs/cgroup/cgroup.controllers", "cpu io")  # the memory controller is off there until it is asked for
    tree.zone(0, "cpu-thermal", 81_300, critical=110_000)
    tree.clock(0, "0 1 2 3", now=1_000_000, allowed=1_500_000, highest=1_500_000)
    tree.put("sys/devices/platform/soc/soc:firmware/get_throttled", "80008")


def jetson(tree: Tree) -> None:
    """Several thermal zones, one of them without a value, and a sensor of the power that the board takes."""
    tree.meminfo(8 * GIB, 5 * GIB, 4 * GIB, 4 * GIB)
    tree.put("proc/loadavg", "2.00 1.50 1.00 3/300 800")
    tree.stat(idle=1000, busy=200, running=2)
    tree.pressure("proc/pressure", some=0.0, full=0.0)
    tree.put("proc/self/cgroup", "3:memory:/system.slice\n0::/system.slice/patchd.service")
    tree.put("sys/fs/cgroup/unified/cgroup.controllers", "")
    tree.zone(0, "cpu-thermal", 48_500, active=51_000, passive=99_000, critical=104_500)
    tree.zone(1, "gpu-thermal", 47_000, passive=90_000, hot=94_000, critical=104_500)
    tree.zone(2, "cv0-thermal", -256_000, critical=104_500)
    tree.put("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0")
    tree.put("sys/class/thermal/cooling_device0/cur_state", 0)
    tree.put("sys/class/thermal/cooling_device1/type", "pwm-fan")
    tree.put("sys/class/thermal/cooling_device1/cur_state", 2)
    tree.clock(0, "0 1", now=729_600, allowed=1_510_400, highest=1_510_400)
    tree.put("sys/class/hwmon/hwmon1/name", "ina3221")
    for channel, rail, millivolts, milliamperes in (
        (1, "VDD_IN", 5_000, 900),
        (2, "VDD_CPU_GPU_CV", 5_000, 300),
        (3, "VDD_SOC", 5_000, 200),
    ):
        tree.put(f"sys/class/hwmon/hwmon1/in{channel}_label", rail)
        tree.put(f"sys/class/hwmon/hwmon1/in{channel}_input", millivolts)
        tree.put(f"sys/class/hwmon/hwmon1/curr{channel}_input", milliamperes)


def container_v1(tree: Tree) -> None:
    """A container under control groups of version 1: half the memory, a processor and a half."""
    tree.meminfo(16 * GIB, 12 * GIB)
    tree.put("proc/loadavg", "3.00 2.00 1.00 1/150 900")
    tree.stat(idle=1000, busy=200, running=4)
    tree.put("proc/self/cgroup", "7:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc")
    tree.put("sys/fs/cgroup/memory/memory.limit_in_bytes", GIB)
    tree.put("sys/fs/cgroup/memory/memory.usage_in_bytes", GIB // 2)
    tree.put("sys/fs/cgroup/memory/memory.stat", f"inactive_file 1\ntotal_inactive_file {GIB // 4}")
    tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", 150_000)
    tree.put("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", 100_000)


def container_v2(tree: Tree) -> None:
    """A container under control groups of version 2: the limits stand one level up, and half a processor is left."""
    tree.meminfo(16 * GIB, 12 * GIB)
    tree.put("proc/loadavg", "1.00 1.00 1.00 1/150 900")
    tree.stat(idle=1000, busy=200, running=2)
    tree.pressure("proc/pressure", some=50.0, full=5.0)
    tree.put("proc/self/cgroup", "0::/outer/inner")
    tree.put("sys/fs/cgroup/cgroup.controllers", "cpu memory")
    tree.put("sys/fs/cgroup/outer/inner/memory.max", "max")
    tree.put("sys/fs/cgroup/outer/inner/cpu.max", "max 100000")
    tree.pressure("sys/fs/cgroup/outer/inner", ".pressure", some=75.0, full=25.0)
    tree.put("sys/fs/cgroup/outer/memory.max", 2 * GIB)
    tree.put("sys/fs/cgroup/outer/memory.current", GIB + GIB // 2)
    tree.put("sys/fs/cgroup/outer/memory.stat", f"anon 5\ninactive_file {GIB // 2}")
    tree.put("sys/fs/cgroup/outer/cpu.max", "50000 100000")


MACHINES: Mapping[str, Callable[[Tree], None]] = {
    "laptop": laptop,
    "raspberry-pi": raspberry_pi,
    "jetson": jetson,
    "container-v1": container_v1,
    "container-v2": container_v2,
    "nothing": nothing,
}
