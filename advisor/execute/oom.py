"""Evidence that the kernel killed a process for lack of memory: counters that it keeps."""

from __future__ import annotations

from pathlib import Path


def _counter(path: Path, name: str) -> int:
    try:
        for line in path.read_text(encoding="ascii", errors="replace").splitlines():
            key, _, value = line.partition(" ")
            if key == name and value.strip().isdigit():
                return int(value)
    except OSError:
        return 0
    return 0


def oom_kills() -> int:
    """Processes killed so far in this cgroup, or on this machine where it keeps no count; 0 where neither is told.

    Sources: ``memory.events`` of cgroup v2, ``memory.oom_control`` of v1, ``oom_kill`` of ``/proc/vmstat``.
    """
    total = _counter(Path("/proc/vmstat"), "oom_kill")
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return total
    for line in groups:
        number, controllers, folder = [*line.split(":", 2), "", ""][:3]
        relative = folder.lstrip("/")
        if number == "0":
            total += _counter(Path("/sys/fs/cgroup") / relative / "memory.events", "oom_kill")
        elif "memory" in controllers.split(","):
            total += _counter(Path("/sys/fs/cgroup/memory") / relative / "memory.oom_control", "oom_kill")
    return total
