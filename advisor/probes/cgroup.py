"""What control groups, version 1, 2 or both at once, grant to this process: memory, CPU time, CPUs.

A limit may sit on the process's own group or on any group above it, so the whole way up is read, as far as the mounts
show it. Sources: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/{memory,cpusets}.rst,
Documentation/scheduler/sched-bwc.rst, proc_pid_mountinfo(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from advisor.probes.source import Source

# Version 1 writes "no limit" as the largest page-aligned number; so does anything beyond a pebibyte in effect.
UNLIMITED_FROM: Final = 1 << 50
_MAX_DEPTH: Final = 64
_MAX_MOUNTS: Final = 64


class Mount(NamedTuple):
    """One cgroup file system: version, the controllers it carries (version 1), its root within the hierarchy."""

    version: int
    controllers: frozenset[str]
    root: tuple[str, ...]
    point: str


class Groups(NamedTuple):
    """For each controller of version 1, and for ``""`` (version 2): the folders of the own group and of those above it,
    own group first, one tuple a mount."""

    v1: dict[str, list[tuple[str, ...]]]
    v2: list[tuple[str, ...]]


class Limit(NamedTuple):
    """A memory limit with what is charged against it; ``levels_up`` is 0 for the own group."""

    limit: int
    used: int | None
    source: str


class Quota(NamedTuple):
    """CPU time a period, as a number of CPUs."""

    cpus: float
    source: str


def mounts(text: str) -> list[Mount]:
    """The cgroup mounts of ``/proc/self/mountinfo``; malformed lines are left out."""
    found: list[Mount] = []
    for line in text.split("\n"):
        before, dash, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if not dash or len(fields) < 6 or kind[0] not in ("cgroup", "cgroup2") or not fields[4].startswith("/"):
            continue
        options = frozenset(kind[2].split(",")) if len(kind) > 2 else frozenset()
        found.append(
            Mount(
                version=2 if kind[0] == "cgroup2" else 1,
                controllers=options,
                root=parts(_unescape(fields[3])),
                point=_unescape(fields[4]).rstrip("/"),
            )
        )
        if len(found) == _MAX_MOUNTS:
            break
    return found


def own_paths(text: str) -> dict[str, tuple[str, ...]]:
    """``/proc/self/cgroup`` as path components by controller; version 2 under ``""``."""
    paths: dict[str, tuple[str, ...]] = {}
    for line in text.split("\n"):
        fields = line.split(":", 2)
        if len(fields) == 3 and fields[0].isdecimal() and fields[2].startswith("/"):
            for controller in fields[1].split(","):
                if controller or fields[0] == "0":
                    paths.setdefault(controller, parts(fields[2]))
    return paths


def parts(path: str) -> tuple[str, ...]:
    """The components of a path; ``..`` is kept, since the kernel uses it for "outside of this namespace"."""
    return tuple(p for p in path.split("/") if p and p != ".")


def walk(source: Source) -> Groups:
    """Find the folders of the process's own groups and of all above them."""
    own = own_paths(source.text("/proc/self/cgroup") or "")
    known = mounts(source.text("/proc/self/mountinfo") or "")
    v1: dict[str, list[tuple[str, ...]]] = {}
    for controller in ("memory", "cpu", "cpuset"):
        carrying = [m for m in known if m.version == 1 and controller in m.controllers]
        v1[controller] = _folders(carrying, own.get(controller, ()))
    return Groups(v1=v1, v2=_folders([m for m in known if m.version == 2], own.get("", ())))


def _folders(carrying: list[Mount], own: tuple[str, ...]) -> list[tuple[str, ...]]:
    """One chain of folders, own group first, for each mount that shows the own group.

    In a container the mount's root is often the container's own group: the part of the own path above it is cut off.
    Where no mount shows the own path (another namespace), the top of the first mount is all that can be read.
    """
    chains: list[tuple[str, ...]] = []
    for mount in carrying:
        if ".." in own or own[: len(mount.root)] != mount.root:
            continue
        below = own[len(mount.root) :][:_MAX_DEPTH]
        chains.append(tuple("/".join((mount.point, *below[:n])) for n in range(len(below), -1, -1)))
    if not chains and carrying:
        chains.append((carrying[0].point,))
    return chains


