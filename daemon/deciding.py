"""The decision loop: sample the device, overlay a trace where one plays, decide, keep and announce what changed."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..policies.choices import Choices
from ..policies.decide import decide
from ..policies.decision import Decision, RungDecision
from ..policies.errors import UnavailableError
from ..policies.restrictions import FREE, Restrictions, of_task
from ..policies.rules import PolicyState as RuleMemory
from ..policies.rules import initial_state
from ..policies.snapshot import Snapshot
from ..policies.task_rungs import rung_for
from ..policies.training_costs import TrainingSituation
from ..policies.training_plan import Plans
from ..policies.training_times import TrainingDay
from ..policies.verdicts import verdicts
from .api.schemas import TraceReplay, TraceState
from .backlog import Backlog
from .events import EventLog
from .monitor.monitor import Monitor
from .monitor.trace_player import TracePlayer
from .policy_service import PolicyService
from .store import Store, Stored
from .task_service import TaskService

HEALTHY_PERIODS = 10  # turns that may be missed before the watchdog is left unfed


class DecisionService:
    """Holds the snapshot and the decision in force; `tick` samples and decides anew.

    `period_s` is the time after which the next tick is planned: whoever calls it changes that as well.
    """

    def __init__(
        self,
        store: Store,
        events: EventLog,
        policies: PolicyService,
        tasks: TaskService,
        monitor: Monitor,
        period_s: float,
        today: Callable[[float], TrainingDay],
    ) -> None:
        """`today` tells the local time of a Unix time, and what training has used of that day."""
        self._store, self._events, self._policies, self._tasks = store, events, policies, tasks
        self._monitor, self._today = monitor, today
        self._usual_s = self.period_s = period_s
        self._player = TracePlayer()
        self.memory: RuleMemory = initial_state()
        self._policy_hash = policies.state.sha256
        self._situation: Callable[[Snapshot], TrainingSituation] | None = None
        self._pace: Callable[[], float | None] = lambda: None
        self._plans = Plans()
        self._choices = Choices()
        self._count = 0
        self._prefix = f"{int(time.time()):x}"
        self._unsaved: Backlog[Stored] = Backlog(store.put_decision)
        self._listeners: list[Callable[[Decision], None]] = []
        self._watchers: list[Callable[[Snapshot, Decision | None], None]] = []
        self.snapshot: Snapshot | None = None
        self.current: Decision | None = None
        self._last_tick_s = time.monotonic()

    def on_change(self, listener: Callable[[Decision], None]) -> None:
        """Call `listener` with every decision that differs from the one before."""
        self._listeners.append(listener)

    def on_sample(self, watcher: Callable[[Snapshot, Decision | None], None]) -> None:
        """Call `watcher` with every sample of the device and the decision that stands after it."""
        self._watchers.append(watcher)

    def plan_for(self, situation: Callable[[Snapshot], TrainingSituation]) -> None:
        """Ask `situation` at every turn what training plans are for; it gives the same object while nothing changed."""
        self._situation = situation

    def pace_by(self, pace: Callable[[], float | None]) -> None:
        """Ask `pace` at every turn how many times their calm cost the predictions since the last turn took."""
        self._pace = pace

    def tick(self) -> None:
        """One turn of the loop."""
        now_s = time.time()
        device = self._monitor.sample(now_s)
        playing = self._player.name
        self.snapshot = self._player.overlay(device, now_s)
        if playing is not None and self._player.name is None:
            self._events.emit("trace.ended", f"The trace {playing} has ended; the device's own signals count again.")
        self.refresh()
        for watcher in self._watchers:
            watcher(self.snapshot, self.current)
        self._last_tick_s = time.monotonic()

    def check_health(self) -> None:
        """Raises UnavailableError when the loop has stopped turning."""
        silent_s = time.monotonic() - self._last_tick_s
        if silent_s > self.period_s + HEALTHY_PERIODS * self._usual_s + 1.0:
            raise UnavailableError(f"The decision loop has not turned for {silent_s:.0f} s.", retry_after_s=5.0)

    def refresh(self) -> None:
        """Decide anew on the snapshot in hand: a policy, a task or a measured cost has changed."""
        if self.snapshot is None:
            return
        digest = self._policies.state.sha256
        if digest != self._policy_hash:
            self._policy_hash, self.memory = digest, initial_state()
        self._count += 1
        decision, self.memory = decide(
            self._policies.policy,
            self.snapshot,
            self.memory,
            self._tasks.ladders,
            None if self._situation is None else self._situation(self.snapshot),
            self.current,
            f"{self._prefix}-{self._count}",
            self._choices,
            self._today(self.snapshot.time_s),
            self._plans,
            self._pace(),
        )
        before, self.current = self.current, decision
        if before is not None and not decision.changed:
            # The id stands for what was decided; it is stored once, and stays while the same is decided again.
            self.current = decision.model_copy(update={"id": before.id})
            self._unsaved.flush()
        else:
            self._unsaved.put(self._with_grounds(decision, self.snapshot))
            if decision.changed:
                self._events.emit("decision.changed", " ".join(decision.changed), decision=decision.id)
            for listener in self._listeners:
                listener(decision)

    def rung(self, task: str, base: str | None = None, caller: Restrictions = FREE) -> RungDecision:
        """The rung in force for a task that can answer.

        Decided on the spot for a task added since the last tick, among the rungs of another `base` than the task's
        own, and for a caller that may have less. Raises NotFoundError when there is no such rung.
        """
        decision, decided = self.current, None
        if decision is not None and base in (None, self._tasks.task(task).base):
            decided = next((rung for rung in decision.rungs if rung.task == task), None)
        device, slowdown = (1.0, 1.0) if decision is None else (decision.inference.value, decision.slowed_by)
        return rung_for(self._tasks.ladder(task, base), decided, device, self.restrictions(task), caller, slowdown)

    def restrictions(self, task: str) -> Restrictions:
        """What the policy and the rules that match now take away from all requests to a task."""
        return of_task(self._policies.policy, () if self.current is None else self.current.caps, task)

    def in_force(self) -> Stored | None:
        """The decision in force as of the last sample, with all that it rests on; None before the first."""
        if self.current is None or self.snapshot is None:
            return None
        return self._with_grounds(self.current, self.snapshot)

    def _with_grounds(self, decision: Decision, snapshot: Snapshot) -> Stored:
        rules = verdicts(self._policies.policy, snapshot, self.memory, self._today(snapshot.time_s).local)
        return Stored(decision, snapshot, self._policies.state, rules)

    # traces

    def play(self, request: TraceReplay) -> TraceState:
        """Feed a trace to the loop in place of the device. Raises TraceError."""
        from ..policies.trace_reading import parse_trace  # what a format needs is not kept in memory for the rest

        trace = parse_trace(request.jsonl, request.name)
        self._player.start(trace, request.speed, time.time())
        self._events.emit(
            "trace.started",
            f"The trace {trace.name} takes the place of the device for {trace.duration_s / request.speed:.0f} s.",
            level="warning",
        )
        return self.trace_state()

    def stop_trace(self) -> TraceState:
        """Return to the device's own signals."""
        if self._player.name is not None:
            self._events.emit("trace.ended", f"The trace {self._player.name} was stopped.")
        self._player.stop()
        return self.trace_state()

    def trace_state(self) -> TraceState:
        """Whether a trace plays, and where it stands."""
        player = self._player
        return TraceState(
            active=player.name is not None,
            name=player.name,
            position_s=player.position_s(time.time()),
            duration_s=player.duration_s,
        )
