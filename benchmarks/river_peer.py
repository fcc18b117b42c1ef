"""The peers of `drift.py`: detectors of river with its defaults. Run by it with an interpreter that has river.

Reads JSON, a list of (audits as a string of 0 and 1, index of the change), and writes for each detector and stream how
often it raised an alarm before the change and the audits from there to the first alarm, null without one. ADWIN also
reports falls, which are no alarms here: only those count where its estimate rose.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

from river.drift import ADWIN, PageHinkley
from river.drift.binary import DDM


class RisingADWIN:
    """ADWIN (Bifet and Gavalda 2007), told apart by direction."""

    def __init__(self) -> None:
        self._own = ADWIN()
        self.drift_detected = False

    def update(self, audit: int) -> None:
        before = self._own.estimation
        self._own.update(audit)
        self.drift_detected = self._own.drift_detected and self._own.estimation > before


PEERS: dict[str, Callable[[], Any]] = {
    "ADWIN": RisingADWIN,
    "DDM": DDM,  # Gama et al. 2004
    "Page-Hinkley": lambda: PageHinkley(mode="up"),
}


def outcome(made: Callable[[], Any], audits: str, change: int) -> tuple[int, int | None]:
    """Alarms before the change, and the delay of the first one after it. The detectors start anew after an alarm."""
    detector, early = made(), 0
    for place, audit in enumerate(audits):
        detector.update(int(audit))
        if detector.drift_detected:
            if place >= change:
                return early, place - change + 1
            early += 1
    return early, None


if __name__ == "__main__":
    streams = json.load(sys.stdin)
    json.dump({name: [outcome(made, *stream) for stream in streams] for name, made in PEERS.items()}, sys.stdout)
