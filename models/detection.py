"""Detection: boxes compared, coded and sifted, the loss of SSD, and mean average precision.

All boxes are float32 [..., 4]: left, top, right, bottom, in shares of the picture's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .networks.ssdlite import SSDLite

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2  # of the reference code: offsets then have a deviation near 1
MATCH_IOU = 0.5
NEGATIVES_PER_POSITIVE = 3
NMS_IOU = 0.45
LEAST_SCORE = 0.01
MOST_DETECTIONS = 100


@dataclass(frozen=True, slots=True)
class Boxes:
    """Objects of one picture: boxes [N, 4], classes [N] counted from 0, and scores [N], which are 1 for the truth."""

    boxes: Tensor
    classes: Tensor
    scores: Tensor

    def __len__(self) -> int:
        return len(self.boxes)


def iou(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of each of [N, 4] with each of [M, 4]: [N, M] in [0, 1]; 0 where both are empty."""
    corner = torch.maximum(one[:, None, :2], other[None, :, :2])
    far = torch.minimum(one[:, None, 2:], other[None, :, 2:])
    common = (far - corner).clamp(min=0).prod(-1)
    union = _area(one)[:, None] + _area(other)[None] - common
    return torch.where(union > 0, common / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)


def encode(boxes: Tensor, defaults: Tensor) -> Tensor:
    """Offsets [N, 4] that take `defaults` to `boxes` (Liu et al. 2016, equation 2). Boxes must not be empty."""
    centre, size = _centred(boxes)
    start, extent = _centred(defaults)
    return torch.cat([(centre - start) / extent / CENTRE_VARIANCE, torch.log(size / extent) / SIZE_VARIANCE], -1)


def decode(offsets: Tensor, defaults: Tensor) -> Tensor:
    """The boxes [..., N, 4] that offsets [..., N, 4] of `defaults` [N, 4] mean: the inverse of `encode`."""
    start, extent = _centred(defaults)
    centre = start + offsets[..., :2] * CENTRE_VARIANCE * extent
    half = extent * torch.exp(offsets[..., 2:] * SIZE_VARIANCE) / 2
    return torch.cat([centre - half, centre + half], -1)


