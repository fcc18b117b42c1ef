"""Real inputs that are always at hand: crops of the two photographs that scikit-learn carries."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..policies.task import Preprocessing
from .preprocessing import decode_image, to_input

FILES = ("china.jpg", "flower.jpg")
SHARES = (0.3, 1.0)  # of a photograph's short side, smallest and largest crop


@cache
def _photographs() -> tuple[Image.Image, ...]:
    found = find_spec("sklearn")  # looked up, not imported: it would take a second and 30 MB
    folders = () if found is None else tuple(found.submodule_search_locations or ())
    paths = [Path(folder, "datasets", "images", name) for folder in folders for name in FILES]
    return tuple(decode_image(path.read_bytes()) for path in paths)


def crops(count: int, side: int, seed: int = 0) -> Tensor:
    """`count` square crops of any place and size as inputs, float32 [count, 3, side, side]; equal for equal seeds."""
    random = np.random.default_rng(seed)
    pictures = _photographs()
    inputs = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        edge = round(float(random.uniform(*SHARES)) * min(picture.size))
        left, top = (int(random.integers(length - edge + 1)) for length in picture.size)
        inputs.append(to_input(picture.crop((left, top, left + edge, top + edge)), side, Preprocessing()))
    return torch.stack(inputs)
