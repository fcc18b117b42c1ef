"""Every signal that this machine has, against a second source in the same run, and what a sample costs beside psutil.

Second sources are other programs and libraries (vmstat, free, df, ps, stat, lscpu, loginctl, nmcli, nvidia-smi, psutil)
and the kernel's own microsecond totals for pressure. A signal that only one source tells is named as such. One that
counts over time is compared over the same time; this program keeps itself busy meanwhile, so that there is something
to count.
Aim: no signal differs. The exit status is 1 when one does.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from common import finish, parser, print_table, running_daemon, sample_photograph
from patchd.client import Client
from patchd.daemon.monitor.cgroup import Cgroup
from patchd.daemon.monitor.monitor import Monitor
from patchd.policies.signal_readings import SignalReading, readings

SPIN_SHARE = 0.3  # of one core, while it is counted
SAMPLES = 300
HELD = 12  # requests at once, against requests.waiting
Totals = dict[tuple[str, str], int]


@dataclass(frozen=True)
class Second:
    """What another source says, and how far apart two right answers may be."""

    value: float
    source: str
    tolerance: float


@dataclass(frozen=True)
class Row:
    """One signal compared."""

    signal: str
    value: float
    second: Second | None

    @property
    def difference(self) -> float | None:
        """How far apart the two are."""
        return None if self.second is None else abs(self.value - self.second.value)

    @property
    def verdict(self) -> str:
        """In a word."""
        if self.second is None or self.difference is None:
            return "one source alone"
        return "agrees" if self.difference <= self.second.tolerance else "DIFFERS"


def output(*command: str) -> str | None:
    """What a program prints; None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else None


def keep_busy(until: threading.Event) -> None:
    """Use SPIN_SHARE of a core."""
    while not until.is_set():
        end = time.perf_counter() + 0.1 * SPIN_SHARE
        while time.perf_counter() < end:
            pass
        time.sleep(0.1 * (1 - SPIN_SHARE))


def stall_totals(directory: Path, suffix: str) -> Totals:
    """Microseconds that tasks have waited, by resource and kind, since the machine began."""
    totals = {}
    for resource in ("cpu", "memory", "io"):
        try:
            text = (directory / f"{resource}{suffix}").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            totals[resource, line.split()[0]] = int(line.rpartition("total=")[2])
    return totals


def second_pressure(prefix: str, before: Totals, after: Totals, seconds: float) -> dict[str, Second]:
    """The share of the window in which tasks waited; the kernel's average over 10 s weighs the same time unevenly."""
    return {
        f"{prefix}.{resource}.{kind}": Second((total - before[resource, kind]) / 1e6 / seconds, "total=", 0.15)
        for (resource, kind), total in after.items()
        if (resource, kind) in before
    }


def second_processors(vmstat: str | None, cores: float) -> dict[str, Second]:
    """From the last line of `vmstat S 2`, which tells of the S seconds in between."""
    if vmstat is None:
        return {}
    lines = vmstat.splitlines()  # two of headers, one since the machine began, one of the window
    row = dict(zip(lines[1].split(), lines[-1].split(), strict=False))
    return {
        "cpu.busy": Second(1 - (int(row["id"]) + int(row["wa"])) / 100, "vmstat id, wa", 0.05),
        "cpu.steal": Second(int(row["st"]) / 100, "vmstat st", 0.02),
        "cpu.runnable": Second(int(row["r"]) / cores, "vmstat r", 4 / cores),
    }


def second_memory(limited: bool) -> dict[str, Second]:
    """From free; under a limit it tells of the machine only."""
    text = output("free", "-b")
    if text is None:
        return {}
    rows = {line.split()[0]: [int(field) for field in line.split()[1:]] for line in text.splitlines()[1:]}
    found = {}
    if not limited:
        total, available = rows["Mem:"][0], rows["Mem:"][5]
        found["memory.available"] = Second(available / total, "free", 0.02)
        found["memory.available_bytes"] = Second(available, "free", 0.02 * total)
    if rows.get("Swap:", [0])[0]:
        found["memory.swap_used"] = Second(rows["Swap:"][1] / rows["Swap:"][0], "free", 0.01)
    return found


def second_disk(folder: Path) -> dict[str, Second]:
    """From df."""
    text = output("df", "-B1", "--output=avail,size", str(folder))
    if text is None:
        return {}
    available, size = (int(field) for field in text.splitlines()[1].split())
    return {
        "disk.free_bytes": Second(available, "df", 0.01 * size),
        "disk.free": Second(available / size, "df", 0.01),
    }


