"""What the daemon has in hand, in words: as long as there is something, the device is looked at often."""

from __future__ import annotations

from .calibration_service import CalibrationService
from .deciding import DecisionService
from .events import EventLog
from .inference_service import InferenceService
from .training_service import TrainingService


class WorkInHand:
    """Asked once a turn."""

    def __init__(
        self,
        deciding: DecisionService,
        inference: InferenceService,
        training: TrainingService,
        calibration: CalibrationService,
        events: EventLog,
    ) -> None:
        self._deciding, self._inference, self._training = deciding, inference, training
        self._calibration, self._events = calibration, events

    def __call__(self) -> str | None:
        """The first thing in hand; None while there is nothing."""
        if (trace := self._deciding.trace_state().name) is not None:
            return f"the trace {trace} plays"
        if self._inference.worker.at_work:
            return "the inference worker is at work"
        if self._training.at_work:
            return "training is at work"
        if self._calibration.worker_pid is not None:
            return "a cascade is being calibrated"
        return "a client follows the events" if self._events.followed else None
