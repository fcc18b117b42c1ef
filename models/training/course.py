"""The course of a rung: where it stands, its losses and validation scores, and when it goes back or ends.

Pure bookkeeping, kept in the checkpoint, so that a resumed run judges as an uninterrupted one does.

*Divergence*: each of the last `WINDOW` losses is over `DIVERGED` times the least mean that any window of them had, and
over what guessing loses (ln C). The second bound lets a network that has learned its images by heart stumble.
*Early stopping*: after `patience` epochs without a better validation score than the best before.
"""

from __future__ import annotations

import math

from pydantic import Field

from ...policies.snapshot import Frozen
from ...policies.task import Evaluation

WINDOW = 16  # steps: one unlucky batch, or the first ones after a plan lets more train, make no divergence
DIVERGED = 3.0
RETRY_RATE = 0.1  # of the learning rates, after going back


class CurvePoint(Frozen):
    """One epoch: its mean loss, and the score on the validation part after it."""

    epoch: int = Field(ge=1)
    step: int
    loss: float
    validation: Evaluation


class Course(Frozen):
    """Where a rung stands. Every change makes a new one."""

    step: int = Field(0, ge=0, description="steps done")
    rate: float = Field(1.0, description="factor on the learning rates; RETRY_RATE after going back")
    went_back: int = Field(0, description="times that it went back to the last good epoch")
    loss: float | None = Field(None, description="of the last step")
    recent: tuple[float, ...] = Field((), description="losses of the last steps, at most WINDOW")
    least_mean: float | None = Field(None, description="least mean loss of any full window")
    epoch_loss: float = Field(0.0, description="sum of the losses of the epoch in hand")
    curve: tuple[CurvePoint, ...] = Field((), description="one point for each epoch done")

    def after_step(self, loss: float) -> Course:
        """After a step whose mean loss was `loss`."""
        recent = (*self.recent, loss)[-WINDOW:]
        mean = math.fsum(recent) / WINDOW if len(recent) == WINDOW else None
        means = [value for value in (self.least_mean, mean) if value is not None]
        return self.model_copy(
            update={
                "step": self.step + 1,
                "loss": loss,
                "recent": recent,
                "least_mean": min(means, default=None),
                "epoch_loss": self.epoch_loss + loss,
            }
        )

    def diverges(self, classes: int) -> bool:
        """Whether the losses have gone astray, on a task of so many classes."""
        if len(self.recent) < WINDOW or self.least_mean is None:
            return False
        bound = max(DIVERGED * self.least_mean, math.log(classes))
        return all(loss > bound for loss in self.recent)

    def after_epoch(self, validation: Evaluation, per_epoch: int) -> Course:
        """After an epoch of `per_epoch` steps that scored `validation`."""
        point = CurvePoint(
            epoch=len(self.curve) + 1, step=self.step, loss=self.epoch_loss / max(1, per_epoch), validation=validation
        )
        return self.model_copy(update={"curve": (*self.curve, point), "epoch_loss": 0.0})

    def back(self, per_epoch: int) -> Course:
        """At the end of the last good epoch again, with lower rates."""
        return Course(step=len(self.curve) * per_epoch, rate=RETRY_RATE, went_back=self.went_back + 1, curve=self.curve)

    @property
    def best(self) -> CurvePoint | None:
        """The epoch with the best validation score; the first of equals."""
        return max(self.curve, key=lambda point: point.validation.accuracy, default=None)

    def ends(self, epochs: int, patience: int | None) -> bool:
        """Whether the rung's last epoch is done: the last of `epochs`, or one after `patience` without gain."""
        best = self.best
        if best is None:
            return False
        return len(self.curve) >= epochs or (patience is not None and len(self.curve) - best.epoch >= patience)
