"""What the control plane costs while nothing is asked of it, all signals on: memory, processor time, wake-ups.

Peers in the same run: a minimal asyncio program that samples psutil every second and does nothing else, and, with
`--tuned`, TuneD, Debian's Python daemon that tunes machines, under a profile that changes nothing (`tuned_peer.py`; as
root, since it refuses to run as anybody else). Its packages need not be installed; unpacked they do as well:

    apt-get download tuned python3-linux-procfs python3-pyudev python3-dbus python3-gi python3-decorator \
        python3-six python3-schedutils
    for package in *.deb; do dpkg -x $package unpacked; done
    python benchmarks/idle.py --tuned unpacked

A wake-up is a voluntary context switch: a thread that had slept and sleeps again. Aims: at most 60 MB resident, at most
0.5 % of a core, and no torch mapped.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from common import end, finish, parser, print_table, running_daemon, spread
from patchd.client import Client

PEER = """
import asyncio, psutil
async def main():
    while True:
        psutil.cpu_times(), psutil.virtual_memory(), psutil.disk_usage("/"), psutil.sensors_battery()
        await asyncio.sleep(1)
asyncio.run(main())
"""
SYSTEM_PYTHON = "/usr/bin/python3"
SETTLE_S = 45.0  # start-up work is not idling, and the daemon samples ever more rarely for its first seconds
LOOK_EVERY_S = 5.0


@dataclass
class Watched:
    """One process and what was seen of it."""

    name: str
    process: psutil.Process
    resident: list[int] = field(default_factory=list)
    processor_s: float = 0.0
    wake_ups: int = 0

    def counters(self) -> tuple[float, int]:
        """Processor seconds and voluntary context switches so far, of all its threads.

        The scheduler's own account: ticks of 10 ms would be coarse for a process that uses a few of them a minute.
        """
        tasks = list(Path(f"/proc/{self.process.pid}/task").iterdir())
        nanoseconds = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
        return nanoseconds / 1e9, sum(_voluntary(task) for task in tasks)


def _voluntary(task: Path) -> int:
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def torch_mapped(pid: int) -> bool:
    """Whether a library of torch is in the process's address space."""
    return "torch" in Path(f"/proc/{pid}/maps").read_text()


def peers(stack: ExitStack, tuned: Path | None) -> dict[str, subprocess.Popen[bytes]]:
    """The peers by name, started; they end with `stack`."""
    started = {"asyncio + psutil": subprocess.Popen([sys.executable, "-c", PEER])}
    if tuned is not None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="patchd-tuned-"))
        program = Path(__file__).with_name("tuned_peer.py")
        log = stack.enter_context((Path(folder) / "output").open("wb"))
        command = [SYSTEM_PYTHON, str(program), str(tuned), folder]
        started["TuneD"] = subprocess.Popen(command, stdout=log, stderr=log)
        time.sleep(5.0)
        if started["TuneD"].poll() is not None:
            raise SystemExit(f"TuneD has ended:\n{(Path(folder) / 'output').read_text()}")
    for process in started.values():
        stack.callback(end, process)
    return started


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=600.0, help="how long to watch [default: 600]")
    made.add_argument("--tuned", type=Path, metavar="ROOT", help="where TuneD's packages are: / or a folder")
    arguments = made.parse_args()
    with ExitStack() as stack:
        others = peers(stack, arguments.tuned)
        daemon = stack.enter_context(running_daemon())
        time.sleep(SETTLE_S)
        watched = [Watched("patchd", psutil.Process(daemon.process.pid))]
        watched += [Watched(name, psutil.Process(process.pid)) for name, process in others.items()]
        elapsed = watch(watched, arguments.seconds)
        mapped = torch_mapped(daemon.process.pid)
        told = signals_told(daemon.client)
    result = {
        one.name: {
            "resident_bytes": spread(one.resident),
            "resident_bytes_max": max(one.resident),
            "processor_share": one.processor_s / elapsed,
            "wake_ups_per_s": one.wake_ups / elapsed,
        }
        for one in watched
    }
    rows = [
        (one.name, max(one.resident) / 1e6, 100 * one.processor_s / elapsed, one.wake_ups / elapsed) for one in watched
    ]
    print_table(("process", "resident max, MB", "% of a core", "wake-ups a second"), rows)
    for name, *theirs in rows[1:]:
        ratios = [ours / max(value, 1e-9) for ours, value in zip(rows[0][1:], theirs, strict=True)]
        print(f"\nratios to {name}: memory {ratios[0]:.2f}, processor {ratios[1]:.2f}, wake-ups {ratios[2]:.2f}")
    print(f"\n{elapsed:.0f} s; torch mapped in patchd: {'yes' if mapped else 'no'}; {told}")
    finish("idle", {**result, "seconds": elapsed, "torch_mapped": mapped, "signals": told}, arguments.output)


def signals_told(client: Client) -> str:
    """How many signals this machine has, and how often they were sampled at the end."""
    signals = client.signals().signals
    sampling = client.status().sampling
    present = sum(each.value is not None for each in signals)
    period = "" if sampling is None else f", sampled every {sampling.period_s:g} s at the end ({sampling.why})"
    return f"{present} of {len(signals)} signals present{period}"


def watch(watched: list[Watched], seconds: float) -> float:
    """Look at the processes every few seconds; the seconds that it took."""
    before = [one.counters() for one in watched]
    began = time.monotonic()
    while (left := seconds - (time.monotonic() - began)) > 0:
        time.sleep(min(LOOK_EVERY_S, left))
        for one in watched:
            one.resident.append(one.process.memory_info().rss)
    elapsed = time.monotonic() - began
    for one, (processor_s, wake_ups) in zip(watched, before, strict=True):
        now_s, now_ups = one.counters()
        one.processor_s, one.wake_ups = now_s - processor_s, now_ups - wake_ups
    return elapsed


if __name__ == "__main__":
    main()
