"""Bodies of the routes that tell why: explanations, decisions, and the requests that obeyed them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ...policies.decision import Decision
from ...policies.explain import Section, flattened
from ...policies.signal_readings import SignalReading
from ...policies.snapshot import Frozen, Snapshot
from ...policies.verdicts import RuleVerdict
from .schemas import CascadeAnswer, Form, InferTiming, PolicyState

Reason = Literal["decision", "cascade", "domain", "input", "resolution", "accuracy"]


class RequestRecord(Frozen):
    """A prediction that was answered: what it was routed to and why, and where its time went. Nothing of its content.

    `reason` is `decision` (the rung in force), `cascade` (a stage of the task's cascade), `domain` (an image that has
    a smaller rung's form), `input` (a tensor that has a rung's form), `resolution` or `accuracy` (the caller asked).
    """

    id: str
    time_s: float = Field(description="Unix time of the answer")
    task: str
    base: str
    resolution: int = Field(description="of the rung that answered, pixels")
    patch_id: str | None = None
    reason: Reason
    why: str = Field(description="the same in words, with the numbers of that moment")
    decision_id: str | None = Field(None, description="the decision in force then")
    allocation: float = Field(description="for inference, in force then")
    slowed_by: float = Field(1.0, description="how many times their calm cost predictions were taken to cost then")
    cascade: CascadeAnswer | None = Field(None, description="its way through a cascade; absent where it passed none")
    form: Form
    bytes: int = Field(description="of the input as it came")
    image_size: tuple[int, int] | None = Field(None, description="width and height of an image, pixels")
    engine: str
    batch: int = Field(1, description="images that ran together with this one, itself included")
    timing: InferTiming
    uid: int | None = Field(None, description="of the caller; absent: it came over TCP")
    pid: int | None = None


class RequestList(Frozen):
    """Predictions that were answered, newest first, and how far back the record goes."""

    requests: tuple[RequestRecord, ...]
    kept: int = Field(description="records there are, of all tasks")
    most: int = Field(description="records that are kept; the oldest go first")
    oldest_s: float | None = Field(None, description="Unix time of the oldest record")


class DecisionList(Frozen):
    decisions: tuple[Decision, ...]


class Explain(Frozen):
    """Why the daemon does what it does, or did: what was asked about, the decision, and all that it rests on."""

    asked: Literal["now", "moment", "decision", "request"]
    at_s: float | None = Field(None, description="the moment that was asked about, Unix time")
    task: str | None = Field(None, description="the explanation is of this task alone")
    as_of: str = Field(description="one sentence: of which moment the signals, rules and reasons are")
    decision: Decision | None = Field(None, description="absent where it is not stored any more")
    until_s: float | None = Field(None, description="when another decision took its place; absent: it is in force")
    snapshot: Snapshot | None = Field(None, description="what the monitor saw when it was taken")
    policy: PolicyState | None = Field(None, description="the policy in force then")
    signals: tuple[SignalReading, ...] = Field(
        (), description="every signal with value, unit, age and source, absent ones with the reason"
    )
    rules: tuple[RuleVerdict, ...] | None = Field(
        None, description="every rule of the policy, whether it matched and why not; absent where it was not kept"
    )
    request: RequestRecord | None = Field(None, description="the prediction that was asked about")
    sections: tuple[Section, ...] = Field(description="all of it in plain sentences under short headings")

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of all sections."""
        return flattened(self.sections)
