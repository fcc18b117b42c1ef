"""Data sets to train on: scikit-learn's digits, or a directory of train/CLASS/* and test/CLASS/*.

Three parts that never mix: train, validation (chosen from train by a fixed hash; decides what is published) and test
(only ever reported). Listing is cheap; images are decoded one by one when a rung needs them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..policies.errors import BadInputError, DataSetError
from ..policies.task import Preprocessing
from .preprocessing import decode_image, needed_side, to_input

BUILT_IN = "sklearn:"
DIGITS = f"{BUILT_IN}digits"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
VALIDATION_SHARE = 0.15
TEST_SHARE = 0.25  # of data sets that bring no test part of their own
CLASS_HINT = "Each class needs at least two training images, and the data set at least two classes."


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image: a name for messages, a loader, the index of its class, and as how many images it counts."""

    name: str
    load: Callable[[int], Image.Image]  # takes the short side that will be needed, in pixels
    label: int
    weight: int = 1


@dataclass(frozen=True, slots=True)
class DataSet:
    """The three parts of a data set and its class names in index order."""

    labels: tuple[str, ...]
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]


def open_data(data: str) -> DataSet:
    """List a data set. Raises DataSetError that names all that keeps it from being trained on."""
    found, problems = list_data(data)
    if problems:
        raise DataSetError(f"The data set {data} cannot be trained on: {'; '.join(problems)}.", hint=CLASS_HINT)
    return found


def list_data(data: str) -> tuple[DataSet, list[str]]:
    """List a data set, with a clause for each thing that keeps it from being trained on; none when it can be.

    Raises DataSetError when it cannot even be listed.
    """
    if data.startswith(BUILT_IN) and data != DIGITS:
        raise DataSetError(f"There is no data set '{data}'.", hint=f"Name {DIGITS} or a directory with train/CLASS/*.")
    if data == DIGITS:
        return _digits(), []
    found, problems = _directory(Path(data))
    return found, [*problems, *_missing(found)]


def _missing(found: DataSet) -> Iterator[str]:
    """A clause for each class that lacks images to learn from or to validate on."""
    counts = {part: Counter(sample.label for sample in getattr(found, part)) for part in ("train", "validation")}
    for index, label in enumerate(found.labels):
        train, validation = counts["train"][index], counts["validation"][index]
        if not train and not validation:
            yield f"class '{label}' has no image in train"
        elif not train:
            count = f"{validation} image{'s' if validation > 1 else ''}"
            yield f"class '{label}' has {count}, kept for validation, and none to learn from"


def file_sample(path: Path, label: int) -> Sample:
    """The image in a file."""
    return Sample(str(path), _loader(path), label)


def list_images(root: Path) -> tuple[str, ...]:
    """Paths of all images below `root`, relative to it, sorted; what begins with a dot is passed over.

    Raises DataSetError when `root` cannot be read.
    """
    found: list[str] = []

    def fail(error: OSError) -> None:
        raise DataSetError(f"The images below {root} cannot be listed: {error.filename}: {error.strerror}.") from error

    for folder, folders, files in os.walk(root, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            str(Path(folder, name).relative_to(root))
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES
        ]
    return tuple(sorted(found))


