"""What the control plane costs while nothing is asked of it: resident memory and processor time.

The peer, measured at the same time: a minimal asyncio program that samples psutil every second and does nothing else.
Aims: at most 60 MB resident, at most 0.5 % of a core, and no torch mapped.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from common import end, finish, parser, print_table, running_daemon, spread

PEER = """
import asyncio, psutil
async def main():
    while True:
        psutil.cpu_times(), psutil.virtual_memory(), psutil.disk_usage("/"), psutil.sensors_battery()
        await asyncio.sleep(1)
asyncio.run(main())
"""
SETTLE_S = 5.0  # start-up work is not idling
LOOK_EVERY_S = 5.0


@dataclass
class Watched:
    """One process and what was seen of it."""

    name: str
    process: psutil.Process
    resident: list[int] = field(default_factory=list)
    processor_s: float = 0.0

    def processor_time(self) -> float:
        """User and system seconds so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


def torch_mapped(pid: int) -> bool:
    """Whether a library of torch is in the process's address space."""
    return "torch" in Path(f"/proc/{pid}/maps").read_text()


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=300.0, help="how long to watch [default: 300]")
    arguments = made.parse_args()
    peer = subprocess.Popen([sys.executable, "-c", PEER])
    try:
        with running_daemon() as daemon:
            time.sleep(SETTLE_S)
            watched = [
                Watched("patchd", psutil.Process(daemon.process.pid)),
                Watched("asyncio + psutil", psutil.Process(peer.pid)),
            ]
            elapsed = watch(watched, arguments.seconds)
            mapped = torch_mapped(daemon.process.pid)
    finally:
        end(peer)
    result = {
        one.name: {
            "resident_bytes": spread(one.resident),
            "resident_bytes_max": max(one.resident),
            "processor_share": one.processor_s / elapsed,
        }
        for one in watched
    }
    rows = [(one.name, max(one.resident) / 1e6, 100 * one.processor_s / elapsed, round(elapsed)) for one in watched]
    print_table(("process", "resident max, MB", "% of a core", "seconds"), rows)
    ours, theirs = rows
    print(f"\nratios to the peer: memory {ours[1] / theirs[1]:.2f}, processor {ours[2] / max(theirs[2], 1e-9):.2f}")
    print(f"torch mapped in patchd: {'yes' if mapped else 'no'}")
    finish("idle", {**result, "seconds": elapsed, "torch_mapped": mapped}, arguments.output)


def watch(watched: list[Watched], seconds: float) -> float:
    """Look at the processes every few seconds; the seconds that it took."""
    before = [one.processor_time() for one in watched]
    began = time.monotonic()
    while (left := seconds - (time.monotonic() - began)) > 0:
        time.sleep(min(LOOK_EVERY_S, left))
        for one in watched:
            one.resident.append(one.process.memory_info().rss)
    elapsed = time.monotonic() - began
    for one, start in zip(watched, before, strict=True):
        one.processor_s = one.processor_time() - start
    return elapsed


if __name__ == "__main__":
    main()
