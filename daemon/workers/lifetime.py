"""What every worker process does about its own life: die with the daemon, leave Ctrl-C to it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # prctl(2)


def tie_to_parent(parent_pid: int) -> None:
    """Have the kernel kill this process when the daemon dies, however it dies; ignore the terminal's Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:  # it died before the call above
        sys.exit(0)
