"""Limits of control groups, read from made-up hierarchies of every shape that containers have."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patchd.daemon.monitor.cgroup import Cgroup

MIB = 1024**2


class Hierarchy:
    """`put` writes below a made-up root; `read` finds the group anew, as a starting daemon does."""

    def __init__(self, root: Path, own: str, *, mount: str = "") -> None:
        self.root, self.mount = root, root / "sys" / "fs" / "cgroup" / mount
        self._write(root / "proc" / "self" / "cgroup", own)
        self.mount.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _write(file: Path, value: object) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")

    def put(self, group: str, **files: object) -> None:
        for name, value in files.items():
            stem, _, rest = name.partition("_")
            self._write(self.mount / group / f"{stem}.{rest}", value)

    def read(self) -> Cgroup:
        return Cgroup(self.root / "proc", self.root / "sys")


def cores_of(cgroup: Cgroup) -> float | None:
    quota = cgroup.cpu_quota()
    return None if quota is None else quota.cores


@pytest.fixture
def unified(tmp_path: Path) -> Hierarchy:
    made = Hierarchy(tmp_path, "0::/outer/inner")
    made.put("", cgroup_controllers="cpu memory")
    made.put("outer/inner", cpu_max="max 100000")
    return made


def test_without_any_control_group_there_is_no_limit(tmp_path: Path) -> None:
    cgroup = Cgroup(tmp_path / "proc", tmp_path / "sys")
    assert (cgroup.cpu_quota(), cgroup.memory_limit()) == (None, None)


def test_max_is_no_limit(unified: Hierarchy) -> None:
    unified.put("outer/inner", memory_max="max", memory_current=5)
    unified.put("outer", memory_max="max", memory_current=5, cpu_max="max 100000")
    assert (cores_of(unified.read()), unified.read().memory_limit()) == (None, None)


@pytest.mark.parametrize(("inner", "outer", "cores"), [("150000", "50000", 0.5), ("25000", "max", 0.25)])
def test_the_smaller_processor_quota_counts_whichever_group_has_it(
    unified: Hierarchy, inner: str, outer: str, cores: float
) -> None:
    unified.put("outer/inner", cpu_max=f"{inner} 100000")
    unified.put("outer", cpu_max=f"{outer} 100000")
    assert cores_of(unified.read()) == cores


def test_the_memory_limit_with_least_room_counts_even_where_it_is_not_the_smallest(unified: Hierarchy) -> None:
    unified.put("outer/inner", memory_max=100 * MIB, memory_current=10 * MIB)
    unified.put("outer", memory_max=200 * MIB, memory_current=195 * MIB)
    limit = unified.read().memory_limit()
    assert limit is not None
    assert (limit.limit_bytes, limit.used_bytes) == (200 * MIB, 195 * MIB)


def test_file_cache_beyond_what_is_used_does_not_make_use_negative(unified: Hierarchy) -> None:
    unified.put("outer/inner", memory_max=100, memory_current=10, memory_stat="anon 1\ninactive_file 50")
    limit = unified.read().memory_limit()
    assert limit is not None
    assert limit.used_bytes == 0


def test_a_limit_that_changes_while_the_daemon_runs_is_seen_at_the_next_reading(unified: Hierarchy) -> None:
    cgroup = unified.read()
    assert cores_of(cgroup) is None
    unified.put("outer/inner", cpu_max="75000 100000")
    assert cores_of(cgroup) == 0.75


def test_the_hosts_path_that_is_not_visible_in_a_container_means_the_visible_root(tmp_path: Path) -> None:
    made = Hierarchy(tmp_path, "0::/system.slice/docker-abc.scope")
    made.put("", cgroup_controllers="cpu memory", cpu_max="200000 100000", memory_max=7 * MIB, memory_current=MIB)
    limit = made.read().memory_limit()
    assert limit is not None
    assert (cores_of(made.read()), limit.limit_bytes) == (2.0, 7 * MIB)


def test_the_use_that_counts_is_that_of_the_group_with_the_quota(unified: Hierarchy) -> None:
    unified.put("outer/inner", cpu_stat="usage_usec 2500000\nuser_usec 1")
    unified.put("outer", cpu_stat="usage_usec 9000000", cpu_max="50000 100000")
    quota = unified.read().cpu_quota()
    assert quota is not None
    assert (quota.cores, quota.used_s) == (0.5, 9.0)
    unified.put("outer/inner", cpu_max="25000 100000")
    quota = unified.read().cpu_quota()
    assert quota is not None
    assert (quota.cores, quota.used_s) == (0.25, 2.5)


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpuacct"])
def test_version_1_tells_the_use_from_either_mount(tmp_path: Path, mount: str) -> None:
    old = Hierarchy(tmp_path, "4:cpu,cpuacct:/job", mount="cpu,cpuacct")
    old.put("job", cpu_cfs_quota_us=50_000, cpu_cfs_period_us=100_000)
    Hierarchy(tmp_path, "4:cpu,cpuacct:/job", mount=mount).put("job", cpuacct_usage=1_500_000_000)
    quota = old.read().cpu_quota()
    assert quota is not None
    assert (quota.cores, quota.used_s) == (0.5, 1.5)


def test_a_process_moved_to_another_group_is_followed_when_groups_are_looked_for_again(unified: Hierarchy) -> None:
    cgroup = unified.read()
    unified.put("elsewhere", cpu_max="50000 100000")
    (unified.root / "proc" / "self" / "cgroup").write_text("0::/elsewhere\n")
    assert cgroup.cpu_quota() is None
    cgroup.discover()
    assert cores_of(cgroup) == 0.5


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_a_version_1_quota_is_found_wherever_the_controller_is_mounted(tmp_path: Path, mount: str) -> None:
    made = Hierarchy(tmp_path, "4:cpu,cpuacct:/a/b", mount=mount)
    made.put("a/b", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100_000)
    made.put("a", cpu_cfs_quota_us=30_000, cpu_cfs_period_us=100_000)
    assert cores_of(made.read()) == 0.3


@pytest.mark.parametrize("quota", ["100000 0", "100000", "", "max max max", "-5 100"])
def test_a_quota_of_no_known_form_is_no_limit(unified: Hierarchy, quota: str) -> None:
    unified.put("outer/inner", cpu_max=quota)
    assert cores_of(unified.read()) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.characters(min_codepoint=1, max_codepoint=126), max_size=60))
def test_any_ascii_text_in_the_list_of_groups_is_survived(tmp_path: Path, text: str) -> None:
    (tmp_path / "proc" / "self").mkdir(parents=True, exist_ok=True)
    (tmp_path / "sys" / "fs" / "cgroup").mkdir(parents=True, exist_ok=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(text)
    cgroup = Cgroup(tmp_path / "proc", tmp_path / "sys")
    assert (cores_of(cgroup), cgroup.memory_limit()) == (None, None)