def unlabelled_parts(root: Path, images: Sequence[str]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """Images below `root` to train on and to validate on, chosen as those of labelled sets are; all labels are 0."""
    train, validation = _part([file_sample(root / name, 0) for name in images], VALIDATION_SHARE)
    return tuple(train), tuple(validation)


def pixels(samples: Sequence[Sample], resolution: int, pre: Preprocessing) -> Tensor:
    """All samples preprocessed but for shift and scale: uint8 [N, R, R, 3].

    Raises DataSetError naming the first image that cannot be read.
    """
    result = torch.empty((len(samples), resolution, resolution, 3), dtype=torch.uint8)
    plain = Preprocessing(crop_fraction=pre.crop_fraction, mean=0.0, scale=1.0)
    side = needed_side(resolution, pre)
    for index, sample in enumerate(samples):
        try:
            image = sample.load(side)
        except (BadInputError, OSError) as error:
            raise DataSetError(
                f"The image {sample.name} cannot be used: {error}", hint="Remove or replace it."
            ) from error
        result[index] = to_input(image, resolution, plain).permute(1, 2, 0).to(torch.uint8)
    return result


def defect(sample: Sample) -> str | None:
    """Why an image cannot be used, by its name; None when it can."""
    try:
        sample.load(1)  # the smallest size that the decoder offers still reads the whole file
    except (BadInputError, OSError) as error:
        return f"{sample.name}: {str(error).rstrip('.')}"
    return None


def normalised(batch: Tensor, pre: Preprocessing) -> Tensor:
    """uint8 [N, R, R, 3] to the network's float32 [N, 3, R, R], channels last in memory."""
    return ((batch.to(torch.float32) - pre.mean) / pre.scale).permute(0, 3, 1, 2)


def _share(name: str) -> float:
    """A fixed number in [0, 1) for a name: the same image is always in the same part."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def _part(samples: Sequence[Sample], share: float) -> tuple[list[Sample], list[Sample]]:
    """Split off `share` of each class, at least one image, by the order of the names' hashes."""
    kept: list[Sample] = []
    apart: list[Sample] = []
    for label in sorted({sample.label for sample in samples}):
        own = sorted((s for s in samples if s.label == label), key=lambda s: _share(s.name))
        count = max(1, round(share * len(own)))
        apart += own[:count]
        kept += own[count:]
    return kept, apart


def _digits() -> DataSet:
    samples = []
    for index, row in enumerate(_digit_rows()):
        grey = (row[:64].reshape(8, 8) * (255.0 / 16.0)).round().astype(np.uint8)  # 17 levels in the original
        samples.append(Sample(f"digit {index}", _constant(grey), int(row[64])))
    rest, test = _part(samples, TEST_SHARE)
    train, validation = _part(rest, VALIDATION_SHARE)
    return DataSet(tuple("0123456789"), tuple(train), tuple(validation), tuple(test))


def _digit_rows() -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """64 grey levels of 0 to 16 and the class, a row for each digit."""
    found = find_spec("sklearn")  # looked up, not imported: it would take longer than reading its file, and 80 MB
    for folder in () if found is None else found.submodule_search_locations or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    raise DataSetError("The digits of scikit-learn are not installed.", hint="Reinstall the package scikit-learn.")


def _constant(grey: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Callable[[int], Image.Image]:
    return lambda _side: Image.fromarray(grey, "L").convert("RGB")


def _directory(root: Path) -> tuple[DataSet, list[str]]:
    """The data set, and clauses on classes that do not agree."""
    train_root, test_root = root / "train", root / "test"
    try:
        labels = tuple(sorted(p.name for p in train_root.iterdir() if p.is_dir() and not p.name.startswith(".")))
    except OSError as error:
        raise DataSetError(f"The data set {root} cannot be read: {train_root}: {error.strerror}.") from error
    problems = []
    if len(labels) < 2:
        problems.append(f"it has {len(labels)} class{'' if labels else 'es'}, and a classifier needs at least two")
    listed = _files(train_root, labels)
    if test_root.is_dir():
        strangers = {p.name for p in test_root.iterdir() if p.is_dir() and not p.name.startswith(".")} - set(labels)
        problems += [f"class '{name}' stands in test but not in train" for name in sorted(strangers)]
        test = _files(test_root, labels)
    else:
        listed, test = _part(listed, TEST_SHARE)
    train, validation = _part(listed, VALIDATION_SHARE)
    return DataSet(labels, tuple(train), tuple(validation), tuple(test)), problems


def _files(root: Path, labels: Sequence[str]) -> list[Sample]:
    return [
        file_sample(path, index)
        for index, label in enumerate(labels)
        for path in sorted((root / label).glob("*"))
        if path.suffix.lower() in SUFFIXES
    ]


def _loader(path: Path) -> Callable[[int], Image.Image]:
    return lambda side: decode_image(path.read_bytes(), needed_side=side)
