"""What happens to the device between two samples: each such event makes patchd look at once."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from ..policies.signal_readings import Origin
from .api.sampling_schemas import EventSourceState
from .events import EventLog
from .monitor.cgroup import Cgroup
from .monitor.event_sources import EventSource, EventSources
from .monitor.triggers import pressure_sources
from .monitor.uevents import Uevents
from .rhythm import Rhythm

MEMORY = "pressure.memory"
QUIET_S = 10.0  # without an event; the next one is the beginning of something
ACUTE_S = 5.0  # under lasting pressure a trigger tells of it every window, which is 2 s at most
REAL_SYS = Path("/sys")
# What memory that has run short may take away at once: an idle worker, a slice of training.
ON_MEMORY = ("keep-alive", "training")


class DeviceEvents:
    """Watches from `open` to `close`."""

    def __init__(
        self,
        proc_root: Path,
        sys_root: Path,
        events: EventLog,
        rhythm: Rhythm,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._events, self._rhythm = events, rhythm
        sources: list[EventSource] = [*pressure_sources(proc_root, Cgroup(proc_root, sys_root).own_group, environ)]
        if sys_root == REAL_SYS:
            sources.append(Uevents())
        self._sources = EventSources(sources, self._happened, self._lost)

    def open(self) -> None:
        """Begin to watch; what cannot be watched is told once. Call it in the event loop."""
        self._sources.open()
        told = [f"{each.name} ({each.absent})" for each in self._sources if each.absent is not None]
        if told:
            self._events.emit("sampling.polled", f"Changes are seen at the next sample only for {'; '.join(told)}.")

    def close(self) -> None:
        """Watch no more."""
        self._sources.close()

    def states(self) -> tuple[EventSourceState, ...]:
        """Every source, with what it watches or why it is absent."""
        return tuple(self._sources)

    def memory_acute(self) -> tuple[bool | None, Origin]:
        """Whether tasks have lost time to a shortage of memory in the last seconds, and who tells.

        None where nothing would tell, and why.
        """
        asked = [each for each in self._sources if each.name.startswith(MEMORY)]
        watched = [each for each in asked if each.absent is None]
        if not watched:
            return None, Origin("", "; ".join(f"{each.absent}" for each in asked))
        now_s = time.time()
        acute = any(each.last_s is not None and abs(now_s - each.last_s) <= ACUTE_S for each in watched)
        return acute, Origin(", ".join(each.watches for each in watched))

    def _happened(self, source: EventSourceState) -> None:
        """`source` as it was before, but for its count: `last_s` says since when it had been quiet."""
        began = source.last_s is None or abs(time.time() - source.last_s) > QUIET_S
        if source.name.startswith(MEMORY):
            if began:
                self._events.emit(
                    "pressure.memory", f"Tasks lose time to a shortage of memory ({source.watches}).", level="warning"
                )
            self._rhythm.wake(f"{source.name} told of a shortage", *ON_MEMORY)
        elif began or not source.name.startswith("pressure."):
            # Pressure that lasts is told of again and again; the samples see it themselves.
            self._rhythm.wake(f"{source.name} told of a change")

    def _lost(self, source: EventSourceState) -> None:
        self._events.emit("sampling.lost", f"{source.name} tells of changes no more: {source.absent}.", level="warning")
