"""Measuring in the training worker: what is asked for, what is in hand, and who waits for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from ..policies.errors import PatchdError, StateError, UnavailableError, WorkerCrashedError
from .events import EventLog
from .training_costs import TrainingCostBook
from .workers.measure_messages import (
    JobOutlined,
    MeasureImportance,
    MeasureTraining,
    MeasuringEnded,
    TrainingMeasured,
    TrainingMeasuring,
)
from .workers.protocol import Message

AGAIN_AFTER_S = 3600.0  # after one that failed; until then what patchd ships stands
IMPORTANCE = ("", 0)  # beside bases and threads: the one measurement that is of no base alone

Request = MeasureTraining | MeasureImportance


class Measurements:
    """One at a time runs in the training worker, between two slices. `on_costs` is called when costs are new."""

    def __init__(self, costs: TrainingCostBook, events: EventLog, on_costs: Callable[[], None], seconds: float) -> None:
        """A measurement takes about `seconds`, or what the fewest passes take; with 0 none is due, and one that is
        asked for takes as short as it can.
        """
        self._costs, self._events, self._on_costs, self._seconds = costs, events, on_costs, seconds
        self._in_hand: Request | None = None
        self._share = 0.0
        self._asked: tuple[MeasureTraining, asyncio.Future[None]] | None = None
        self._not_before_s: dict[tuple[str, int], float] = {}

    @property
    def in_hand(self) -> Request | None:
        """What the worker measures now."""
        return self._in_hand

    @property
    def on_request(self) -> bool:
        """Whether somebody waits for what is measured now."""
        return self._asked is not None and self._asked[0] is self._in_hand

    @property
    def phase(self) -> str:
        """What is measured and how far, in words."""
        what = "importance" if isinstance(self._in_hand, MeasureImportance) else "costs"
        return f"measuring {what}, {self._share * 100:.0f} %"

    @property
    def asked(self) -> MeasureTraining | None:
        """What somebody waits for, and is not in hand."""
        return None if self._asked is None or self.on_request else self._asked[0]

    def ask(self, base: str, sides: Iterable[int], threads: int) -> asyncio.Future[None]:
        """Have a base measured at the next moment between two slices; done when it is.

        Who asks while something is asked for waits for that, where it is the same; else UnavailableError is raised.
        """
        wanted = MeasureTraining(
            base=base, resolutions=tuple(sorted(set(sides))), seconds=self._seconds, threads=threads
        )
        if self._asked is not None:
            if self._asked[0] == wanted:
                return self._asked[1]
            raise UnavailableError(
                f"The training costs of {self._asked[0].base} are being measured.",
                retry_after_s=max(5.0, self._seconds),
            )
        future = asyncio.get_running_loop().create_future()
        self._asked = wanted, future
        return future

    def due(self, base: str, sides: Iterable[int], threads: int) -> MeasureTraining | None:
        """What has to be measured before `base` trains at `sides` with `threads`; None where it is known."""
        if self._seconds == 0 or time.monotonic() < self._not_before_s.get((base, threads), 0.0):
            return None
        missing = self._costs.to_measure(base, threads, sides)
        if not missing:
            return None
        return MeasureTraining(base=base, resolutions=missing, seconds=self._seconds, threads=threads)

    def due_importance(self, resolution: int, threads: int) -> MeasureImportance | None:
        """What has to be computed before a job trains in the order sparse; None shortly after it failed."""
        if time.monotonic() < self._not_before_s.get(IMPORTANCE, 0.0):
            return None
        return MeasureImportance(resolution=resolution, threads=threads)

    def begin(self, request: Request) -> None:
        """The worker has been sent `request`."""
        self._in_hand, self._share = request, 0.0

    def take(self, message: Message) -> bool:
        """Whether a message of the worker was about measuring; then it has been seen to."""
        match message:
            case TrainingMeasuring():
                self._share = message.share
            case TrainingMeasured():
                self._measured(message)
            case JobOutlined() if message.facts.importance:
                self._end(None)
                return False  # what it says is for who keeps the job's facts
            case MeasuringEnded():
                self._ended(message)
            case _:
                return False
        return True

    def refuse(self, error: PatchdError) -> None:
        """What was asked for cannot be measured."""
        if self._asked is not None:
            self._in_hand = self._asked[0]
        self._end(error)

    def lost(self) -> None:
        """The worker is gone, and with it what it measured."""
        self._end(WorkerCrashedError("The training worker died while it measured.", retry_after_s=2.0))

    def _measured(self, message: TrainingMeasured) -> None:
        costs = message.measured.costs
        try:
            self._costs.put(message.measured)
        except StateError as error:
            self._failed(str(error), error)
            return
        sides = ", ".join(str(at.resolution) for at in costs.at)
        threads = f"{costs.threads} thread" + ("s" if costs.threads > 1 else "")
        self._events.emit(
            "training.measured",
            f"Measured what training {costs.base} costs at {sides} px with {threads} in {message.seconds:.0f} s.",
            base=costs.base,
            threads=costs.threads,
            seconds=round(message.seconds, 1),
        )
        self._end(None)
        self._on_costs()

    def _ended(self, message: MeasuringEnded) -> None:
        if message.message is not None:
            self._failed(message.message, UnavailableError(f"Measuring failed: {message.message}"))
        else:  # told to yield: it is due again, and what was asked for is still waited for
            self._in_hand = None

    def _failed(self, why: str, error: PatchdError) -> None:
        request = self._in_hand
        if isinstance(request, MeasureTraining):
            self._not_before_s[request.base, request.threads] = time.monotonic() + AGAIN_AFTER_S
            text = f"What training {request.base} costs could not be measured, plans follow what is known: {why}"
            self._events.emit("training.unmeasured", text, level="warning", base=request.base)
        elif request is not None:
            self._not_before_s[IMPORTANCE] = time.monotonic() + AGAIN_AFTER_S
            text = f"Which tensors matter could not be computed, plans follow the order patch_first: {why}"
            self._events.emit("training.unmeasured", text, level="warning")
        self._end(error)

    def _end(self, error: PatchdError | None) -> None:
        if self._asked is not None and self.on_request:
            _, future = self._asked
            self._asked = None
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
        self._in_hand = None
