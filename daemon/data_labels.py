"""The labels of a data set, found without decoding an image and without torch: the control plane needs only these."""

from __future__ import annotations

from pathlib import Path

from ..policies.errors import DataSetError

DIGITS = "sklearn:digits"


def labels_of(data: str) -> tuple[str, ...]:
    """The class names of 'sklearn:digits' or of a directory of train/CLASS/*, in sorted order.

    Raises DataSetError naming the directory and what is missing in it.
    """
    if data == DIGITS:
        return tuple("0123456789")
    if data.startswith("sklearn:"):
        raise DataSetError(f"There is no built-in data set '{data}'.", hint=f"Use {DIGITS} or a directory.")
    train = Path(data) / "train"
    try:
        classes = sorted(entry.name for entry in train.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataSetError(
            f"The data set {data} cannot be read: {train}: {error.strerror}.",
            hint="A data set is a directory of train/CLASS/*.jpg and test/CLASS/*.jpg.",
        ) from error
    if len(classes) < 2:
        raise DataSetError(
            f"The data set {data} has {len(classes)} classes in {train}; a classifier needs at least two.",
            hint="Each class is a directory of images.",
        )
    return tuple(classes)
