"""Audits: a few answered images, run through further rungs while there is nothing else to do."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from ...models.cascades.features import read_logits
from ...policies.errors import PatchdError
from .channel import Channel
from .inputs import Prepared, prepare_further
from .library import Library
from .passing import Answered, Ready
from .protocol import Audited, Note

MOST = 32  # images kept for it, decoded: under a steady stream of requests the oldest is dropped


@dataclass(slots=True)
class _Audit:
    """An image with the answer it got, and what the rungs have said so far."""

    ready: Ready
    prepared: Prepared
    given: int
    answers: list[int] = field(default_factory=list)
    features: list[tuple[float, ...]] = field(default_factory=list)


class Audits:
    """Kept in the order of their coming; one rung is run at a time, so that a request waits for one run at most."""

    def __init__(self, library: Library, channel: Channel) -> None:
        self._library, self._channel = library, channel
        self._kept: deque[_Audit] = deque(maxlen=MOST)

    def add(self, ready: Ready, said: Answered) -> None:
        """Keep an answered image whose request asks for an audit."""
        if ready.request.audit and ready.prepared.image is not None:
            self._kept.append(_Audit(ready, ready.prepared, said.answer))

    @property
    def due(self) -> bool:
        """Whether there is any left to run."""
        return bool(self._kept)

    def run_one(self) -> None:
        """Run one rung of the oldest audit; tell what all of them said after the last. One that fails is dropped."""
        audit = self._kept[0]
        rung = audit.ready.request.audit[len(audit.answers)]
        try:
            _, engine = self._library.base(rung.base)
            patch = self._library.patch(rung)
            audit.prepared = prepare_further(audit.prepared, rung)
            engine.use_threads(audit.ready.request.threads)
            logits = engine.run(audit.prepared.inputs.unsqueeze(0), patch).logits
        except (PatchdError, RuntimeError, OSError) as error:  # a patch that has been removed since, most likely
            self._kept.popleft()
            self._channel.send(
                Note(kind="audit.dropped", message=f"An audit of task '{rung.task}' was dropped: {error}")
            )
            return
        answers, features = read_logits(logits)
        audit.answers.append(int(answers[0]))
        audit.features.append(tuple(map(float, features[0])))
        if len(audit.answers) == len(audit.ready.request.audit):
            self._kept.popleft()
            self._channel.send(
                Audited(
                    id=audit.ready.request.id,
                    given=audit.given,
                    answers=tuple(audit.answers),
                    features=tuple(audit.features),
                )
            )
