"""What a forward pass keeps is counted once for each storage, and what stays anyway is not counted."""

from __future__ import annotations

import torch
from patchd.models.training.meter import kept_bytes, tensors_of
from torch import nn


def test_each_storage_counts_once_whoever_refers_to_it() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    a = torch.zeros(2, 3)
    assert kept_bytes(lambda: x * a, ()) == a.nbytes
    assert kept_bytes(lambda: x * a + x * a[:1], ()) == a.nbytes
    assert kept_bytes(lambda: (x + 1).exp().relu_(), ()) == x.nbytes  # in place: both need the one result


def test_resident_tensors_and_what_nobody_needs_later_do_not_count() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.zeros(5, 4)
    assert kept_bytes(lambda: network(x), (*tensors_of(network), x)) == 5 * 8 * 4
    network.requires_grad_(False)
    assert kept_bytes(lambda: network(x), tensors_of(network)) == 0
