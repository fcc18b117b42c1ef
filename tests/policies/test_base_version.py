"""Names of base versions, which rungs a task may have of one, and when a version is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from patchd.policies.base_name import packaged, parse_base, version_name
from patchd.policies.base_version import MemberScore, got_worse, moved, sides_on
from patchd.policies.errors import BadInputError
from patchd.policies.task import BaseRungs, TaskSpec
from pydantic import ValidationError

SHA = "3fa9c01d" + "0" * 56
OTHERS = (BaseRungs(base="lite2", resolutions=(128, 96)),)
SPEC = TaskSpec(name="t", labels=("a", "b"), resolutions=(96, 64), others=OTHERS)


@given(st.sampled_from(("lite0", "lite1", "mine-2")), st.text("0123456789abcdef", min_size=64, max_size=64))
def test_a_versions_name_says_of_which_base_and_which_file_it_is(base: str, sha256: str) -> None:
    name = version_name(base, sha256)
    assert parse_base(name) == (base, sha256[:8])
    assert packaged(name) == packaged(base) == base
    assert parse_base(base) == (base, None)


@pytest.mark.parametrize(
    "name", ["lite0@", "lite0@123", "lite0@123456789", "lite0@GGGGGGGG", "@12345678", "../x@12345678"]
)
def test_a_name_with_an_at_sign_that_is_no_versions_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match="is no name of a base version"):
        parse_base(name)


def test_a_task_may_have_the_same_rungs_of_a_version_as_of_its_base() -> None:
    version = version_name("lite0", SHA)
    assert sides_on(SPEC, "lite0") == sides_on(SPEC, version) == (96, 64)
    assert sides_on(SPEC, version_name("lite2", SHA)) == (128, 96)
    assert sides_on(SPEC, version_name("lite1", SHA)) == ()


def test_a_task_moves_there_and_back_and_keeps_everything_else() -> None:
    own, other = version_name("lite0", SHA), version_name("lite2", SHA)
    there = moved(moved(SPEC, own), other)
    assert there.bases == {own: (96, 64), other: (128, 96)}
    assert moved(moved(there, "lite2"), "lite0") == SPEC
    with pytest.raises(BadInputError, match="no rungs of base 'lite1'"):
        moved(SPEC, version_name("lite1", SHA))


@pytest.mark.parametrize(("base", "says"), [("lite0", "task's own"), ("lite2", "named twice")])
def test_a_task_has_one_version_of_a_base_at_a_time(base: str, says: str) -> None:
    others = (*OTHERS, BaseRungs(base=version_name(base, SHA), resolutions=(64,)))
    with pytest.raises(ValidationError, match=says):
        TaskSpec(name="t", labels=("a", "b"), resolutions=(96,), others=others)


def test_a_version_is_kept_unless_a_task_is_worse_on_its_own_validation_part() -> None:
    better = MemberScore(task="a", resolution=64, made=0.9, in_force=0.8)
    equal = MemberScore(task="b", resolution=64, made=0.7, in_force=0.7)
    first = MemberScore(task="c", resolution=64, made=0.1)
    worse = MemberScore(task="d", resolution=96, made=0.5, in_force=0.6)
    assert got_worse((better, equal, first)) is None
    assert got_worse((better, worse)) == "not kept, for it makes worse on validation: d at 96 px (50.0% against 60.0%)"
