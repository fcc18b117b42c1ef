"""The detector and what goes with it: boxes, loss, sifting, average precision; and its backbone under a patch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patchd.models.bases import Base, fingerprint
from patchd.models.detection import (
    Boxes,
    Targets,
    decode,
    detect,
    encode,
    iou,
    match,
    mean_average_precision,
    nms,
    ssd_loss,
)
from patchd.models.networks import MobileNetV2, SSDLite
from patchd.models.networks.ssdlite import default_boxes
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import make_kinds
from patchd.policies.task import PatchKind
from torch import Tensor, nn

SIDE = 64
CLASSES = 2

share = st.floats(0, 1, width=32)


@st.composite
def boxes(draw: st.DrawFn, least: int = 1, most: int = 12) -> Tensor:
    """Boxes [N, 4] inside the picture, none thinner than a hundredth of it."""
    count = draw(st.integers(least, most))
    corners = torch.tensor(draw(st.lists(st.tuples(share, share), min_size=count, max_size=count))).view(-1, 2) * 0.9
    sizes = torch.tensor(draw(st.lists(st.tuples(share, share), min_size=count, max_size=count))).view(-1, 2)
    return torch.cat([corners, corners + 0.01 + sizes * (0.99 - corners)], -1)


def objects(*corners: tuple[float, float, float, float], classes: list[int] | None = None) -> Boxes:
    count = len(corners)
    labels = torch.tensor(classes or [0] * count, dtype=torch.int64)
    return Boxes(torch.tensor(corners).view(-1, 4), labels, torch.ones(count))


def small(classes: int = CLASSES) -> SSDLite:
    torch.manual_seed(0)
    return SSDLite(MobileNetV2(0.25, 0.5, 10), classes, SIDE)


# --- boxes ---------------------------------------------------------------------------------------------------------


@given(boxes(), st.integers(0, 2**31))
@settings(deadline=None)
def test_coded_boxes_come_back(truth: Tensor, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    defaults = default_boxes(4, 0.2, 0.4)
    chosen = defaults[torch.randint(len(defaults), (len(truth),), generator=generator)]
    assert torch.allclose(decode(encode(truth, chosen), chosen), truth, atol=1e-4)
    assert torch.allclose(decode(torch.zeros(len(truth), 4), chosen), chosen, atol=1e-6)


@given(boxes(), boxes())
@settings(deadline=None)
def test_overlap_is_a_share_alike_from_both_sides_and_one_with_itself(one: Tensor, other: Tensor) -> None:
    overlap = iou(one, other)
    assert overlap.shape == (len(one), len(other))
    assert bool(((overlap >= 0) & (overlap <= 1)).all())
    assert torch.allclose(overlap, iou(other, one).T)
    assert torch.allclose(iou(one, one).diagonal(), torch.ones(len(one)), atol=1e-5)


def test_overlap_by_hand() -> None:
    one, other = torch.tensor([[0.0, 0.0, 0.4, 0.4]]), torch.tensor([[0.2, 0.2, 0.6, 0.6], [0.5, 0.5, 0.6, 0.6]])
    assert iou(one, other).tolist() == [[pytest.approx(0.04 / 0.28), 0.0]]
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [[0.0]]


@given(boxes(), st.integers(0, 2**31), st.floats(0.1, 0.9))
@settings(deadline=None)
def test_suppression_keeps_the_best_and_nothing_that_overlaps_it(found: Tensor, seed: int, threshold: float) -> None:
    scores = torch.rand(len(found), generator=torch.Generator().manual_seed(seed))
    kept = nms(found, scores, threshold)
    assert kept[0] == scores.argmax()
    assert scores[kept].tolist() == sorted(scores[kept].tolist(), reverse=True)
    among = iou(found[kept], found[kept]).fill_diagonal_(0)
    assert bool((among <= threshold).all())
    gone = sorted(set(range(len(found))) - set(kept.tolist()))
    for each in gone:  # for a reason: a better one that overlaps it
        better = kept[scores[kept] >= scores[each]]
        assert bool((iou(found[each : each + 1], found[better]) > threshold).any())
    assert torch.equal(nms(found[kept], scores[kept], threshold), torch.arange(len(kept)))


def test_suppression_of_nothing_is_nothing() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0)).tolist() == []


def test_default_boxes_stand_centred_at_every_place_row_by_row() -> None:
    found = default_boxes(2, 0.2, 0.8).view(4, 4, 4)
    centres = (found[..., :2] + found[..., 2:]) / 2
    expected = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
    assert torch.allclose(centres, expected[:, None].expand(-1, 4, -1))
    sizes = found[0, :, 2:] - found[0, :, :2]
    assert torch.allclose(sizes.prod(-1), torch.tensor([0.04, 0.04, 0.04, 0.16]))
    assert sizes[1].tolist() == [pytest.approx(2 * float(sizes[1, 1])), pytest.approx(float(sizes[1, 1]))]


# --- matching and loss ---------------------------------------------------------------------------------------------


@given(boxes(most=4))
@settings(deadline=None)
def test_every_object_has_a_default_box_of_its_own_and_no_box_answers_for_a_far_one(truth: Tensor) -> None:
    defaults = torch.cat([default_boxes(8, 0.16, 0.26), default_boxes(4, 0.26, 0.4), default_boxes(2, 0.4, 0.58)])
    targets = match(Boxes(truth, torch.arange(len(truth)), torch.ones(len(truth))), defaults)
    taken = targets.classes > 0
    overlaps = iou(defaults, truth)
    best = set(overlaps.argmax(0).tolist())
    if len(best) == len(truth):  # else two objects want one box
        assert set(targets.classes[taken].tolist()) == set(range(1, len(truth) + 1))
    for place in torch.nonzero(taken)[:, 0].tolist():
        assert place in best or float(overlaps[place].max()) >= 0.5
    meant = decode(targets.offsets[taken], defaults[taken])
    assert torch.allclose(meant, truth[targets.classes[taken] - 1], atol=1e-4)


def test_an_empty_picture_asks_for_background_everywhere() -> None:
    targets = match(objects(), small().defaults)
    assert not targets.classes.any()
    assert not targets.offsets.any()


def test_the_loss_counts_three_of_the_hardest_negatives_for_each_positive() -> None:
    logits, offsets = torch.zeros(1, 10, 2), torch.zeros(1, 10, 4)
    logits[0, 1:6, 1] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])  # sure of an object where there is none
    classes = torch.tensor([[1, *[0] * 9]])
    wanted = torch.zeros(1, 10, 4)
    wanted[0, 0] = 2.0
    loss = ssd_loss(logits, offsets, Targets(classes, wanted))
    right = nn.functional.cross_entropy(logits[0, :4], classes[0, :4], reduction="sum")  # the positive and three more
    assert loss == pytest.approx(float(right) + 4 * 1.5)  # smooth L1 at a distance of 2


def test_the_loss_of_a_picture_without_objects_is_finite_and_falls_to_zero() -> None:
    targets = Targets(torch.zeros(1, 8, dtype=torch.int64), torch.zeros(1, 8, 4))
    sure = torch.tensor([30.0, -30.0]).expand(1, 8, 2)
    assert 0 < ssd_loss(torch.zeros(1, 8, 2), torch.zeros(1, 8, 4), targets) < 10
    assert ssd_loss(sure, torch.zeros(1, 8, 4), targets) == pytest.approx(0, abs=1e-6)


# --- the detector --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 96])
def test_answers_have_one_row_for_each_default_box(side: int) -> None:
    detector = SSDLite(MobileNetV2(0.25, 0.5, 10), CLASSES, side).eval()
    count = 4 * sum((side // stride) ** 2 for stride in (8, 16, 32))
    logits, offsets = detector(torch.zeros(2, 3, side, side))
    assert detector.defaults.shape == (count, 4)
    assert logits.shape == (2, count, 1 + CLASSES)
    assert offsets.shape == (2, count, 4)


def test_the_last_map_is_the_one_that_the_classifier_pools() -> None:
    detector = small().eval()
    x = torch.randn(2, 3, SIDE, SIDE)
    maps = detector.maps(x)
    assert [m.shape[-1] for m in maps] == [SIDE // 8, SIDE // 16, SIDE // 32]
    assert torch.allclose(maps[-1].mean((2, 3)), detector.backbone.features(x), atol=1e-5)


def two_pictures() -> tuple[Tensor, list[Boxes]]:
    """Grey pictures with a bright square of class 0 and a dark one of class 1."""
    pictures = torch.full((2, 3, SIDE, SIDE), 0.0)
    pictures[0, :, 8:24, 8:24], pictures[0, :, 36:60, 30:54] = 1.0, -1.0
    pictures[1, :, 20:40, 40:60] = -1.0
    first = objects((8 / 64, 8 / 64, 24 / 64, 24 / 64), (30 / 64, 36 / 64, 54 / 64, 60 / 64), classes=[0, 1])
    return pictures, [first, objects((40 / 64, 20 / 64, 60 / 64, 40 / 64), classes=[1])]


def test_the_loss_falls_and_two_pictures_are_learned_by_heart() -> None:
    detector, (pictures, truth) = small(), two_pictures()
    matched = [match(each, detector.defaults) for each in truth]
    targets = Targets(torch.stack([m.classes for m in matched]), torch.stack([m.offsets for m in matched]))
    optimiser = torch.optim.Adam(detector.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        logits, offsets = detector(pictures)
        loss = ssd_loss(logits, offsets, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
    # With the batch's own statistics, as in training: the running ones lag behind forty steps.
    assert mean_average_precision(detect(detector, pictures), truth) > 0.9


# --- average precision ---------------------------------------------------------------------------------------------


@given(st.lists(boxes(), min_size=1, max_size=4), st.integers(0, 2**31))
@settings(deadline=None)
def test_the_truth_itself_scores_one_and_nothing_scores_zero(pictures: list[Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth = []
    for found in pictures:
        apart = found[nms(found, torch.rand(len(found), generator=generator), 0.3)]
        labels = torch.randint(3, (len(apart),), generator=generator)
        truth.append(Boxes(apart, labels, torch.rand(len(apart), generator=generator)))
    assert mean_average_precision(truth, truth) == pytest.approx(1.0)
    assert mean_average_precision([objects() for _ in truth], truth) == 0.0
    elsewhere = [Boxes(each.boxes, each.classes + 3, each.scores) for each in truth]
    assert mean_average_precision(elsewhere, truth) == 0.0


def test_average_precision_by_hand() -> None:
    truth = [objects((0, 0, 0.2, 0.2), (0.5, 0.5, 0.9, 0.9))]
    seen = torch.tensor([[0, 0, 0.2, 0.2], [0, 0, 0.2, 0.21], [0.5, 0.5, 0.9, 0.9]])
    found = [Boxes(seen, torch.zeros(3, dtype=torch.int64), torch.tensor([0.9, 0.8, 0.7]))]
    # right, a second box on the same object, right: precision 1 at recall 1/2, 2/3 at recall 1
    assert mean_average_precision(found, truth) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_without_objects_is_refused() -> None:
    with pytest.raises(ValueError, match="no object"):
        mean_average_precision([objects()], [objects()])


# --- from detector to classifier -----------------------------------------------------------------------------------


def test_a_patch_makes_the_backbone_a_classifier_and_its_removal_gives_the_detector_back_bit_for_bit() -> None:
    detector = small().eval()
    pictures, _ = two_pictures()
    before = fingerprint(detector)
    base = Base("ssdlite-backbone", detector.backbone, SIDE)
    expected = detector(pictures)
    kinds = make_kinds((PatchKind.SCALE_BIAS, PatchKind.HEAD), {})
    start = {name: tensor for kind in kinds for name, tensor in kind.start(base.network, 3).items()}
    learned = {name for kind in kinds for name in kind.trainable(base.network)}
    tensors = {name: nn.Parameter(tensor, requires_grad=name in learned) for name, tensor in start.items()}
    patched = PatchedNetwork(base)
    patched.bind(tensors, kinds)
    optimiser = torch.optim.Adam([tensor for tensor in tensors.values() if tensor.requires_grad], 1e-2)
    losses = []
    for _ in range(3):
        loss = nn.functional.cross_entropy(patched.network(pictures), torch.tensor([0, 2]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert patched.network(pictures).shape == (2, 3)
    assert not torch.equal(detector(pictures)[0], expected[0])  # they share the network
    patched.remove()
    assert fingerprint(detector) == before
    assert all(torch.equal(now, then) for now, then in zip(detector(pictures), expected, strict=True))