def second_device() -> dict[str, Second]:
    """Clock, heat and batteries, from lscpu and psutil."""
    found = {}
    rows = [line.split() for line in (output("lscpu", "-e=MAXMHZ,MHZ") or "").splitlines()[1:]]
    if rows and all(len(row) == 2 and all(re.fullmatch(r"[\d.]+", field) for field in row) for row in rows):
        share = statistics.mean(min(1.0, float(now) / float(most)) for most, now in rows)
        found["cpu.frequency"] = Second(share, "lscpu", 0.25)
    heat = [each.current for sensors in psutil.sensors_temperatures().values() for each in sensors]
    if heat:
        found["temperature.max"] = Second(max(heat), "psutil", 3.0)
    battery = psutil.sensors_battery()
    if battery is not None:
        found["battery.charge"] = Second(battery.percent / 100, "psutil", 0.02)
        if battery.power_plugged is not None:
            found["power.on_mains"] = Second(float(battery.power_plugged), "psutil", 0)
        if battery.secsleft > 0:
            found["battery.seconds_left"] = Second(battery.secsleft, "psutil", 0.2 * battery.secsleft)
    return found


def second_user() -> dict[str, Second]:
    """Idle time by stat of the terminals, sessions from loginctl, the connection from nmcli."""
    found = {}
    terminals = [str(path) for path in (*Path("/dev").glob("tty[0-9]*"), *Path("/dev/pts").glob("[0-9]*"))]
    used = output("stat", "-c", "%X", *terminals) if terminals else None
    if used is not None:
        idle = min(time.time() - max(float(line) for line in used.splitlines()), time.time() - psutil.boot_time())
        found["user.idle_s"] = Second(idle, "stat of terminals", 10.0)
    sessions = output("loginctl", "list-sessions", "--no-legend")
    if sessions is not None:
        found["user.sessions"] = Second(len(sessions.splitlines()), "loginctl", 0)
    metered = output("nmcli", "-g", "GENERAL.METERED", "device", "show")
    if metered is not None and (first := metered.split()[:1]):
        found["network.metered"] = Second(float(first[0] == "yes"), "nmcli", 0)
    return found


def second_gpu() -> dict[str, Second]:
    """From nvidia-smi."""
    asked = "utilization.gpu,memory.free,memory.total,temperature.gpu,power.draw"
    text = output("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits")
    if text is None:
        return {}
    rows = [[float(field) for field in line.split(",")] for line in text.splitlines() if "[" not in line]
    if not rows:
        return {}
    return {
        "gpu.busy": Second(max(row[0] for row in rows) / 100, "nvidia-smi", 0.2),
        "gpu.memory_free": Second(min(row[1] / row[2] for row in rows), "nvidia-smi", 0.02),
        "gpu.celsius": Second(max(row[3] for row in rows), "nvidia-smi", 3.0),
        "gpu.watts": Second(sum(row[4] for row in rows), "nvidia-smi", 0.2 * sum(row[4] for row in rows) + 5),
    }


def compare(seconds: float, folder: Path) -> tuple[list[Row], list[SignalReading]]:
    """Sample, wait, sample again, while others watch the same time; what is present, and what is absent."""
    monitor, group = Monitor(state_dir=folder), Cgroup(Path("/proc"), Path("/sys")).directory
    asyncio.run(monitor.refresh_slow())
    places: list[tuple[str, Path, str]]
    places = [("pressure", Path("/proc/pressure"), "")]
    places += [] if group is None else [("pressure.own", group, ".pressure")]
    stop = threading.Event()
    spinning = threading.Thread(target=keep_busy, args=(stop,))
    spinning.start()
    try:
        totals = [stall_totals(place, suffix) for _, place, suffix in places]
        began, used = time.monotonic(), time.process_time()
        monitor.sample(time.time())
        vmstat = output("vmstat", str(round(seconds)), "2")
        time.sleep(max(0.0, seconds - (time.monotonic() - began)))
        seen = monitor.sample(time.time())
        elapsed, share = time.monotonic() - began, time.process_time() - used
        resident = output("ps", "-o", "rss=", "-p", str(os.getpid()))
        found = second_memory(seen.memory is not None and seen.memory.limited_by != "machine")
        found |= second_processors(vmstat, seen.cpu.cores)
        for (prefix, place, suffix), before in zip(places, totals, strict=True):
            found |= second_pressure(prefix, before, stall_totals(place, suffix), elapsed)
    finally:
        stop.set()
        spinning.join()
    own = min(1.0, share / elapsed / seen.cpu.cores)
    found["cpu.busy_own"] = Second(own, "process_time", 0.02)
    if "cpu.busy" in found:
        found["cpu.busy_other"] = Second(max(0.0, found["cpu.busy"].value - own), "vmstat less process_time", 0.06)
    found["cpu.load1"] = Second(os.getloadavg()[0] / seen.cpu.cores, "getloadavg", 0.3)
    if resident is not None:
        found["memory.own_bytes"] = Second(int(resident) * 1024, "ps", 4e6)
    found |= second_disk(folder) | second_device() | second_user() | second_gpu()
    told = readings(seen, monitor.origins(seen), time.time())
    rows = [Row(each.name, each.value, found.get(each.name)) for each in told if each.value is not None]
    return rows, [each for each in told if each.value is None]


