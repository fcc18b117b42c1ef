"""What is in force at a rung, scored on the validation images of the one that may take its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...policies.errors import NotFoundError, PatchMismatchError
from ...policies.task import Evaluation
from ..bases import Base
from ..patched import PatchedNetwork
from ..patches import Patch, load_patch
from .inputs import PartInputs
from .results import Trained
from .scoring import Scoring, Stop

BATCH = 32


class Rival:
    """A patch file to compare with; without one, the base as it is."""

    def __init__(self, base: Base, path: Path | None) -> None:
        self.path = path
        self._base = base
        self._scoring = Scoring()

    def beside(self, trained: Trained, part: PartInputs, should_yield: Stop) -> Trained | None:
        """`trained` with the rival's; None when asked to yield before, then the next call goes on.

        Its recorded score serves where it is of the same validation images. One that cannot be loaded has no score.
        """
        if self.path is None:
            score = self._score(None, part, should_yield)
            return None if score is None else replace(trained, rival=score)
        try:
            patch = load_patch(self.path, self._base)
        except (NotFoundError, PatchMismatchError):  # removed or damaged meanwhile, or of another version of the base
            return trained
        recorded = patch.metadata.training
        if recorded is not None and recorded.validation_digest == trained.validation_digest:
            return replace(trained, rival_id=self.path.stem, rival=recorded.validation)
        score = self._score(patch, part, should_yield)
        return None if score is None else replace(trained, rival_id=self.path.stem, rival=score)

    def _score(self, patch: Patch | None, part: PartInputs, should_yield: Stop) -> Evaluation | None:
        network = PatchedNetwork(self._base)
        with network.patched(patch):
            return self._scoring.score("validation", part, network.network, BATCH, should_yield)
