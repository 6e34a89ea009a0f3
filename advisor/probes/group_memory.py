"""What the kernel tells at any moment of memory: kills for lack of it, and how near a limit a process's groups are.

Standard library only: the supervisor of a deployment loads this file without the package. For planning, ``cgroup``
reads the same groups through a recordable source. Sources: cgroup v2 ``memory.events``, ``memory.current`` and
``memory.stat``; v1 ``memory.oom_control``, ``memory.usage_in_bytes`` and ``memory.stat``; ``/proc/meminfo``;
``oom_kill`` of ``/proc/vmstat``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
ROOT: Final = Path("/sys/fs/cgroup")
# Version 1 writes "no limit" as the largest page-aligned number.
_UNLIMITED: Final = 1 << 50
# The kernel's flag of a process that has begun to end (include/linux/sched.h).
_PF_EXITING: Final = 0x4


class Group(NamedTuple):
    """A memory group: version of its hierarchy, and its folder."""

    version: int
    folder: Path


class Level(NamedTuple):
    """Memory in use of a limit, in bytes; page cache that the kernel would give back first is not counted."""

    where: str
    used: int
    limit: int

    @property
    def share(self) -> float:
        """Used by limit."""
        return self.used / self.limit if self.limit > 0 else 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    word = _text(path).strip()
    return int(word) if word.isdigit() else None


def _counter(path: Path, name: str) -> int | None:
    for line in _text(path).splitlines():
        key, _, value = line.replace(":", " ").partition(" ")
        if key == name and value.split() and value.split()[0].isdigit():
            return int(value.split()[0])
    return None


def _ending(folder: Path) -> bool:
    """Whether a process has begun to end, or has ended and was not waited for (``/proc/PID/stat``: state and flags)."""
    words = _text(folder / "stat").rpartition(")")[2].split()
    if len(words) < 7:
        return False
    return words[0] in "ZX" or (words[6].isdigit() and bool(int(words[6]) & _PF_EXITING))


def groups(
    pid: int | None = None, *, proc: Path = PROC, root: Path = ROOT, controller: str = "memory"
) -> tuple[Group, ...]:
    """The groups of a process (of this one without ``pid``) that ``controller`` counts in, each with all above it, own
    group first.

    Where the own path is not mounted, as in a container, the top of the mount is its own group. A process that is
    ending has none: of version 1 the kernel then shows the top, whatever it lived in.
    """
    found: list[Group] = []
    folder = proc / (str(pid) if pid is not None else "self")
    lines = _text(folder / "cgroup").splitlines()
    if _ending(folder):
        return ()
    for line in lines:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            version, mounts = 2, (root, root / "unified")
        elif controller in controllers.split(","):
            version, mounts = 1, (root / controller, root / controllers)
        else:
            continue
        parts = [p for p in path.split("/") if p]
        for mount in mounts:
            marker = "cgroup.procs"
            if ".." in parts or not (mount / marker).exists():
                continue
            own = mount.joinpath(*parts)
            depth = len(parts) if (own / marker).exists() else 0
            found += [Group(version, mount.joinpath(*parts[:n])) for n in range(depth, -1, -1)]
            break
    return tuple(found)


def _kills(group: Group) -> int | None:
    return _counter(group.folder / ("memory.events" if group.version == 2 else "memory.oom_control"), "oom_kill")


class Kills:
    """Counts kills for memory from its making on, of a process that may be moved from group to group.

    Of the process's own group where that counts, else of the whole machine.
    """

    def __init__(self, pid: int | None = None, *, proc: Path = PROC, root: Path = ROOT) -> None:
        self._proc, self._root = proc, root
        self._first: dict[Path, int] = {}
        self._machine = _counter(proc / "vmstat", "oom_kill") or 0
        self.look(pid)

    def look(self, pid: int | None) -> None:
        """Learn of the groups that the process is in now."""
        own = {g.version: g for g in reversed(groups(pid, proc=self._proc, root=self._root))}
        for group in own.values():
            count = _kills(group)
            if count is not None:
                self._first.setdefault(group.folder, count)

    @property
    def countable(self) -> bool:
        """Whether the kernel counts such kills at all, so that none counted means none."""
        return bool(self._first) or _counter(self._proc / "vmstat", "oom_kill") is not None

    def since(self) -> int:
        """Kills since then."""
        told = 0
        for folder, first in self._first.items():
            version = 2 if (folder / "memory.events").exists() else 1
            told += max(0, (_kills(Group(version, folder)) or first) - first)
        if told or self._first:
            return told
        return max(0, (_counter(self._proc / "vmstat", "oom_kill") or 0) - self._machine)


def _level(group: Group) -> Level | None:
    if group.version == 2:
        limit, used = _number(group.folder / "memory.max"), _number(group.folder / "memory.current")
        cache = _counter(group.folder / "memory.stat", "inactive_file")
        name = "cgroup v2 memory.max"
    else:
        limit, used = _number(group.folder / "memory.limit_in_bytes"), _number(group.folder / "memory.usage_in_bytes")
        cache = _counter(group.folder / "memory.stat", "total_inactive_file")
        name = "cgroup v1 memory.limit_in_bytes"
    if limit is None or used is None or limit >= _UNLIMITED:
        return None
    return Level(name, max(0, used - (cache or 0)), limit)


def tightest_group(pid: int | None = None, *, proc: Path = PROC, root: Path = ROOT) -> Level | None:
    """The group of a process, or above it, that has the least left; ``None`` without any limit."""
    return tightest(groups(pid, proc=proc, root=root))


def tightest(known: tuple[Group, ...]) -> Level | None:
    """Of these groups the one that has the least left now; ``None`` without any limit."""
    found = [level for g in known if (level := _level(g)) is not None]
    return min(found, key=lambda level: level.limit - level.used, default=None)


def host(*, proc: Path = PROC) -> Level | None:
    """The whole host's memory: all of it but what is available without swapping."""
    whole, there = _counter(proc / "meminfo", "MemTotal"), _counter(proc / "meminfo", "MemAvailable")
    if whole is None or there is None:
        return None
    return Level("the host's memory", (whole - there) * 1024, whole * 1024)


def nearest(pid: int | None = None, *, proc: Path = PROC, root: Path = ROOT) -> Level | None:
    """Of the host and the process's groups the one of which the largest share is used."""
    levels = [x for x in (tightest_group(pid, proc=proc, root=root), host(proc=proc)) if x is not None]
    return max(levels, key=lambda level: level.share, default=None)