def memory_limits(source: Source, groups: Groups) -> list[Limit]:
    """Every memory limit on the way up, with the memory charged there that cannot be dropped (page cache can)."""
    found: list[Limit] = []
    for chain in groups.v2:
        for up, folder in enumerate(chain):
            for name in ("memory.max", "memory.high"):
                limit = _bytes(source.text(f"{folder}/{name}"))
                if limit is not None:
                    found.append(Limit(limit, _used(source, folder, 2), f"cgroup v2 {name}{_level(up)}"))
    for chain in groups.v1["memory"]:
        for up, folder in enumerate(chain):
            limit = _bytes(source.text(f"{folder}/memory.limit_in_bytes"))
            if limit is not None:
                found.append(Limit(limit, _used(source, folder, 1), f"cgroup v1 memory.limit_in_bytes{_level(up)}"))
        # The kernel's own minimum over all groups above, seen from the own group even where those are not mounted.
        stat = _stat(source, chain[0])
        hierarchical = stat.get("hierarchical_memory_limit")
        if hierarchical is not None and hierarchical < UNLIMITED_FROM:
            found.append(
                Limit(hierarchical, _used(source, chain[0], 1), "cgroup v1 memory.stat hierarchical_memory_limit")
            )
    return found


def cpu_quota(source: Source, groups: Groups) -> Quota | None:
    """The tightest CPU quota on the way up."""
    found: list[Quota] = []
    for chain in groups.v2:
        for up, folder in enumerate(chain):
            words = (source.text(f"{folder}/cpu.max") or "").split()
            if len(words) == 2:
                found += _quota(words[0], words[1], f"cgroup v2 cpu.max{_level(up)}")
    for chain in groups.v1["cpu"]:
        for up, folder in enumerate(chain):
            quota = (source.text(f"{folder}/cpu.cfs_quota_us") or "").strip()
            period = (source.text(f"{folder}/cpu.cfs_period_us") or "").strip()
            found += _quota(quota, period, f"cgroup v1 cpu.cfs_quota_us{_level(up)}")
    return min(found, default=None)


def cpuset(source: Source, groups: Groups) -> str | None:
    """The CPUs of the own group in list format; the kernel has already taken the groups above into account."""
    for chain in groups.v2:
        for folder in chain:
            text = source.text(f"{folder}/cpuset.cpus.effective")
            if text and text.strip():
                return text
    for chain in groups.v1["cpuset"]:
        for folder in chain:
            text = source.text(f"{folder}/cpuset.effective_cpus") or source.text(f"{folder}/cpuset.cpus")
            if text and text.strip():
                return text
    return None


def _quota(quota: str, period: str, source: str) -> Iterator[Quota]:
    if re.fullmatch(r"\d{1,18}", quota, re.ASCII) and re.fullmatch(r"\d{1,18}", period, re.ASCII) and int(period) > 0:
        yield Quota(int(quota) / int(period), source)


def _bytes(text: str | None) -> int | None:
    """A number of bytes; ``None`` for ``max``, for the huge number of version 1, and for anything else."""
    word = (text or "").strip()
    if not re.fullmatch(r"\d{1,20}", word, re.ASCII):
        return None
    return int(word) if int(word) < UNLIMITED_FROM else None


def _stat(source: Source, folder: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in (source.text(f"{folder}/memory.stat") or "").split("\n"):
        key, _, value = line.partition(" ")
        if re.fullmatch(r"\d{1,20}", value.strip(), re.ASCII):
            found[key] = int(value)
    return found


def _used(source: Source, folder: str, version: int) -> int | None:
    """Charged memory less the inactive page cache, which the kernel gives back before it refuses anything."""
    current = _bytes(source.text(f"{folder}/{'memory.current' if version == 2 else 'memory.usage_in_bytes'}"))
    if current is None:
        return None
    stat = _stat(source, folder)
    cache = (
        stat.get("inactive_file", 0) if version == 2 else stat.get("total_inactive_file", stat.get("inactive_file", 0))
    )
    return max(0, current - cache)


def _level(up: int) -> str:
    return "" if up == 0 else f", {up} above the own group"


def _unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo (``\\040`` for a blank)."""
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), field)
