"""Base versions: a file of what differs, put in place of the packaged base's tensors, the others shared with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from networks import SIDE, make
from patchd.models import load_base
from patchd.models.base_versions import BaseVersion, find_version, save_version
from patchd.models.bases import Base, as_version, fingerprint
from patchd.models.patched import PatchedNetwork
from patchd.models.patches import make_kinds
from patchd.policies.base_version import VersionMetadata
from patchd.policies.errors import BadInputError, NotFoundError, UnavailableError
from patchd.policies.task import PatchKind

CHANGED = "blocks.0.project.conv.weight"


@pytest.fixture
def base() -> Base:
    return Base("small", make("efficientnet_lite"), SIDE)


def version_of(base: Base, factor: float = 2.0, **changes: object) -> BaseVersion:
    changed = base.tensors[CHANGED] * factor
    other = make("efficientnet_lite")
    other.load_state_dict({**base.tensors, CHANGED: changed})
    fields = {
        "base": base.name, "base_hash": base.hash, "hash": fingerprint(other), "parent": base.name,
        "parent_hash": base.hash, "tasks": ("a", "b"), "job_id": "job-1", "parameters": changed.numel(),
        "created_s": 5.0,
    }  # fmt: skip
    return BaseVersion(VersionMetadata.model_validate({**fields, **changes}), {CHANGED: changed})


def test_a_version_is_read_as_it_was_written_and_shares_what_does_not_differ(base: Base, tmp_path: Path) -> None:
    written = version_of(base)
    name, path = save_version(written, tmp_path)
    assert name == f"small@{path.stem[:8]}"
    made = as_version(base, name, find_version(name, tmp_path))
    assert (made.name, made.hash, made.version.metadata) == (name, written.metadata.hash, written.metadata)
    assert torch.equal(made.tensors[CHANGED], written.tensors[CHANGED])
    for key, tensor in base.tensors.items():
        assert (made.tensors[key].data_ptr() == tensor.data_ptr()) == (key != CHANGED), key
    x = torch.randn(2, 3, SIDE, SIDE)
    with torch.inference_mode():
        assert not torch.equal(base.network(x), made.network(x))
    assert base.hash == fingerprint(base.network)


def test_a_version_is_the_packaged_base_with_its_tensors_though_a_patch_is_bound_meanwhile(base: Base) -> None:
    version = version_of(base)
    kinds = make_kinds((PatchKind.SCALE_BIAS, PatchKind.HEAD), {})
    tensors = {name: value for kind in kinds for name, value in kind.start(base.network, 3).items()}
    patched = PatchedNetwork(base)
    patched.bind({name: value + 1 for name, value in tensors.items()}, kinds)
    assert as_version(base, "small@00000000", version).hash == version.metadata.hash


def test_a_version_of_another_base_or_with_a_strange_tensor_is_refused(base: Base) -> None:
    with pytest.raises(UnavailableError, match="does not fit the packaged base 'small'"):
        as_version(base, "small@00000000", version_of(base, base_hash="0" * 64))
    with pytest.raises(UnavailableError, match="does not fit"):
        as_version(base, "small@00000000", version_of(base, hash="0" * 64))
    good = version_of(base)
    for tensors in ({"strange": torch.ones(1)}, {CHANGED: torch.ones(3)}):
        with pytest.raises(UnavailableError, match="does not fit"):
            as_version(base, "small@00000000", BaseVersion(good.metadata, tensors))


def test_a_damaged_or_missing_version_is_told_by_name(base: Base, tmp_path: Path) -> None:
    name, path = save_version(version_of(base), tmp_path)
    with pytest.raises(NotFoundError, match="no base version 'small@00000000'"):
        find_version("small@00000000", tmp_path)
    with pytest.raises(NotFoundError):
        find_version(name, None)
    with pytest.raises(BadInputError, match="no name of a base version"):
        load_base("lite0@../../x")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UnavailableError, match=f"'{name}' cannot be used: its bytes do not match"):
        find_version(name, tmp_path)