def _centred(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def nms(boxes: Tensor, scores: Tensor, threshold: float = NMS_IOU) -> Tensor:
    """Greedy non-maximum suppression: indices [K] of the kept boxes, best score first.

    Of two boxes that overlap by more than `threshold` the one of the lower score goes, ties by index.
    """
    order = torch.argsort(scores, descending=True, stable=True)
    overlaps = iou(boxes[order], boxes[order]) > threshold
    gone = torch.zeros(len(order), dtype=torch.bool)
    kept = []
    for place in range(len(order)):
        if not gone[place]:
            kept.append(place)
            gone |= overlaps[place]
    return order[kept]


@dataclass(frozen=True, slots=True)
class Targets:
    """What default boxes should answer: classes [..., D], 0 being background, and offsets [..., D, 4]."""

    classes: Tensor
    offsets: Tensor


def match(truth: Boxes, defaults: Tensor) -> Targets:
    """Each default box takes the object it overlaps most, from an IoU of 0.5 on; each object has its best box at least.

    Liu et al. 2016, section 2.2, matching strategy.
    """
    if not len(truth):
        return Targets(torch.zeros(len(defaults), dtype=torch.int64), torch.zeros_like(defaults))
    overlaps = iou(defaults, truth.boxes)
    best, chosen = overlaps.max(1)
    taken = best >= MATCH_IOU
    for index, place in enumerate(overlaps.argmax(0).tolist()):
        chosen[place], taken[place] = index, True
    classes = torch.where(taken, truth.classes[chosen] + 1, 0)
    return Targets(classes, torch.where(taken[:, None], encode(truth.boxes[chosen], defaults), 0.0))


def ssd_loss(logits: Tensor, offsets: Tensor, targets: Targets) -> Tensor:
    """Cross entropy plus smooth L1 over the number of matched default boxes (Liu et al. 2016, equations 1 to 3).

    Of the unmatched ones only those with the largest loss count, three for each matched one of the picture (hard
    negative mining). Logits are [N, D, 1 + classes], offsets [N, D, 4].
    """
    positive = targets.classes > 0
    losses = F.cross_entropy(logits.flatten(0, 1), targets.classes.flatten(), reduction="none").view_as(positive)
    rank = losses.detach().masked_fill(positive, -1.0).argsort(1, descending=True).argsort(1)
    allowed = (NEGATIVES_PER_POSITIVE * positive.sum(1, keepdim=True)).clamp(min=NEGATIVES_PER_POSITIVE)
    counted = positive | (rank < allowed)
    location = F.smooth_l1_loss(offsets[positive], targets.offsets[positive], reduction="sum")
    return (losses[counted].sum() + location) / positive.sum().clamp(min=1)


def detect(detector: SSDLite, inputs: Tensor) -> list[Boxes]:
    """The objects in each picture of `inputs` [N, 3, side, side], best first. The detector's mode is the caller's."""
    with torch.inference_mode():
        logits, offsets = detector(inputs)
        probabilities, boxes = logits.softmax(-1), decode(offsets, detector.defaults).clamp(0, 1)
        return [_sifted(p[:, 1:], b) for p, b in zip(probabilities, boxes, strict=True)]


def _sifted(scores: Tensor, boxes: Tensor) -> Boxes:
    """The detections among default boxes [D, 4] with scores [D, classes]: class by class, the overlapping ones gone."""
    found = []
    for index in range(scores.shape[1]):
        likely = torch.nonzero(scores[:, index] >= LEAST_SCORE)[:, 0]
        kept = likely[nms(boxes[likely], scores[likely, index])]
        found.append((boxes[kept], torch.full((len(kept),), index), scores[kept, index]))
    parts = [torch.cat(part) for part in zip(*found, strict=True)]
    best = torch.argsort(parts[2], descending=True, stable=True)[:MOST_DETECTIONS]
    return Boxes(*(part[best] for part in parts))


def mean_average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], threshold: float = MATCH_IOU) -> float:
    """Mean over the classes in `truth` of the area under the precision-recall curve, in [0, 1].

    A detection is right when its IoU with an object of its class that no better one has taken is at least `threshold`;
    precision is made monotone before it is integrated (Pascal VOC 2010 and later). Raises ValueError for no objects.
    """
    classes = {index for boxes in truth for index in boxes.classes.tolist()}
    if not classes:
        raise ValueError("there is no object to be found")
    return sum(_average_precision(found, truth, index, threshold) for index in classes) / len(classes)


def _average_precision(found: Sequence[Boxes], truth: Sequence[Boxes], index: int, threshold: float) -> float:
    scores, right = [], []
    for seen, true in zip(found, truth, strict=True):
        own = seen.classes == index
        scores.append(seen.scores[own])
        right.append(_right(seen.boxes[own], seen.scores[own], true.boxes[true.classes == index], threshold))
    order = torch.argsort(torch.cat(scores), descending=True, stable=True)
    hits = torch.cat(right)[order].double()
    objects = sum(int((true.classes == index).sum()) for true in truth)
    precision = hits.cumsum(0) / torch.arange(1, len(hits) + 1)
    best_from_here = precision.flip(0).cummax(0).values.flip(0)
    return float((best_from_here * hits).sum()) / objects  # recall grows by 1 / objects at each hit


def _right(boxes: Tensor, scores: Tensor, objects: Tensor, threshold: float) -> Tensor:
    """Which detections of one class in one picture are right: each takes the object that it overlaps most."""
    right = torch.zeros(len(boxes), dtype=torch.bool)
    if not len(objects):
        return right
    taken: set[int] = set()
    overlaps, places = iou(boxes, objects).max(1)
    for each in torch.argsort(scores, descending=True, stable=True).tolist():
        if float(overlaps[each]) >= threshold and int(places[each]) not in taken:
            taken.add(int(places[each]))
            right[each] = True
    return right
