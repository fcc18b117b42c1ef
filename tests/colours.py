"""A task whose rungs agree or not as one likes: three colours, told apart by heads fitted in closed form."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
import torch
from patchd.models.bases import Base, load_base
from patchd.models.patches import Patch
from patchd.models.preprocessing import to_input
from patchd.policies.task import PatchKind, PatchMetadata, Preprocessing
from PIL import Image

LABELS = ("blue", "green", "red")
SIDES = (128, 64, 32)
SIZE = 120  # pixels: nearest to the largest rung, so that no image goes to a smaller one by its form


def picture(label: int, seed: int, *, striped: bool = False) -> Image.Image:
    """One image, mostly of the label's colour. Of a striped one the rung of 128 px says the colour after it."""
    random = np.random.default_rng(seed)
    spots = random.uniform(0, 110, (8, 8, 3))
    spots[:, :, 2 - label] += random.uniform(60, 140)
    pixels = np.asarray(Image.fromarray(spots.astype(np.uint8)).resize((SIZE, SIZE)), np.uint8).copy()
    if striped:
        pixels[:, (np.arange(SIZE) // 12) % 2 == 0] = 0
    return Image.fromarray(pixels)


@cache
def unsure(count: int) -> list[bytes]:
    """PNG files' bytes of which neither the rung of 64 px nor that of 32 px is sure: as much blue as red."""
    images = []
    for seed in range(48):
        one, other = (np.asarray(picture(label, seed), np.uint16) for label in (0, 2))
        images.append(Image.fromarray(((one + other) // 2).astype(np.uint8)))
    margins = torch.zeros(len(images))
    for side in SIDES[1:]:
        head = patch(side).tensors
        logits = _features(load_base("lite0"), images, side) @ head["classifier.weight"].T + head["classifier.bias"]
        first, second = logits.softmax(1).topk(2).values.T
        margins = margins.maximum(first - second)
    return [_png(images[int(i)]) for i in margins.argsort()[:count]]


def encoded(label: int, seed: int, *, striped: bool = False) -> bytes:
    """The same as a PNG file's bytes."""
    return _png(picture(label, seed, striped=striped))


def data_set(folder: Path, test: int) -> Path:
    """A data set with `test` images to each class and barely any to train on."""
    for part, first, count in (("train", 0, 4), ("test", 1000, test)):
        for label, name in enumerate(LABELS):
            (folder / part / name).mkdir(parents=True)
            for i in range(first, first + count):
                (folder / part / name / f"{i}.png").write_bytes(encoded(label, 3 * i + label))
    return folder


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@cache
def patch(side: int, seed: int = 0) -> Patch:
    """The head for one rung of `lite0`; another seed fits another one."""
    base = load_base("lite0")
    given = [(label, 100_000 * (seed + 1) + 3 * i + label, striped) for i in range(8)
             for label in range(3) for striped in (False, True)]  # fmt: skip
    features = _features(base, [picture(label, at, striped=striped) for label, at, striped in given], side)
    wanted = [(label + (striped and side == SIDES[0])) % 3 for label, _, striped in given]
    weight, bias = _fitted(features, torch.tensor(wanted))
    metadata = PatchMetadata(
        base=base.name, base_hash=base.hash, task="colours", labels=LABELS, kinds=(PatchKind.HEAD,), resolution=side,
        preprocessing=Preprocessing(), parameters=3843, base_parameters=base.parameters_count, created_s=float(seed),
    )  # fmt: skip
    return Patch(metadata, {"classifier.weight": weight, "classifier.bias": bias})


def _features(base: Base, images: list[Image.Image], side: int) -> torch.Tensor:
    inputs = torch.stack([to_input(image, side, Preprocessing()) for image in images])
    with torch.inference_mode():
        return base.network.features(inputs).clone()


def _fitted(features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Ridge regression on logits of 6 for the right class and -6 else: weight [3, 1280], bias [3]."""
    mean = features.mean(0)
    centred, wanted = features - mean, 12.0 * torch.eye(3)[labels] - 6.0
    gram = centred @ centred.T
    weight = (centred.T @ torch.linalg.solve(gram + 1e-2 * gram.trace() / len(gram) * torch.eye(len(gram)),
                                             wanted - wanted.mean(0))).T  # fmt: skip
    return weight.contiguous(), wanted.mean(0) - weight @ mean