def compare_requests() -> Row:
    """`requests.waiting` of a daemon that this program keeps asking HELD things at once."""
    picture = sample_photograph().read_bytes()
    with running_daemon() as daemon:
        daemon.client.infer("imagenet", picture)
        stop = threading.Event()

        def ask() -> None:
            with Client(daemon.socket) as client:
                while not stop.is_set():
                    client.infer("imagenet", picture)

        with ThreadPoolExecutor(HELD) as pool:
            asking = [pool.submit(ask) for _ in range(HELD)]
            try:
                seen = [waiting for _ in range(10) if (waiting := _waiting(daemon.client)) is not None]
            finally:
                stop.set()
        for each in asking:
            each.result()
    # Of those who ask, some are on the way: their answer is being read, or their next request written.
    return Row("requests.waiting", statistics.median(seen), Second(HELD, "clients that ask", HELD / 3))


def _waiting(client: Client) -> float | None:
    time.sleep(0.5)
    requests = client.snapshot().requests
    return None if requests is None else float(requests.waiting)


def sampling_cost(folder: Path) -> dict[str, float]:
    """Processor microseconds of a sample, and of psutil for what it has of the same, turn about."""
    monitor = Monitor(state_dir=folder)

    def with_psutil() -> None:
        psutil.cpu_times(percpu=True), psutil.getloadavg(), psutil.virtual_memory(), psutil.swap_memory()
        psutil.disk_usage(str(folder)), psutil.sensors_battery(), psutil.sensors_temperatures(), psutil.cpu_freq()
        process = psutil.Process()
        process.cpu_times(), process.memory_info()

    taken: dict[str, list[float]] = {"patchd": [], "psutil": []}
    for _ in range(SAMPLES):
        for name, sample in (("patchd", lambda: monitor.sample(time.time())), ("psutil", with_psutil)):
            began = time.thread_time()
            sample()
            taken[name].append((time.thread_time() - began) * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=15.0, help="time over which shares are counted [default: 15]")
    made.add_argument("--without-daemon", action="store_true", help="leave out the signal that needs a running daemon")
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory(prefix="patchd-bench-") as name:
        folder = Path(name)
        rows, absent = compare(arguments.seconds, folder)
        cost = sampling_cost(folder)
    if not arguments.without_daemon:
        rows.append(compare_requests())
    absent = [each for each in absent if each.name not in {row.signal for row in rows}]
    print_table(
        ("signal", "value", "second value", "second source", "difference", "verdict"),
        [
            (row.signal, row.value, *(("-", "-", "-") if row.second is None else told(row, row.second)), row.verdict)
            for row in rows
        ],
    )
    print()
    print_table(("absent", "because"), [(each.name, each.absent_because or "") for each in absent])
    verdicts = Counter(row.verdict for row in rows)
    print("\n" + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()) + f", {len(absent)} absent")
    ours, theirs = cost["patchd"], cost["psutil"]
    print(f"a sample takes {ours:.0f} us of a processor; psutil, for what it has of these, {theirs:.0f} us")
    result = {
        "signals": [
            {
                "signal": row.signal,
                "value": row.value,
                "second": None if row.second is None else asdict(row.second),
                "difference": row.difference,
                "verdict": row.verdict,
            }
            for row in rows
        ],
        "absent": {each.name: each.absent_because for each in absent},
        "sample_us": cost,
    }
    finish("signals", result, arguments.output)
    sys.exit(1 if verdicts["DIFFERS"] else 0)


def told(row: Row, second: Second) -> tuple[float, str, float]:
    """The cells of a second source."""
    return second.value, second.source, row.difference or 0.0


if __name__ == "__main__":
    main()
