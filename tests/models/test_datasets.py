"""Data sets: parts that never mix, and clear words for what cannot be trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from patchd.daemon.data_labels import labels_of
from patchd.models.datasets import normalised, open_data, pixels
from patchd.models.preprocessing import to_input
from patchd.policies.errors import DataSetError
from patchd.policies.task import Preprocessing
from PIL import Image


def make(root: Path, part: str, label: str, count: int) -> None:
    folder = root / part / label
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (20, 16), (index * 9, 40, 90)).save(folder / f"{index}.png")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        make(tmp_path, "train", label, 12)
        make(tmp_path, "test", label, 3)
    return tmp_path


def test_the_digits_parts_are_disjoint_stratified_and_always_the_same() -> None:
    first, second = open_data("sklearn:digits"), open_data("sklearn:digits")
    names = [{sample.name for sample in part} for part in (first.train, first.validation, first.test)]
    assert sum(len(part) for part in names) == 1797
    assert len(set.union(*names)) == 1797
    assert [sample.name for sample in first.train] == [sample.name for sample in second.train]
    for part in (first.train, first.validation, first.test):
        counts = np.bincount([sample.label for sample in part], minlength=10)
        assert counts.min() > 0.8 * counts.max()


def test_the_digits_are_those_that_scikit_learn_loads() -> None:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    found = open_data("sklearn:digits")
    samples = {sample.name: sample for part in (found.train, found.validation, found.test) for sample in part}
    for index, (image, label) in enumerate(zip(loaded.images, loaded.target, strict=True)):
        sample = samples[f"digit {index}"]
        grey = np.asarray(sample.load(8))[:, :, 0]
        assert (sample.label, np.abs(grey - image * 255 / 16).max() <= 0.5) == (label, True)


def test_a_directory_keeps_its_own_test_part_and_splits_one_off_where_it_has_none(directory: Path) -> None:
    own = open_data(str(directory))
    assert (len(own.train), len(own.validation), len(own.test)) == (20, 4, 6)
    assert all("/test/" in sample.name for sample in own.test)
    for file in (directory / "test").rglob("*.png"):
        file.unlink()
    for folder in ("cat", "dog", "."):
        (directory / "test" / folder).rmdir()
    split = open_data(str(directory))
    assert len(split.test) == 6
    assert not {sample.name for sample in split.test} & {sample.name for sample in (*split.train, *split.validation)}


def test_the_control_plane_finds_the_same_labels(directory: Path) -> None:
    assert labels_of(str(directory)) == open_data(str(directory)).labels == ("cat", "dog")
    assert labels_of("sklearn:digits") == open_data("sklearn:digits").labels


def test_cached_pixels_give_the_very_input_of_the_preprocessing(directory: Path) -> None:
    pre = Preprocessing()
    samples = open_data(str(directory)).train[:3]
    batch = normalised(pixels(samples, 32, pre), pre)
    for index, sample in enumerate(samples):
        assert torch.equal(batch[index], to_input(sample.load(32), 32, pre))


def test_a_broken_image_is_named(directory: Path) -> None:
    broken = directory / "train" / "cat" / "3.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataSetError, match=str(broken)):
        pixels((*open_data(str(directory)).train, *open_data(str(directory)).validation), 32, Preprocessing())


def test_an_empty_class_is_named(directory: Path) -> None:
    (directory / "train" / "emu").mkdir()
    with pytest.raises(DataSetError, match="class 'emu'"):
        open_data(str(directory))


def test_a_class_that_stands_only_in_test_is_named(directory: Path) -> None:
    make(directory, "test", "fox", 1)
    with pytest.raises(DataSetError, match="class 'fox'"):
        open_data(str(directory))


@pytest.mark.parametrize("find", [labels_of, open_data])
def test_one_class_or_no_directory_is_refused(tmp_path: Path, find: object) -> None:
    assert callable(find)
    with pytest.raises(DataSetError, match="cannot be read"):
        find(str(tmp_path / "nowhere"))
    make(tmp_path, "train", "only", 3)
    with pytest.raises(DataSetError, match="1 class"):
        find(str(tmp_path))
