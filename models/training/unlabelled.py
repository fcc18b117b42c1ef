"""The images of a job without labels: any below a directory; those that cannot be decoded are left out and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...policies.errors import DataSetError
from ...policies.task import TrainSpec
from ..datasets import defect, file_sample, list_images, unlabelled_parts
from .data import BROKEN_NAMED, TrainingData
from .inputs import subset

LEAST = 8  # images to train on


def unlabelled_data(directory: Path, images: tuple[str, ...], spec: TrainSpec, labelled: TrainingData) -> TrainingData:
    """The parts of a job: `images` below `directory` to train and validate on; the test part is that of `labelled`.

    Raises DataSetError when there are too few.
    """
    train, validation = unlabelled_parts(directory, images) if images else ((), ())
    if len(train) < LEAST or not validation:
        raise DataSetError(
            f"There are {len(images)} images below {directory} that can be used; {LEAST} are needed to train on, "
            "and one more to validate.",
            hint="Name a directory with more images.",
        )
    return TrainingData(subset(train, spec), validation, labelled.test)


class UnlabelledCheck:
    """Decodes each image once. What then is `usable` is what the job keeps to, whatever comes later."""

    def __init__(self, directory: Path) -> None:
        """List the images. Raises DataSetError when the directory cannot be read."""
        self._directory = directory
        self.listed = list_images(directory)
        self._unchecked = list(reversed(self.listed))
        self._usable: list[str] = []
        self._broken: list[str] = []

    def run(self, should_end: Callable[[], bool]) -> bool:
        """Look at what is left; False when told to end before all of it. The next call goes on from there."""
        while self._unchecked:
            if should_end():
                return False
            name = self._unchecked.pop()
            wrong = defect(file_sample(self._directory / name, 0))
            if wrong is None:
                self._usable.append(name)
            else:
                self._broken.append(wrong)
        return True

    @property
    def usable(self) -> tuple[str, ...]:
        """Paths below the directory, sorted."""
        return tuple(self._usable)

    @property
    def note(self) -> str | None:
        """How many images are left out, with the first ones by name; None when all can be used."""
        if not self._broken:
            return None
        named = "; ".join(self._broken[:BROKEN_NAMED])
        more = f"; and {len(self._broken) - BROKEN_NAMED} more" if len(self._broken) > BROKEN_NAMED else ""
        return f"{len(self._broken)} of the unlabelled images cannot be used and are left out: {named}{more}."
