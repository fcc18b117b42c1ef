"""What a rung says on images: computed once, at its own resolution, in pieces, and kept in the job's directory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ...policies.errors import NotFoundError, PatchMismatchError, TrainingError
from ...policies.task import Preprocessing
from ...policies.teaching import RungInForce
from ...policies.training_costs import EVALUATION_BATCH
from ..bases import Base
from ..datasets import Sample, pixels
from ..patched import PatchedNetwork
from ..patches import Patch, load_patch
from .inputs import network_inputs
from .kept import Kept

LOGITS = "logits"


def patch_of(rung: RungInForce, base: Base) -> Patch | None:
    """The patch of a rung; None where it is the base as it is. Raises TrainingError when it is gone or damaged."""
    if rung.file is None:
        return None
    try:
        return load_patch(Path(rung.file), base)
    except (NotFoundError, PatchMismatchError) as error:
        raise TrainingError(
            f"The patch of the {rung.resolution} px rung, from which this job learns, cannot be used: {error}",
            hint="Submit again: the job will learn from what is in force then.",
        ) from error


class RungAnswers:
    """Logits of one rung on a list of images. Nothing else may be bound to the base while they are computed."""

    def __init__(
        self, base: Base, rung: RungInForce, samples: Sequence[Sample], preprocessing: Preprocessing, directory: Path
    ) -> None:
        """Go on from what `directory` holds of these very answers."""
        self.rung = rung
        self._base, self._samples, self._preprocessing = base, samples, preprocessing
        names = hashlib.sha256("\n".join(sample.name for sample in samples).encode()).hexdigest()
        patch = "base" if rung.file is None else Path(rung.file).stem
        which = (base.hash, patch, str(rung.resolution), preprocessing.model_dump_json(), names)
        self._kept = Kept(directory, "answers", " ".join(which))
        found = self._kept.load()
        self._pieces: list[Tensor] = [] if found is None else [found[1][LOGITS]]
        self._done = self._saved = 0 if found is None else found[0]

    @property
    def complete(self) -> bool:
        """Whether every image has its answer."""
        return self._done >= len(self._samples)

    @property
    def logits(self) -> Tensor:
        """float32 [N, C], once `complete`."""
        if len(self._pieces) > 1:
            self._pieces = [torch.cat(self._pieces)]
        return self._pieces[0]

    def run(self, should_end: Callable[[], bool], at_once: int = EVALUATION_BATCH) -> bool:
        """Answer what is left, so many images `at_once`, in one pass at least; False when told to end before the last.

        Raises DataSetError naming an image that cannot be read, TrainingError when the rung's patch is gone.
        """
        if self.complete:
            return True
        patch = patch_of(self.rung, self._base)
        with PatchedNetwork(self._base).patched(patch) as network, torch.no_grad():
            while not self.complete:
                batch = self._samples[self._done : self._done + at_once]
                images = pixels(batch, self.rung.resolution, self._preprocessing)
                self._pieces.append(network(network_inputs(images, self._preprocessing, self._base.memory_format)))
                self._done += len(batch)
                if not self.complete and should_end():
                    return False
        return True

    def save(self) -> None:
        """Keep on the disk what there is so far. Raises StateError."""
        if self._done > self._saved:
            self._kept.save(self._done, {LOGITS: self.logits})
            self._saved = self._done
