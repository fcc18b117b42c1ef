"""Cascades: cheap rungs first, dearer ones only where the cheap ones are not sure (Streeter, ICML 2018).

The records that calibrating makes, the state keeps and the inference worker follows, and the pure choice of how much
of a cascade an allocation affords.
"""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import PurePath

from pydantic import Field, field_validator

from .snapshot import Frozen


class RungId(Frozen):
    """A rung of a task: which base, at which side of the square input in pixels, under which patch."""

    base: str
    resolution: int = Field(gt=0)
    patch_id: str | None = Field(None, description="sha256 of the patch file; None is the base as it is")

    def __str__(self) -> str:
        return f"{self.base} at {self.resolution} px"


class RuleKind(StrEnum):
    """How a stage decides whether it is sure. A rule's score is compared with its threshold."""

    CONFIDENCE = "confidence"  # learned probability of being right, from a few features of the logits
    MARGIN = "margin"  # first probability minus the second one
    AGREEMENT = "agreement"  # the same answer as an earlier stage's; the score is this stage's margin
    ALWAYS = "always"  # the last stage


class AcceptRule(Frozen):
    """When a stage's answer is taken: where the score is at least `threshold`."""

    kind: RuleKind
    threshold: float = 0.0
    weights: tuple[float, ...] = Field(
        (), description="confidence: intercept, then a weight for each feature; the score is the logistic function"
    )
    earlier: int | None = Field(None, ge=0, description="agreement: index of the stage whose answer must be the same")


class Stage(Frozen):
    """One stage of a cascade, with what calibrating found for it."""

    rung: RungId
    rule: AcceptRule
    cost_ms: float = Field(ge=0, description="what an input pays that comes this far, beyond the stages before")
    share: float = Field(ge=0, le=1, description="of the certifying inputs, those that this stage answers")


class Basis(StrEnum):
    """What a promise counts as a loss."""

    LABELS = "labels"  # right answers lost against the reference, those won subtracted
    AGREEMENT = "agreement"  # answers that differ from the reference's


class Promise(Frozen):
    """With probability at least 1 - delta over the certifying sample, the mean loss is at most epsilon.

    Learn-then-Test (Angelopoulos et al. 2021): the sample is apart from the one that the search used.
    """

    basis: Basis
    epsilon: float = Field(gt=0, lt=1, description="share of inputs")
    delta: float = Field(gt=0, lt=1)
    samples: int = Field(ge=0, description="certifying inputs")
    missing: int = Field(0, ge=0, description="inputs that are lacking before anything could be promised")
    loss: float = Field(0.0, ge=-1, le=1, description="observed on the certifying inputs, by the basis")
    disagreement: float = Field(0.0, ge=0, le=1, description="observed share of answers unlike the reference's")
    p_value: float = Field(1.0, ge=0, le=1, description="of the hypothesis that the loss exceeds epsilon")
    holds: bool = Field(description="whether the p-value is at most delta")


LEAST_SEARCH = 100  # inputs without which no search is worth its name


def needed(epsilon: float, delta: float) -> int:
    """The certifying inputs that a cascade without any loss needs: the least n with (1 - epsilon)^n <= delta.

    Raises ValueError unless epsilon and delta lie in (0, 1).
    """
    check_promise(epsilon, delta)
    n = math.ceil(math.log(delta) / math.log1p(-epsilon))
    return n if (1 - epsilon) ** n <= delta else n + 1


def missing(inputs: int, epsilon: float, delta: float) -> int:
    """How many more inputs a table of `inputs` needs before its certifying part can promise anything."""
    least = needed(epsilon, delta)
    return max(0, min(2 * least, least + LEAST_SEARCH) - inputs)


def check_promise(epsilon: float, delta: float) -> None:
    """Raise ValueError unless both lie in (0, 1)."""
    if not (0 < epsilon < 1 and 0 < delta < 1):
        raise ValueError(f"epsilon {epsilon} and delta {delta} must lie between 0 and 1")


class Price(Frozen):
    """The measured cost of one image at one resolution of one base, milliseconds."""

    base: str
    resolution: int = Field(gt=0)
    prepare_ms: float = Field(ge=0, description="resize and normalise")
    network_ms: float = Field(ge=0)


class CalibrationImage(Frozen):
    """An image to calibrate on: its file, and the index of its class where that is known."""

    file: str = Field(description="absolute path, readable by the daemon")
    label: int | None = Field(None, ge=0)

    @field_validator("file")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not PurePath(value).is_absolute():
            raise ValueError(f"{value} is not an absolute path.")
        return value


class Row(Frozen):
    """What all rungs of a task said on one input, of which nothing else is kept."""

    answers: tuple[int, ...] = Field(description="class indices")
    features: tuple[tuple[float, ...], ...] = Field(description="of each rung's logits")


class CascadePoint(Frozen):
    """A cascade that the search weighed, on the inputs that it used."""

    stages: tuple[str, ...] = Field(min_length=1, description="in words")
    cost_ms: float = Field(ge=0)
    loss: float = Field(ge=-1, le=1)
    disagreement: float = Field(ge=0, le=1)
    frontier: bool = Field(False, description="whether nothing cheaper loses as little")
    chosen: bool = False


class Cascade(Frozen):
    """A task's cascade. One that promises nothing has the reference as its only stage."""

    stages: tuple[Stage, ...] = Field(min_length=1)
    reference: RungId
    promise: Promise
    cost_ms: float = Field(ge=0, description="expected for an input, decoding, resizing and dispatch included")
    reference_cost_ms: float = Field(ge=0, description="the same of the reference alone")
    search_samples: int = Field(ge=0)
    made_s: float

    @property
    def rungs(self) -> tuple[RungId, ...]:
        """The rungs of the stages, in their order."""
        return tuple(stage.rung for stage in self.stages)
