"""Limits of control groups: both versions, nested, seen from inside and outside of containers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advisor.probes import cgroup
from advisor.probes.cpu import granted
from advisor.probes.memory import read_memory
from advisor.probes.sanity import Notes
from tests.unit.probes.fake import GIB, FakeSource

V2 = "29 22 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
TOP = "/sys/fs/cgroup"


def v1(controller: str, root: str = "/", point: str | None = None) -> str:
    return f"31 22 0:9 {root} {point or f'{TOP}/{controller}'} rw - cgroup cgroup rw,{controller}\n"


def memory(files: dict[str, str]) -> tuple[int | None, int | None]:
    source = FakeSource(files)
    found = read_memory(source, source.platform(), Notes())
    return found.limit_bytes, found.available_bytes


def cores(files: dict[str, str], affinity: tuple[int, ...] | None = tuple(range(4))) -> float:
    source = FakeSource(files, affinity=affinity)
    return granted(source, source.platform(), Notes(), logical=4)


def test_no_groups_at_all() -> None:
    assert memory({}) == (None, 6 * GIB)
    assert cores({}) == 4.0


def test_page_cache_does_not_count_as_used() -> None:
    files = {
        "/proc/self/cgroup": "0::/a\n",
        "/proc/self/mountinfo": V2,
        f"{TOP}/a/memory.max": str(4 * GIB),
        f"{TOP}/a/memory.current": str(4 * GIB),
        f"{TOP}/a/memory.stat": f"anon {GIB}\ninactive_file {3 * GIB}\n",
    }
    assert memory(files) == (4 * GIB, 3 * GIB)
    files[f"{TOP}/a/memory.stat"] = "inactive_file 0\n"
    assert memory(files) == (4 * GIB, 0)


def test_the_tightest_limit_above_wins_even_if_the_own_group_has_none() -> None:
    files = {
        "/proc/self/cgroup": "0::/a/b/c\n",
        "/proc/self/mountinfo": V2,
        f"{TOP}/a/b/c/memory.max": "max\n",
        f"{TOP}/a/b/memory.max": str(3 * GIB),
        f"{TOP}/a/memory.high": str(2 * GIB),
    }
    assert memory(files) == (2 * GIB, 2 * GIB)


def test_each_level_is_judged_by_its_own_charge() -> None:
    """The group above has the larger limit, but less is left of it, because of what its other groups use."""
    files = {
        "/proc/self/cgroup": "0::/a/b\n",
        "/proc/self/mountinfo": V2,
        f"{TOP}/a/b/memory.max": str(2 * GIB),
        f"{TOP}/a/b/memory.current": str(GIB // 2),
        f"{TOP}/a/memory.max": str(4 * GIB),
        f"{TOP}/a/memory.current": str(3 * GIB + GIB // 2),
    }
    assert memory(files) == (2 * GIB, GIB // 2)


def test_a_limit_at_or_above_the_memory_of_the_machine_is_none() -> None:
    files = {"/proc/self/cgroup": "0::/a\n", "/proc/self/mountinfo": V2, f"{TOP}/a/memory.max": str(8 * GIB)}
    assert memory(files) == (None, 6 * GIB)


@pytest.mark.parametrize("huge", ["9223372036854771712", "9223372036854775807", "18446744073709551615"])
def test_the_huge_number_of_version_1_is_no_limit(huge: str) -> None:
    files = {
        "/proc/self/cgroup": "4:memory:/x\n0::/\n",
        "/proc/self/mountinfo": v1("memory"),
        f"{TOP}/memory/x/memory.limit_in_bytes": huge,
        f"{TOP}/memory/x/memory.stat": f"hierarchical_memory_limit {huge}\n",
    }
    assert memory(files) == (None, 6 * GIB)


def test_version_1_in_a_container_whose_mount_starts_at_its_own_group() -> None:
    files = {
        "/proc/self/cgroup": "4:memory:/docker/x\n",
        "/proc/self/mountinfo": v1("memory", root="/docker/x"),
        f"{TOP}/memory/memory.limit_in_bytes": str(GIB),
        f"{TOP}/memory/memory.usage_in_bytes": str(GIB),
        f"{TOP}/memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
    }
    assert memory(files) == (GIB, GIB // 4)


def test_version_1_limit_above_what_is_mounted() -> None:
    files = {
        "/proc/self/cgroup": "4:memory:/docker/x\n",
        "/proc/self/mountinfo": v1("memory", root="/docker/x"),
        f"{TOP}/memory/memory.limit_in_bytes": "9223372036854771712",
        f"{TOP}/memory/memory.usage_in_bytes": str(GIB),
        f"{TOP}/memory/memory.stat": f"hierarchical_memory_limit {3 * GIB}\n",
    }
    assert memory(files) == (3 * GIB, 2 * GIB)


def test_hybrid_mounts_use_the_controller_where_it_is() -> None:
    files = {
        "/proc/self/cgroup": "4:memory:/x\n0::/y\n",
        "/proc/self/mountinfo": v1("memory") + "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        f"{TOP}/memory/x/memory.limit_in_bytes": str(5 * GIB),
    }
    assert memory(files) == (5 * GIB, 5 * GIB)


def test_a_path_outside_of_the_namespace_falls_back_to_the_top_of_the_mount() -> None:
    files = {"/proc/self/cgroup": "0::/../../x\n", "/proc/self/mountinfo": V2, f"{TOP}/memory.max": str(GIB)}
    assert memory(files) == (GIB, GIB)


def test_blanks_in_mount_points_are_unescaped() -> None:
    (mount,) = cgroup.mounts("1 2 0:3 / /my\\040groups rw - cgroup2 none rw\n")
    assert mount.point == "/my groups"


def test_colons_in_a_group_name() -> None:
    assert cgroup.own_paths("0::/a:b/c\n") == {"": ("a:b", "c")}


def test_quota_of_one_and_a_half_cpus_above_the_own_group() -> None:
    files = {
        "/proc/self/cgroup": "0::/a/b\n",
        "/proc/self/mountinfo": V2,
        f"{TOP}/a/b/cpu.max": "max 100000\n",
        f"{TOP}/a/cpu.max": "150000 100000\n",
    }
    assert cores(files) == 1.5


def test_version_1_quota() -> None:
    files = {
        "/proc/self/cgroup": "4:cpu,cpuacct:/x\n",
        "/proc/self/mountinfo": v1("cpu,cpuacct"),
        f"{TOP}/cpu,cpuacct/x/cpu.cfs_quota_us": "50000\n",
        f"{TOP}/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
    }
    assert cores(files) == 0.5
    assert cores(files | {f"{TOP}/cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n"}) == 4.0


def test_affinity_and_cpuset_together() -> None:
    files = {
        "/proc/self/cgroup": "0::/a\n",
        "/proc/self/mountinfo": V2,
        f"{TOP}/a/cpuset.cpus.effective": "2-7\n",
    }
    assert cores(files, (0, 1, 2)) == 1.0
    assert cores(files, (0,)) == 1.0
    assert cores({}, (3,)) == 1.0
    assert cores({}, None) == 4.0


@settings(deadline=None)
@given(st.text(max_size=400))
def test_malformed_lines_never_raise(text: str) -> None:
    for mount in cgroup.mounts(text):
        assert mount.point.startswith("/") or mount.point == ""
    for parts in cgroup.own_paths(text).values():
        assert "" not in parts


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "..", "kubepods.slice"]), max_size=100), st.integers(0, 4))
def test_the_way_up_starts_at_the_own_group_and_ends_at_the_mount(path: list[str], cut: int) -> None:
    root = "/" + "/".join(path[:cut])
    source = FakeSource(
        {
            "/proc/self/cgroup": "0::/" + "/".join(path) + "\n",
            "/proc/self/mountinfo": f"1 2 0:3 {root} /cg rw - cgroup2 none rw\n",
        }
    )
    (chain,) = cgroup.walk(source).v2
    assert chain[-1] == "/cg"
    assert len(chain) <= 65
    assert all(upper == lower.rsplit("/", 1)[0] for lower, upper in pairwise(chain))
    assert not any(".." in folder.split("/") for folder in chain)
