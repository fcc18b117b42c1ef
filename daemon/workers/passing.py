"""A request on its way through the worker: ready for a run, then answered or on to its cascade's next stage."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...models.cascades.features import read_logits, score
from ...models.engine import Engine
from ...models.patches.patch import Patch
from ...policies.batching import Waiting, release_s
from ...policies.cascade import AcceptRule, RuleKind
from ...policies.cascade_choice import in_time
from .inputs import Prepared
from .protocol import InferRequest, InferResult, Passage, RungRef, StageRef, Timing

NO_TIME = Timing(decode_ms=0.0, preprocess_ms=0.0, bind_ms=0.0, network_ms=0.0)


@dataclass(frozen=True, slots=True)
class Answered:
    """The outcome of one run for one image: what was said, how sure that is, and all the time it took so far."""

    rung: RungRef
    probabilities: Tensor  # [classes]
    answer: int
    confidence: float
    accepted: bool
    engine: str
    batch: int
    timing: Timing


@dataclass(frozen=True, slots=True)
class Ready:
    """A request that only lacks its run: the network input, the patch, and the milliseconds it took to get that.

    `earlier` holds what the stages before this one said; a request without a cascade has one stage.
    """

    request: InferRequest
    prepared: Prepared
    patch: Patch | None
    engine: Engine
    arrived_s: float
    bind_ms: float
    earlier: tuple[Answered, ...] = ()

    def waiting(self, identity: int) -> Waiting:
        """What the choice of a batch needs to know. A further stage is given up while the answer in hand is in time."""
        request, rung, stage = self.request, self.prepared.rung, self.stage
        delay_s, cost_s = request.batch_delay_ms / 1e3, request.cost_ms / 1e3
        expires_s = request.expires_s
        if expires_s is not None and stage is not None and self.earlier:
            expires_s -= stage.cost_ms / 1e3
        return Waiting(
            id=identity,
            group=f"{rung.base} {rung.resolution}",
            client=request.client,
            arrived_s=self.arrived_s,
            priority=request.priority,
            release_s=release_s(self.arrived_s, delay_s, request.expires_s, cost_s),
            expires_s=expires_s,
        )

    @property
    def stage(self) -> StageRef | None:
        """The stage that is to run; None outside of a cascade."""
        return self.request.stages[len(self.earlier)] if self.prepared.in_cascade else None

    @property
    def next_stage(self) -> StageRef | None:
        """The stage after this one, where there is one."""
        after = len(self.earlier) + 1
        return self.request.stages[after] if self.stage is not None and after < len(self.request.stages) else None

    def answered(self, logits: Tensor, engine: str, batch: int, bind_ms: float, network_ms: float) -> Answered:
        """What a run's `logits` [classes] say. Its time is added to that of the stages before."""
        probabilities = logits.softmax(0)
        answer, confidence, accepted = int(probabilities.argmax()), float(probabilities.max()), True
        if self.stage is not None and self.stage.rule.kind is not RuleKind.ALWAYS:
            confidence = self._score(self.stage.rule, logits)
            accepted = confidence >= self.stage.rule.threshold
        before = (
            self.earlier[-1].timing if self.earlier else Timing(decode_ms=0, preprocess_ms=0, bind_ms=0, network_ms=0)
        )
        return Answered(
            rung=self.prepared.rung,
            probabilities=probabilities,
            answer=answer,
            confidence=confidence,
            accepted=accepted,
            engine=engine,
            batch=batch,
            timing=Timing(
                decode_ms=before.decode_ms + self.prepared.decode_ms,
                preprocess_ms=before.preprocess_ms + self.prepared.preprocess_ms,
                bind_ms=before.bind_ms + self.bind_ms + bind_ms,
                network_ms=before.network_ms + network_ms,
            ),
        )

    def _score(self, rule: AcceptRule, logits: Tensor) -> float:
        answers, features = read_logits(logits.unsqueeze(0))
        other = None if rule.earlier is None else np.array([self.earlier[rule.earlier].answer], np.int32)
        return float(score(rule, features, answers, other)[0])

    def goes_on(self, said: Answered) -> bool:
        """Whether the next stage is to run: this one is not sure, and there is time."""
        following = self.next_stage
        if said.accepted or following is None:
            return False
        return in_time(following.cost_ms, time.monotonic(), self.request.expires_s)

    def result(self, said: Answered) -> InferResult:
        """The answer to the request after its last run."""
        late = not said.accepted and self.next_stage is not None
        return self._result(said, len(self.earlier), late)

    def in_hand(self) -> InferResult:
        """The answer of the stage before, where there is no time for this one."""
        return self._result(self.earlier[-1], len(self.earlier) - 1, True)

    def _result(self, said: Answered, stage: int, late: bool) -> InferResult:
        best = said.probabilities.topk(max(1, min(self.request.top_k, len(said.probabilities))))
        in_cascade = self.stage is not None
        return InferResult(
            id=self.request.id,
            indices=tuple(best.indices.tolist()),
            probabilities=tuple(best.values.tolist()),
            timing=said.timing,
            engine=said.engine,
            resolution=said.rung.resolution,
            batch=said.batch,
            image_size=self.prepared.image_size,
            passage=Passage(stage=stage, confidence=said.confidence, late=late) if in_cascade else None,
        )
