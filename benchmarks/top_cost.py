"""What watching costs: the processor time of `patchctl top` at its one look a second, and what it adds to the daemon's.

Each program runs in a pseudo-terminal of 80 x 24 of its own, turn about with the daemon alone. Peers in the same run:
`top -d 1` of procps, and a bare Textual program that shows a clock, which is what the library itself takes.
Aim: under 3 % of a core.
"""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import statistics
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from common import finish, parser, print_table, running_daemon, sample_photograph

SIZE = (24, 80)
SETTLE_S = 4.0  # starting is not watching
CLOCK = """
import time
from textual.app import App
from textual.widgets import Static
class Clock(App):
    def compose(self):
        yield Static("")
    def on_mount(self):
        self.set_interval(1.0, lambda: self.query_one(Static).update(time.strftime("%H:%M:%S")))
Clock().run(mouse=False)
"""


@contextmanager
def in_terminal(command: Sequence[str], environ: Mapping[str, str]) -> Iterator[psutil.Process]:
    """A program in a terminal whose screen somebody reads."""
    pid, terminal = pty.fork()
    if pid == 0:  # the child; nothing but exec may be called here
        os.execvpe(command[0], list(command), {**os.environ, **environ, "TERM": "xterm-256color"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    reader = threading.Thread(target=_read_all, args=(terminal,), daemon=True)
    reader.start()
    try:
        yield psutil.Process(pid)
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)
        os.close(terminal)


def _read_all(terminal: int) -> None:
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:
        return  # the program has ended


def spent(process: psutil.Process) -> float:
    """User and system seconds of a process so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    """Run the benchmark."""
    made = parser(__doc__)
    made.add_argument("--seconds", type=float, default=60.0, help="how long to watch each [default: 60]")
    made.add_argument("--rounds", type=int, default=3, help="how often, turn about [default: 3]")
    arguments = made.parse_args()
    programs: dict[str, list[str]] = {"patchctl top": [sys.executable, "-m", "patchd.daemon.cli.main", "top"]}
    programs["a clock in Textual"] = [sys.executable, "-c", CLOCK]
    if shutil.which("top"):
        programs["top -d 1"] = ["top", "-d", "1"]
    shares: dict[str, list[float]] = {name: [] for name in ("nothing", *programs)}
    daemons: dict[str, list[float]] = {name: [] for name in ("nothing", *programs)}
    resident: dict[str, int] = {}
    with running_daemon() as daemon:
        image = Path(sample_photograph()).read_bytes()
        daemon.client.infer("imagenet", image)
        control = psutil.Process(daemon.process.pid)
        environ = {"PATCHD_SOCKET": str(daemon.socket)}
        for _ in range(arguments.rounds):
            before, began = spent(control), time.monotonic()
            time.sleep(arguments.seconds)
            daemons["nothing"].append((spent(control) - before) / (time.monotonic() - began))
            for name, command in programs.items():
                with in_terminal(command, environ) as watching:
                    time.sleep(SETTLE_S)
                    before, own, began = spent(control), spent(watching), time.monotonic()
                    time.sleep(arguments.seconds)
                    elapsed = time.monotonic() - began
                    shares[name].append((spent(watching) - own) / elapsed)
                    daemons[name].append((spent(control) - before) / elapsed)
                    resident[name] = watching.memory_info().rss
    rows = [
        (
            name,
            100 * statistics.median(shares[name]) if shares[name] else "-",
            100 * statistics.median(daemons[name]),
            resident[name] / 1e6 if name in resident else "-",
        )
        for name in daemons
    ]
    print_table(("watched with", "its % of a core", "the daemon's % of a core", "its resident MB"), rows)
    finish("top_cost", {"own": shares, "daemon": daemons, "resident_bytes": resident}, arguments.output)


if __name__ == "__main__":
    main()
