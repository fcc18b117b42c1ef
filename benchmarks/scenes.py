"""Scenes of several digits for a detector, and pictures of one digit for a classifier, from scikit-learn's digits.

Everything follows from seeds. Half of the digits' images, class by class, make all training pictures and the other
half all test pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from patchd.models.detection import Boxes
from PIL import Image, ImageDraw
from torch import Tensor

TRIES = 20
INK_SHARE = 0.3  # of full ink: a digit's box holds whatever is darker
Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Digits:
    """Images [N, 8, 8] of digits, ink from 0 to 1, and which digits they are [N]."""

    images: Pixels
    labels: npt.NDArray[np.int64]

    def only(self, labels: Sequence[int]) -> Digits:
        """Those of these digits."""
        return self._chosen(np.isin(self.labels, labels))

    def apart(self, one_in: int) -> tuple[Digits, Digits]:
        """All but one in so many, and the others."""
        others = np.arange(len(self.labels)) % one_in == 0
        return self._chosen(~others), self._chosen(others)

    def times(self, count: int) -> Digits:
        """Each of them so many times."""
        return self._chosen(np.repeat(np.arange(len(self.labels)), count))

    def _chosen(self, index: npt.NDArray[Any]) -> Digits:
        return Digits(self.images[index], self.labels[index])


def digits() -> tuple[Digits, Digits]:
    """The halves for training and for testing."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    everything = Digits((bunch.images / 16.0).astype(np.float32), bunch.target.astype(np.int64))
    order = np.random.default_rng(0).permutation(len(everything.labels))
    by_class = order[np.argsort(everything.labels[order], kind="stable")]
    return tuple(Digits(everything.images[half], everything.labels[half]) for half in (by_class[::2], by_class[1::2]))  # type: ignore[return-value]


@dataclass(frozen=True)
class Scenes:
    """Pictures uint8 [N, side, side, 3], and what is to be found in each."""

    pictures: Tensor
    truth: tuple[Boxes, ...]


def compose_scenes(source: Digits, count: int, side: int, sizes: tuple[int, int], most: int, seed: int) -> Scenes:
    """`count` scenes of 1 to `most` digits of `sizes` pixels (least, largest) that do not overlap.

    A scene depends on its own number and `seed` alone. Boxes are those of the ink.
    """
    pictures = torch.empty((count, side, side, 3), dtype=torch.uint8)
    truth = []
    for index in range(count):
        rng = np.random.default_rng((seed, index))
        picture, boxes, labels = background(rng, side), [], []
        squares: list[tuple[int, int, int]] = []
        for _ in range(rng.integers(1, most + 1)):
            square = _free_square(rng, side, sizes, squares)
            if square is None:
                break
            squares.append(square)
            chosen = rng.integers(len(source.labels))
            boxes.append(_paste(rng, picture, source.images[chosen], square))
            labels.append(int(source.labels[chosen]))
        pictures[index] = _to_bytes(picture)
        truth.append(Boxes(torch.tensor(boxes) / side, torch.tensor(labels), torch.ones(len(labels))))
    return Scenes(pictures, tuple(truth))


def compose_pictures(source: Digits, side: int, sizes: tuple[int, int], seed: int) -> Tensor:
    """A picture of each digit alone, somewhere on a background like those of the scenes: uint8 [N, side, side, 3]."""
    pictures = torch.empty((len(source.labels), side, side, 3), dtype=torch.uint8)
    for index, image in enumerate(source.images):
        rng = np.random.default_rng((seed, index))
        picture = background(rng, side)
        square = _free_square(rng, side, sizes, ())
        assert square is not None
        _paste(rng, picture, image, square)
        pictures[index] = _to_bytes(picture)
    return pictures


def background(rng: np.random.Generator, side: int) -> Pixels:
    """Smooth colours, a few strokes that are no digits, and grain: [side, side, 3] about 0 to 255."""
    cells = int(rng.integers(2, 7))
    patches = Image.fromarray(rng.integers(60, 196, (cells, cells, 3), dtype=np.uint8), "RGB")
    canvas = patches.resize((side, side), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(2, 7)):
        x, y = rng.integers(0, side, 2)
        dx, dy = rng.integers(-side // 4, side // 4 + 1, 2)
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        draw.line((x, y, x + dx, y + dy), fill=colour, width=int(rng.integers(1, 5)))
    return np.asarray(canvas, np.float32) + rng.normal(0, 10, (side, side, 3)).astype(np.float32)


def _free_square(
    rng: np.random.Generator, side: int, sizes: tuple[int, int], squares: Sequence[tuple[int, int, int]]
) -> tuple[int, int, int] | None:
    """Left, top and size of a square that touches none of `squares`; None when none was found."""
    for _ in range(TRIES):
        size = int(rng.integers(sizes[0], sizes[1] + 1))
        left, top = (int(value) for value in rng.integers(0, side - size + 1, 2))
        if all(left >= x + s or x >= left + size or top >= y + s or y >= top + size for x, y, s in squares):
            return left, top, size
    return None


def _paste(
    rng: np.random.Generator, picture: Pixels, image: Pixels, square: tuple[int, int, int]
) -> tuple[float, float, float, float]:
    """Draw a digit in an ink that is lighter or darker than what is behind it; the box of its ink, pixels."""
    left, top, size = square
    ink = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)).clip(0, 1)
    behind = picture[top : top + size, left : left + size]
    colour = behind.mean((0, 1)) + rng.choice([-1, 1]) * rng.uniform(60, 120, 3)
    behind += ink[..., None] * (colour.astype(np.float32) - behind)
    rows, columns = (np.flatnonzero((ink > INK_SHARE).any(axis)) for axis in (1, 0))
    return (
        float(left + columns[0]), float(top + rows[0]), float(left + columns[-1] + 1), float(top + rows[-1] + 1)
    )  # fmt: skip


def _to_bytes(picture: Pixels) -> Tensor:
    return torch.from_numpy(picture.round().clip(0, 255).astype(np.uint8))
